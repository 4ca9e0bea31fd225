"""Remembers how requests come and how engines step, and tells at leisure what that means."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vllm_console.history.base import History
from vllm_console.insight.arrivals import BIN_S, arrivals
from vllm_console.insight.batching import Bounds, Second, batching
from vllm_console.snapshot import Arrivals, Batching, Model, Quantiles
from vllm_console.telemetry.load import FINISHED, LATENCY_WINDOW_S, mean
from vllm_console.telemetry.sample import Sample
from vllm_console.telemetry.window import Window

EVERY_S = 10.0
"""How old an analysis may be."""
AT_ONCE = 2
"""Models analysed for one picture at most; the others keep what was last said of them."""
ARRIVALS_KEPT_S = 1800.0
SECONDS_KEPT = 900
"""Samples of a model's engines."""
QUEUE_KEPT = 600
"""Ticks of which the number of arrivals is known: no request is seen to wait longer."""
_SHORT_S = 3.0
"""Two samples further apart say nothing of one batch."""
_FRESH_S = 15.0
"""A worker whose newest sample is older is one of which nobody knows who comes."""
_LIMITS = ("max_num_seqs", "max_num_queued_reqs", "max_num_queued_tokens")
"""Options of fleet.toml that limit what an engine takes in."""


@dataclass(slots=True)
class _Past:
    """What is remembered of one model."""

    bins: deque[float] = field(
        default_factory=lambda: deque(maxlen=1 + round(ARRIVALS_KEPT_S / BIN_S))
    )
    """Arrivals a bin, the newest still filling; empty while no worker is sampled."""
    bin_ends: float = 0.0
    arrived: float = 0.0
    ticks: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=QUEUE_KEPT))
    """(time, arrived by then) at each tick."""
    seconds: deque[Second] = field(default_factory=lambda: deque(maxlen=SECONDS_KEPT))
    newest: dict[str, Sample] = field(default_factory=dict)
    """By worker, the sample that the next one is compared with."""
    told_at: float = float("-inf")
    arrivals: Arrivals = field(default_factory=Arrivals)
    batching: Batching = field(default_factory=Batching)
    cold_start_s: float | None = None

    def count(self, arrived: float, now: float) -> None:
        """Note that so many requests have come since the last tick."""
        if not self.bins:
            self.bins.append(0.0)
            self.bin_ends = now + BIN_S
        while now >= self.bin_ends:
            self.bins.append(0.0)
            self.bin_ends += BIN_S
        self.bins[-1] += arrived
        self.arrived += arrived
        self.ticks.append((now, self.arrived))

    def due(self, now: float) -> bool:
        """Whether to analyse again: what was said is old, or the first bin is complete."""
        first = len(self.bins) > 1 and self.arrivals.per_s is None
        return first or now - self.told_at >= EVERY_S

    def interrupt(self) -> None:
        """Note that nobody knows who comes now: what was counted is no series any more."""
        self.bins.clear()
        self.ticks.clear()


class Analysis:
    """What the insights of every model rest on: fed each tick, asked for each picture.

    `history` has the samples; `cold_start_s` tells how long a start of a model's revision takes.
    """

    def __init__(
        self,
        history: History,
        clock: Callable[[], float],
        cold_start_s: Callable[[str, int], float | None] = lambda model, revision: None,
    ) -> None:
        self._history = history
        self._clock = clock
        self._cold_start_s = cold_start_s
        self._past: dict[str, _Past] = {}

    def tick(self, workers: Mapping[str, Iterable[str]]) -> None:
        """Take in what happened since the last tick; `workers` are the ids of each model's."""
        now = self._clock()
        for name in self._past.keys() - workers.keys():
            del self._past[name]
        for name, ids in workers.items():
            past = self._past.setdefault(name, _Past())
            arrived: float | None = None
            before, past.newest = past.newest, {}
            for worker_id in ids:
                new = self._history.latest(f"worker/{worker_id}")
                if new is None or now - new.at > _FRESH_S:
                    continue
                past.newest[worker_id] = new
                old = before.get(worker_id, new)
                arrived = (arrived or 0.0) + max(0.0, _seen(new) - _seen(old))
                if (second := _second(old, new)) is not None:
                    past.seconds.append(second)
            if arrived is None:
                past.interrupt()
            else:
                past.count(arrived, now)

    def complete(self, models: Iterable[Model]) -> tuple[Model, ...]:
        """The models with what is known of their arrivals, batches and starts."""
        now = self._clock()
        analysed = 0
        out = []
        for model in models:
            past = self._past.setdefault(model.name, _Past())
            if analysed < AT_ONCE and past.due(now):
                analysed += 1
                self._analyse(past, model, now)
            oldest = oldest_waiting_s(past.ticks, model.load.waiting)
            out.append(
                replace(
                    model,
                    arrivals=replace(past.arrivals, oldest_waiting_s=oldest),
                    batching=_with_policy(past.batching, model),
                    autoscale=replace(model.autoscale, cold_start_s=past.cold_start_s),
                )
            )
        return tuple(out)

    def _analyse(self, past: _Past, model: Model, now: float) -> None:
        past.told_at = now
        past.arrivals = arrivals(list(past.bins)[:-1])
        window = self._history.window(f"model/{model.name}", LATENCY_WINDOW_S)
        past.batching = batching(list(past.seconds), _bounds(model, window))
        past.cold_start_s = self._cold_start_s(model.name, model.revision)


