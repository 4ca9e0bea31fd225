"""A histogram of seconds with buckets 2 % apart: any percentile within 1 %, merged by adding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import log

from vllm_console.telemetry.grid import FLOOR, GRID, PER_DECADE

BEYOND = len(GRID)
"""The bucket of what is longer than the last bound."""
_SCALE = PER_DECADE / log(10)
_SHIFT = 1 - log(FLOOR) * _SCALE
_CEILING = GRID[-1]

Sparse = list[tuple[int, int]]
"""(bucket, count) of the buckets that are not empty, in ascending order."""


def bucket(seconds: float) -> int:
    """In which bucket of `telemetry.grid` seconds belong; what is no number is in the first."""
    if not seconds > FLOOR:
        return 0
    return int(log(seconds) * _SCALE + _SHIFT) if seconds < _CEILING else BEYOND


class Histogram:
    """Cumulative counts by bucket, and the sum of what was recorded.

    The counts grow on demand, as latencies of one model lie in two or three hundred buckets.
    """

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts: defaultdict[int, int] = defaultdict(int)
        self.sum = 0.0

    def record(self, seconds: float) -> None:
        """Count one observation."""
        self.counts[bucket(seconds)] += 1
        self.sum += seconds

    @property
    def count(self) -> int:
        """Observations in total."""
        return sum(self.counts.values())

    def sparse(self) -> Sparse:
        """The counts as they are sent: `cumulative` of the grid makes a histogram of them."""
        return sorted(self.counts.items())

    def quantile(self, q: float) -> float | None:
        """The `q`-quantile (0..1) in seconds; `None` when empty."""
        return quantiles(self.counts, (q,))[0]

    def below(self, bounds: Iterable[float]) -> list[int]:
        """How many observations lie at or below each of these ascending bounds of the grid."""
        pairs = self.sparse()
        found, total, index = [], 0, 0
        for bound in bounds:
            last = bucket(bound * 0.999)
            while index < len(pairs) and pairs[index][0] <= last:
                total += pairs[index][1]
                index += 1
            found.append(total)
        return found


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """All observations of several histograms."""
    found = Histogram()
    for histogram in histograms:
        found.sum += histogram.sum
        for index, count in histogram.counts.items():
            found.counts[index] += count
    return found


def since(counts: Mapping[int, int], before: Mapping[int, int]) -> dict[int, int]:
    """What was counted after an earlier copy of the same counts."""
    return {i: grown for i, count in counts.items() if (grown := count - before.get(i, 0))}


def quantiles(counts: Mapping[int, int], qs: Sequence[float]) -> list[float | None]:
    """Quantiles (0..1, ascending) in seconds, within 1 % of the observation of that rank.

    `None` when there is none. What lies in the first bucket is given as 0, what lies beyond the
    last one as the last bound.
    """
    total = sum(counts.values())
    if not total:
        return [None] * len(qs)
    found: list[float | None] = []
    ranks = [q * total for q in qs]
    below = 0
    for index, count in sorted(counts.items()):
        below += count
        while len(found) < len(ranks) and below >= ranks[len(found)]:
            found.append(_middle(index))
    return found


def _middle(index: int) -> float:
    """The value that stands for a bucket: its geometric middle."""
    if index == 0:
        return 0.0
    return float((GRID[index - 1] * GRID[index]) ** 0.5) if index < BEYOND else _CEILING
