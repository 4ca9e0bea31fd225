"""The last minutes of every graph: one value a snapshot, kept beside the newest snapshot."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from vllm_console.snapshot import Load, Model, Snapshot, Worker

METRICS = (
    "running",
    "waiting",
    "kv_cache_usage",
    "generation_tokens_per_s",
    "prompt_tokens_per_s",
    "requests_per_s",
    "ttft_p95_s",
)
KEPT = 600
"""Values a trend keeps: the widest graph there is shows two a cell."""
MANY = 128
FEWER = 240
"""Of so many subjects and more, each but the fleet keeps this many: two panels' width."""

_MORE = 60
"""Values more than that until the oldest are dropped, all in one go."""
_SINGLE = "f"
"""Seven digits, where three are drawn: half the memory, which is most of what many models take."""
_MISSING = math.nan
_LATE = 2.5
"""Intervals between two snapshots from which on some are missing, not just late."""


class Trends:
    """Graph values by subject ("model/NAME", "worker/ID", "fleet") and metric; newest last."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], array[float]] = {}
        self._newest: datetime | None = None

    def tail(self, subject: str, metric: str, size: int) -> list[float | None]:
        """The newest `size` values or fewer, `None` where there was no sample."""
        values = self._values.get((subject, metric))
        if values is None:
            return []
        return [None if v != v else v for v in values[-size:]]

    def recall(self, series: Mapping[str, Mapping[str, Iterable[float | None]]]) -> None:
        """Take over what the daemon remembers, where that is more than what is here.

        A daemon that has just started remembers less than a console that saw its predecessor.
        """
        for subject, metrics in series.items():
            for metric, values in metrics.items():
                told = array(_SINGLE, [_MISSING if v is None else v for v in values])
                known = next((i for i, v in enumerate(told) if v == v), len(told))
                if len(told) - known > len(self._values.get((subject, metric), ())):
                    self._values[subject, metric] = told

    def append(self, snapshot: Snapshot) -> None:
        """Add one value to every trend; subjects that are gone are forgotten."""
        subjects: dict[str, Load | Worker] = {"fleet": total(snapshot.models)}
        for model in snapshot.models:
            subjects[f"model/{model.name}"] = model.load
            if len(model.workers) > 1:
                subjects.update({f"worker/{w.id}": w for w in model.workers})
        for key in [key for key in self._values if key[0] not in subjects]:
            del self._values[key]
        missed, many = self._missed(snapshot), len(subjects) >= MANY
        for subject, load in subjects.items():
            kept = FEWER if many and subject != "fleet" else KEPT
            for metric in METRICS:
                for _ in range(missed if (subject, metric) in self._values else 0):
                    self._push(subject, metric, None, kept)
                self._push(subject, metric, value_of(load, metric), kept)

    def _missed(self, snapshot: Snapshot) -> int:
        """How many snapshots are missing between the newest before and this one: a gap."""
        before, self._newest = self._newest, _time(snapshot.at)
        if before is None or self._newest is None or snapshot.interval_s <= 0:
            return 0
        steps = (self._newest - before).total_seconds() / snapshot.interval_s
        return 0 if steps < _LATE else min(KEPT, round(steps) - 1)

    def _push(self, subject: str, metric: str, value: float | None, kept: int) -> None:
        values = self._values.setdefault((subject, metric), array(_SINGLE))
        values.append(_MISSING if value is None else value)
        if len(values) > kept + _MORE:
            del values[:-kept]


def _time(at: str) -> datetime | None:
    try:
        return datetime.fromisoformat(at)
    except ValueError:
        return None


def value_of(load: Load | Worker, metric: str) -> float | None:
    """What a load says about a metric now."""
    if metric == "ttft_p95_s":
        return load.latency.ttft_s.p95
    value: float | None = getattr(load, metric)
    return value


def total(models: Sequence[Model]) -> Load:
    """The load of the whole fleet: sums of what is known, `None` where nothing is."""

    def add(name: str) -> float | None:
        values = [v for m in models if (v := getattr(m.load, name)) is not None]
        return sum(values) if values else None

    running, waiting = add("running"), add("waiting")
    return Load(
        running=None if running is None else int(running),
        waiting=None if waiting is None else int(waiting),
        generation_tokens_per_s=add("generation_tokens_per_s"),
        prompt_tokens_per_s=add("prompt_tokens_per_s"),
        requests_per_s=add("requests_per_s"),
    )


def subjects_of(snapshot: Snapshot) -> list[str]:
    """Every subject that has a trend."""
    names = ["fleet"]
    for model in snapshot.models:
        names.append(f"model/{model.name}")
        if len(model.workers) > 1:
            names += [f"worker/{w.id}" for w in model.workers]
    return names
