"""Cumulative samples of a model or the fleet that do not jump when a worker comes or goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import add, sub

from vllm_console.telemetry.sample import Histogram, Sample, merge_gauges

FRESH_S = 10.0
"""A worker's gauges count for this long after its newest sample."""

Key = int
"""Stands for the name and the bounds of a histogram: hashing many bounds takes its time."""


@dataclass(slots=True)
class _Member:
    """One worker: its newest sample, and the keys of its histograms by their names."""

    newest: Sample
    keys: dict[str, Key]
    silent: bool = False


@dataclass(frozen=True, slots=True)
class _Added:
    """A sum, and what it is the sum of: the same parts need no second adding."""

    parts: tuple[Histogram, ...]
    base: Histogram | None
    sum: Histogram


class Totals:
    """Adds up what each of several workers counts, from its first sample here on.

        totals = Totals()
        totals.add("qwen-1", sample)          # at each of its samples, reset-corrected
        totals.leave("qwen-1")                # when it is gone; what it counted stays
        history.record("model/qwen", totals.sample(now))

    A worker's first sample adds nothing, so every window of the result is what the workers did in
    it while they were members. (`telemetry.sample.merge`, in contrast, is a picture of one moment
    and jumps with membership.) Adding costs nothing; the sums are made when they are asked for.
    """

    def __init__(self, *, fresh_s: float = FRESH_S) -> None:
        self._fresh_s = fresh_s
        self._members: dict[str, _Member] = {}
        self._counters: dict[str, float] = {}
        """What those who left counted, less what members had counted before they came."""
        self._histograms: dict[Key, Histogram] = {}
        """The same of each histogram; a key is here once anybody has had it."""
        self._added: dict[Key, _Added] = {}
        self._keys: dict[tuple[str, tuple[float, ...]], Key] = {}

    def add(self, worker_id: str, sample: Sample) -> None:
        """Takes in the next sample of a worker; its counts never fall (`resets.Unbroken`)."""
        member = self._members.get(worker_id)
        if member is None:
            keys = {name: self._key(name, h) for name, h in sample.histograms.items()}
            self._members[worker_id] = _Member(sample, keys)
            for name, value in sample.counters.items():
                self._counters[name] = self._counters.get(name, 0.0) - value
            for name, key in keys.items():
                self._histograms[key] = _less(self._histograms.get(key), sample.histograms[name])
            return
        old, member.newest, member.silent = member.newest, sample, False
        for name, histogram in sample.histograms.items():
            before = old.histograms.get(name)
            if before is None or before.bounds is not histogram.bounds:
                key = self._key(name, histogram)
                if before is not None and member.keys[name] != key:
                    self._keep(member.keys[name], before)
                member.keys[name] = key
        for name in old.histograms.keys() - sample.histograms.keys():
            self._keep(member.keys.pop(name), old.histograms[name])
        for name in old.counters.keys() - sample.counters.keys():
            self._counters[name] = self._counters.get(name, 0.0) + old.counters[name]

    def silent(self, worker_id: str) -> None:
        """A worker does not answer: its gauges count no more until its next sample."""
        if worker_id in self._members:
            self._members[worker_id].silent = True

    def leave(self, worker_id: str) -> None:
        """Forgets a worker and keeps what it counted; nothing happens for one not here."""
        member = self._members.pop(worker_id, None)
        if member is None:
            return
        for name, value in member.newest.counters.items():
            self._counters[name] = self._counters.get(name, 0.0) + value
        for name, key in member.keys.items():
            self._keep(key, member.newest.histograms[name])

    def sample(self, at: float) -> Sample | None:
        """The cumulative sample at `at` (seconds, the clock of the samples).

        Gauges are those of the workers whose newest sample is fresh, added up (`kv_cache_usage`
        averaged); of a histogram with several sets of bounds, the one most fresh workers have.
        `None` when no worker is fresh: a gap, for its graph as for its numbers.
        """
        members = self._members.values()
        fresh = [m for m in members if not m.silent and at - m.newest.at <= self._fresh_s]
        if not fresh:
            return None
        counters = dict(self._counters)
        parts: dict[Key, list[Histogram]] = {}
        for member in members:
            for name, value in member.newest.counters.items():
                counters[name] = counters.get(name, 0.0) + value
            histograms_of = member.newest.histograms
            for name, key in member.keys.items():
                parts.setdefault(key, []).append(histograms_of[name])
        most = Counter(item for member in fresh for item in member.keys.items()).most_common()
        histograms: dict[str, Histogram] = {}
        for (name, key), _ in most:
            if name not in histograms:
                histograms[name] = self._total(key, parts[key])
        return Sample(
            at=at,
            counters=counters,
            gauges=merge_gauges(member.newest.gauges for member in fresh),
            histograms={name: histograms[name] for name in sorted(histograms)},
        )

    def _key(self, name: str, histogram: Histogram) -> Key:
        return self._keys.setdefault((name, histogram.bounds), len(self._keys))

    def _keep(self, key: Key, histogram: Histogram) -> None:
        """Counts on what nobody's newest sample has any more."""
        self._histograms[key] = _sum([histogram], self._histograms.get(key))

    def _total(self, key: Key, parts: Sequence[Histogram]) -> Histogram:
        base, before = self._histograms.get(key), self._added.get(key)
        if (
            before is None
            or before.base is not base
            or len(before.parts) != len(parts)
            or any(a is not b for a, b in zip(before.parts, parts, strict=True))
        ):
            before = self._added[key] = _Added(tuple(parts), base, _sum(parts, base))
        return before.sum


def _sum(parts: Iterable[Histogram], base: Histogram | None) -> Histogram:
    """Histograms of equal bounds added up."""
    every = [*parts, base] if base is not None else [*parts]
    first = every[0]
    if len(every) == 1:
        return first
    if len(every) == 2:
        counts = tuple(map(add, first.counts, every[1].counts))
    else:
        counts = tuple(map(sum, zip(*(h.counts for h in every), strict=True)))
    return Histogram(first.bounds, counts, sum(h.sum for h in every))


def _less(one: Histogram | None, other: Histogram) -> Histogram:
    """A histogram less another of equal bounds; `None` counts nothing."""
    if one is None:
        return Histogram(other.bounds, tuple(-count for count in other.counts), -other.sum)
    counts = tuple(map(sub, one.counts, other.counts))
    return Histogram(other.bounds, counts, one.sum - other.sum)
