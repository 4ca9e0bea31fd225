"""The difference of two cumulative samples: every rate and every percentile is of a window."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from vllm_console.snapshot import Quantiles, thin
from vllm_console.telemetry.grid import widened
from vllm_console.telemetry.sample import Sample

POINT = 0.15
"""A percentile is a point where its bucket reaches at most this share to either side."""


@dataclass(frozen=True, slots=True)
class Window:
    """What happened between two samples of one subject.

    The samples are reset-corrected (by the history that made the window). Whatever they cannot
    tell is `None`: a name one of them lacks, buckets that differ, an interval of no length.
    """

    old: Sample
    new: Sample

    @property
    def seconds(self) -> float:
        """Length of the window."""
        return self.new.at - self.old.at

    def delta(self, counter: str) -> float | None:
        """By how much a counter grew, in its own unit."""
        old, new = self.old.counters.get(counter), self.new.counters.get(counter)
        if old is None or new is None or new < old:
            return None
        return new - old

    def rate(self, counter: str) -> float | None:
        """Growth of a counter per second."""
        delta = self.delta(counter)
        return None if delta is None or self.seconds <= 0 else delta / self.seconds

    def ratio(self, part: str, whole: str) -> float | None:
        """Growth of one counter as a share of another's; `None` where the other did not grow."""
        of, by = self.delta(whole), self.delta(part)
        return None if by is None or not of else by / of

    def buckets(self, histogram: str) -> tuple[tuple[float, int], ...]:
        """Observations a bucket, not cumulative: (upper bound, count), the last bound is inf.

        Empty where the window cannot tell.
        """
        difference = self._difference(histogram)
        if difference is None:
            return ()
        bounds, counts = difference
        each = [counts[0], *(b - a for a, b in pairwise(counts))]
        return tuple(
            (bound, round(count)) for bound, count in zip((*bounds, math.inf), each, strict=True)
        )

    def quantiles(self, histogram: str) -> Quantiles:
        """P50, P95 and P99 of the observations in the window, by `quantile` and `bracket`."""
        difference = self._difference(histogram)
        if difference is None:
            return Quantiles()
        bounds, counts = difference
        found: dict[str, Any] = {}
        for name, q in (("p50", 0.50), ("p95", 0.95), ("p99", 0.99)):
            found[name] = quantile(q, bounds, counts)
            found[f"{name}_between"] = bracket(q, bounds, counts)
        count = round(counts[-1])
        return Quantiles(**found, count=count, thin=thin(count), mean=self.mean(histogram))

    def mean(self, histogram: str) -> float | None:
        """The mean of a histogram's observations; `None` where there was none."""
        old, new = self.old.histograms.get(histogram), self.new.histograms.get(histogram)
        if old is None or new is None or new.count <= old.count:
            return None
        return (new.sum - old.sum) / (new.count - old.count)

    def deltas(self, prefix: str) -> dict[str, float]:
        """Growth of the counters of one split metric, by what stands behind `prefix:`."""
        found = {}
        for name in self.new.counters:
            metric, _, part = name.partition(":")
            delta = self.delta(name) if metric == prefix and part else None
            if delta is not None:
                found[part] = delta
        return found

    def _difference(self, name: str) -> tuple[tuple[float, ...], list[float]] | None:
        """Bounds, and cumulative bucket counts of the window alone."""
        old, new = self.old.histograms.get(name), self.new.histograms.get(name)
        if old is None or new is None:
            return None
        before = old.counts
        if old.bounds != new.bounds:
            wider = widened(before, old.bounds, new.bounds)
            if wider is None:
                return None
            before = wider
        counts = [b - a for a, b in zip(before, new.counts, strict=True)]
        return None if counts[-1] < 0 else (new.bounds, counts)


def quantile(q: float, bounds: Sequence[float], counts: Sequence[float]) -> float | None:
    """The `q`-quantile (0..1) of a histogram, in the unit of its bounds; `None` when empty.

    As Prometheus' `histogram_quantile` has it (promql/quantile.go, bucketQuantile): the
    observations of a bucket are taken to be spread evenly over it, the first bucket to begin at 0,
    and a quantile in the +Inf bucket is given as that bucket's lower bound. `counts` are
    cumulative and one longer than `bounds`, as in `Histogram`.
    """
    index = _bucket(q, bounds, counts)
    if index is None:
        return None
    if index == len(bounds):
        return bounds[-1]
    upper = bounds[index]
    lower, below = (bounds[index - 1], counts[index - 1]) if index else (min(0.0, upper), 0.0)
    return lower + (upper - lower) * (q * counts[-1] - below) / (counts[index] - below)


def bracket(
    q: float, bounds: Sequence[float], counts: Sequence[float]
) -> tuple[float, float | None] | None:
    """The bounds of the bucket that holds the `q`-quantile, where it is too wide for a point.

    Too wide is more than `POINT` to either side of its middle. The lower bound of the first bucket
    is 0; the last bucket has no upper one. `None` where `quantile` is good enough, or `None`.
    """
    index = _bucket(q, bounds, counts)
    if index is None:
        return None
    if index == len(bounds):
        return bounds[-1], None
    lower, upper = bounds[index - 1] if index else 0.0, bounds[index]
    return (lower, upper) if upper - lower > POINT * (upper + lower) else None


def _bucket(q: float, bounds: Sequence[float], counts: Sequence[float]) -> int | None:
    """Which bucket holds the `q`-quantile; `None` where there is none to hold it."""
    total = counts[-1]
    if total <= 0 or not bounds:
        return None
    rank = q * total
    return bisect_left(counts, rank) if rank > 0 else bisect_right(counts, 0.0)
