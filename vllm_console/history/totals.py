"""Cumulative samples of a model or the fleet that do not jump when a worker comes or goes."""

from __future__ import annotations

from collections import Counter

from vllm_console.history.resets import Unbroken
from vllm_console.telemetry.sample import Histogram, Sample, merge_gauges

FRESH_S = 10.0
"""A worker's gauges count for this long after its newest sample."""


class Totals:
    """Adds up what each of several workers counts, from its first sample here on.

        totals = Totals()
        totals.add("qwen-1", sample)          # at each of its samples
        totals.leave("qwen-1")                # when it is gone; what it counted stays
        history.record("model/qwen", totals.sample(now))

    A worker's first sample adds nothing and its restart takes nothing away, so every window of the
    result is what the workers did in it while they were members. (`telemetry.sample.merge`, in
    contrast, is a picture of one moment and jumps with membership.)
    """

    def __init__(self, *, fresh_s: float = FRESH_S) -> None:
        self._fresh_s = fresh_s
        self._members: dict[str, tuple[Unbroken, Sample]] = {}
        self._counters: dict[str, float] = {}
        self._histograms: dict[tuple[str, tuple[float, ...]], Histogram] = {}

    def add(self, worker_id: str, sample: Sample) -> None:
        """Takes in the next sample of a worker, as it was scraped."""
        if worker_id in self._members:
            unbroken, old = self._members[worker_id]
            new = unbroken.add(sample)
            for name, value in new.counters.items():
                grown = value - old.counters.get(name, 0.0)
                self._counters[name] = self._counters.get(name, 0.0) + max(0.0, grown)
            for name, histogram in new.histograms.items():
                self._grow(name, old.histograms.get(name), histogram)
        else:
            unbroken = Unbroken()
            new = unbroken.add(sample)
            for name in new.counters:
                self._counters.setdefault(name, 0.0)
            for name, histogram in new.histograms.items():
                self._grow(name, histogram, histogram)
        self._members[worker_id] = (unbroken, new)

    def leave(self, worker_id: str) -> None:
        """Forgets a worker and keeps what it counted; nothing happens for one not here."""
        self._members.pop(worker_id, None)

    def sample(self, at: float) -> Sample | None:
        """The cumulative sample at `at` (seconds, the clock of the samples).

        Gauges are those of the workers whose newest sample is fresh, added up (`kv_cache_usage`
        averaged); of a histogram with several sets of bounds, the one most fresh workers have.
        `None` when no worker is fresh: a gap, for its graph as for its numbers.
        """
        fresh = [new for _, new in self._members.values() if at - new.at <= self._fresh_s]
        if not fresh:
            return None
        bounds = Counter((name, h.bounds) for new in fresh for name, h in new.histograms.items())
        histograms: dict[str, Histogram] = {}
        for key, _ in bounds.most_common():
            histograms.setdefault(key[0], self._histograms[key])
        return Sample(
            at=at,
            counters=dict(self._counters),
            gauges=merge_gauges(new.gauges for new in fresh),
            histograms={name: histograms[name] for name in sorted(histograms)},
        )

    def _grow(self, name: str, old: Histogram | None, new: Histogram) -> None:
        key = (name, new.bounds)
        total = self._histograms.get(key)
        if total is None:
            total = Histogram(new.bounds, (0.0,) * len(new.counts), 0.0)
        elif old is new:
            return
        if old is None or old.bounds != new.bounds:
            old = Histogram(new.bounds, (0.0,) * len(new.counts), 0.0)
        self._histograms[key] = Histogram(
            bounds=total.bounds,
            counts=tuple(
                t + n - o for t, n, o in zip(total.counts, new.counts, old.counts, strict=True)
            ),
            sum=total.sum + new.sum - old.sum,
        )