def oldest_waiting_s(ticks: Sequence[tuple[float, float]], waiting: int | None) -> float | None:
    """How long the first in a queue waits, if first come is first served.

    Of `arrived` requests the first that still waits was number `arrived - waiting + 1`: it came
    before the first tick that had seen so many. `None` where none waits.
    """
    if not waiting or not ticks:
        return None
    now, arrived = ticks[-1]
    came = arrived - waiting + 1
    return now - next(at for at, seen in ticks if seen >= came)


def _seen(sample: Sample) -> float:
    """Requests that have come to a worker: those that finished, run, or wait."""
    gauges = sample.gauges
    finished = sample.counters.get(FINISHED, 0.0)
    return finished + gauges.get("running", 0.0) + gauges.get("waiting", 0.0)


def _second(old: Sample, new: Sample) -> Second | None:
    """What one engine did between two samples; `None` where it was idle or they are far apart."""
    window = Window(old, new)
    running = [sample.gauges.get("running", 0.0) for sample in (old, new)]
    itl_s = mean(window, "itl_s")
    if itl_s is None or not 0 < window.seconds <= _SHORT_S or min(running) < 1:
        return None
    engines = max(1, len(new.engines))
    return Second(
        at=new.at,
        running=sum(running) / 2 / engines,
        waiting=new.gauges.get("waiting", 0.0) / engines,
        itl_s=itl_s,
        kv=new.gauges.get("kv_cache_usage"),
        preemptions=window.delta("preemptions") or 0.0,
        tokens_per_step=mean(window, "step_tokens"),
    )


def _bounds(model: Model, window: Window | None) -> Bounds:
    latency, tail = model.load.latency, 1.0
    if window is not None and (mean_s := mean(window, "itl_s")) and latency.itl_s.p95:
        tail = latency.itl_s.p95 / mean_s
    finished = model.load.requests_per_s
    return Bounds(
        max_num_seqs=model.engine.max_num_seqs,
        max_num_batched_tokens=model.engine.max_num_batched_tokens,
        max_num_queued_reqs=_whole(model, "max_num_queued_reqs"),
        slo=model.slo,
        ttft_p95_s=_sure(latency.ttft_s),
        itl_p95_s=_sure(latency.itl_s),
        itl_tail=tail,
        requests_per_s=finished / model.ready if finished and model.ready else None,
    )


def _sure(quantiles: Quantiles) -> float | None:
    """What a P95 surely is at least; `None` where too few events stand behind it."""
    if "p95" in quantiles.thin:
        return None
    return quantiles.p95_between[0] if quantiles.p95_between else quantiles.p95


def _with_policy(found: Batching, model: Model) -> Batching:
    """Which policy is active: a gateway's where it moves the limit, else what fleet.toml sets."""
    told = model.batching
    if told.policy not in ("continuous", "limited"):
        return replace(found, policy=told.policy, limit=told.limit, queue_limit=told.queue_limit)
    mine = told.policy == "limited"  # the gateway lets in no more
    limited = mine or any(name in (model.options or {}) for name in _LIMITS)
    return replace(
        found,
        policy="limited" if limited else "continuous",
        limit=told.limit if mine else model.engine.max_num_seqs,
        queue_limit=_whole(model, "max_num_queued_reqs"),
    )


def _whole(model: Model, option: str) -> int | None:
    value = (model.options or {}).get(option)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
