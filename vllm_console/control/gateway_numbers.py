"""From what the gateway counts to the history: one subject for it, each model and each key."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

import msgspec

from vllm_console.gateway.stats import KEYS, ROUND
from vllm_console.history.store import Store
from vllm_console.telemetry.grid import GRID, cumulative
from vllm_console.telemetry.names import PROCESS_START
from vllm_console.telemetry.sample import Histogram, Sample

SUBJECT = "gateway"
"""All that it counted; "gateway/model/NAME" and "gateway/key/NAME" are parts of it."""
_MODEL, _KEY = f"{SUBJECT}/model/", f"{SUBJECT}/key/"
HEARTBEAT_S = 10.0
"""A subject that counts nothing is recorded this often: it was observed, and nothing happened."""
_NEW_S = 15.0
"""A gateway that runs no longer than this is taken to have counted from zero since."""
_HISTOGRAMS = ("queue_s", "ttft_s", "tpot_s", "e2e_s")
_ENDINGS = ("stop", "length", "tool_calls", "error", "abort", "refused")
_COUNTERS = (
    "requests_finished",
    *(f"requests_finished:{ending}" for ending in _ENDINGS),
    "prompt_tokens",
    "prompt_tokens_cached",
    "generation_tokens",
)
"""Always recorded, as 0 before the first: a count that appears later has nothing to grow from."""

_log = logging.getLogger(__name__)

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Bucket = Annotated[int, msgspec.Meta(ge=0, le=len(GRID))]


class _Buckets(msgspec.Struct):
    sum: float = 0.0
    buckets: list[tuple[_Bucket, _Count]] = []


class _Subject(msgspec.Struct):
    counters: dict[str, float] = {}
    gauges: dict[str, float] = {}
    histograms: dict[str, _Buckets] = {}


class _Counted(msgspec.Struct):
    total: _Subject | None = None
    models: dict[str, _Subject] = {}
    keys: dict[str, _Subject] = {}


class GatewayNumbers:
    """Records the gateway's cumulative counts; a new process of it is told by when it started.

    numbers = GatewayNumbers(store)
    numbers.take(stats)             # at each message of `vllm_console.gateway.stats.Stats.tick`
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is that of the store's samples."""
        self._store = store
        self._clock = clock
        self._last: dict[str, Sample] = {}
        self._started: float | None = None
        self._since: float | None = None
        """From when on nothing was counted that is not known; `None` where that is not known."""
        self._heard = 0.0
        """Since when this process of the gateway tells: after a round it has told of everything."""
        self._keys: set[str] = set()
        """Keys it told of; as long as they are few, one not among them has counted nothing."""
        self._told = False

    def take(self, stats: Mapping[str, Any]) -> None:
        """Record what a message counts; one that counts nothing, or is none, changes nothing."""
        if "counted" not in stats:
            return
        try:
            counted = msgspec.convert(stats["counted"], _Counted)
            started = msgspec.convert(stats.get("started_at"), float)
            uptime = msgspec.convert(stats.get("uptime_s"), float)
        except msgspec.ValidationError as error:
            if not self._told:
                _log.warning("the gateway counts in a way that is not known: %s", error)
            self._told = True
            return
        now = self._clock()
        if started != self._started:
            self._started, self._heard = started, now
            self._last = {subject: replace(s, counters={}) for subject, s in self._last.items()}
            self._since = now - uptime if uptime < _NEW_S else None
            self._keys.clear()
        for subject, part in _subjects(counted):
            self._record(subject, _sample(part, started, now))
        self._keys.update(counted.keys)
        if now - self._heard > 2 * ROUND:
            self._since = now

    def _record(self, subject: str, sample: Sample) -> None:
        last = self._last.get(subject)
        every_key = len(self._keys) < KEYS
        new = last is None and (every_key or not subject.startswith(_KEY))
        if new and self._since is not None and self._since < sample.at:
            self._store.begin(subject, _before(sample, self._since))
        elif last is not None and _nothing_new(last, sample):
            return
        self._last[subject] = sample
        self._store.record(subject, sample)


def _nothing_new(last: Sample, sample: Sample) -> bool:
    same = (last.counters, last.gauges) == (sample.counters, sample.gauges)
    return same and sample.at - last.at < HEARTBEAT_S


def _subjects(counted: _Counted) -> Iterator[tuple[str, _Subject]]:
    if counted.total is not None:
        yield SUBJECT, counted.total
    for name, part in counted.models.items():
        yield _MODEL + name, part
    for name, part in counted.keys.items():
        yield _KEY + name, part


def _sample(part: _Subject, started: float, at: float) -> Sample:
    """A part as a sample of now, with 0 for what it has not counted yet."""
    histograms = {}
    for name in _HISTOGRAMS:
        buckets = part.histograms.get(name) or _Buckets()
        bounds, counts = cumulative(sorted(buckets.buckets))
        histograms[name] = Histogram(bounds, counts, buckets.sum)
    return Sample(
        at=at,
        counters=dict.fromkeys(_COUNTERS, 0.0) | part.counters,
        gauges={**part.gauges, PROCESS_START: started},
        histograms=histograms,
    )


def _before(sample: Sample, at: float) -> Sample:
    """The same subject before its first request."""
    return replace(
        sample,
        at=at,
        counters=dict.fromkeys(sample.counters, 0.0),
        gauges={name: v if name == PROCESS_START else 0.0 for name, v in sample.gauges.items()},
        histograms={
            name: Histogram(h.bounds, (0.0,) * len(h.counts), 0.0)
            for name, h in sample.histograms.items()
        },
    )
