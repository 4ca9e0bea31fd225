"""A latency histogram of constant size: buckets that grow by a fixed factor."""

from __future__ import annotations

import math

SMALLEST_S = 1e-4
"""Upper bound of the first bucket, in seconds."""
GROWTH = 2 ** (1 / 8)
"""Ratio of one bucket's bound to the one before: a quantile is off by less than 4.5 %."""
BUCKETS = 200
"""The last bucket ends at 3,000 s and takes everything above."""


class LogHistogram:
    """Counts durations (seconds) by their order of magnitude; merges by addition."""

    __slots__ = ("_counts", "count", "total_s")

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS
        self.count = 0
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        """Counts one duration."""
        index = 0
        if seconds > SMALLEST_S:
            index = math.ceil(math.log(seconds / SMALLEST_S, GROWTH) - 1e-9)
        self._counts[min(index, BUCKETS - 1)] += 1
        self.count += 1
        self.total_s += seconds

    def quantile(self, share: float) -> float | None:
        """The duration that `share` (0..1) of all stay at or below; `None` while there is none.

        The nearest-rank quantile, told as the geometric middle of the bucket that holds it.
        """
        if not self.count:
            return None
        rank = max(1, math.ceil(share * self.count))
        seen = 0
        for index, count in enumerate(self._counts):
            seen += count
            if seen >= rank:
                return float(SMALLEST_S * GROWTH ** (index - 0.5))
        raise AssertionError("the buckets hold every duration that was counted")
