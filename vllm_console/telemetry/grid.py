"""The grid of bounds for latencies counted here: 2 % apart, so that percentiles are true to 1 %."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache

PER_DECADE = 116
"""Bounds a decade: each is 10 ** (1 / 116), 2.005 %, above the one before, so that the geometric
middle of a bucket is within 1 % of all that lies in it."""
FLOOR = 1e-5
"""The first bound, in seconds; what is shorter is "at once"."""
_BLOCK = 29
"""Bounds of a quarter of a decade: a range grows by whole blocks, and so seldom."""
_BLOCKS = 37
GRID = tuple(FLOOR * 10 ** (index / PER_DECADE) for index in range(_BLOCK * _BLOCKS + 1))
"""All bounds in seconds, 10 us to 4.9 h. Buckets are numbered by their upper bound here; bucket
`len(GRID)` is what lies beyond."""
_AT_ONCE = (FLOOR,)
_INDEX = {bound: index for index, bound in enumerate(GRID)}

Bounds = tuple[float, ...]


def cumulative(sparse: Sequence[tuple[int, int]]) -> tuple[Bounds, Bounds]:
    """Bounds and cumulative counts of (bucket, count) pairs in ascending order of bucket.

    The bounds are the first of the grid, for what is "at once", and the whole blocks in which the
    rest lies, if any; the counts have one entry more, as in `telemetry.sample.Histogram`.
    """
    by_bucket = dict(sparse)
    last = len(GRID) - 1
    used = [min(bucket, last) for bucket, count in sparse if count and bucket]
    if not used:
        at_once = float(by_bucket.get(0, 0))
        return _AT_ONCE, (at_once, at_once)
    low = (used[0] - 1) // _BLOCK * _BLOCK
    high = -(-used[-1] // _BLOCK) * _BLOCK
    counts, total = [], 0.0
    for bucket in (0, *range(max(1, low), high + 1)):
        total += by_bucket.get(bucket, 0)
        counts.append(total)
    return _part(low, high), (*counts, total + by_bucket.get(last + 1, 0))


@lru_cache(maxsize=1024)
def joined(one: Bounds, other: Bounds) -> Bounds | None:
    """The bounds that hold both; `None` where one of the two is not of the grid."""
    if _AT_ONCE in (one, other):
        more = other if one == _AT_ONCE else one
        return more if is_fine(more) else None
    first, second = _reach(one), _reach(other)
    if first is None or second is None:
        return None
    return _part(min(first[0], second[0]), max(first[1], second[1]))


def widened(counts: Sequence[float], old: Bounds, new: Bounds) -> Bounds | None:
    """Cumulative counts by `old` bounds as the `new` ones have them, which hold both.

    Nothing is guessed: `None` where one of the two is not of the grid, where `new` lacks an old
    bound, or has one more within a bucket that is not empty.
    """
    if old == new:
        return tuple(counts)
    if joined(old, new) != new:
        return None
    found, index, below = [], 0, 0.0
    for bound in new:
        if index < len(old) and bound == old[index]:
            below = counts[index]
            index += 1
        elif counts[index] != below:
            return None
        found.append(below)
    return (*found, counts[-1]) if index == len(old) else None


def is_fine(bounds: Bounds) -> bool:
    """Whether bounds are of the grid."""
    return bounds == _AT_ONCE or _reach(bounds) is not None


def middle(value: float | None, bounds: Bounds) -> float | None:
    """A percentile at the geometric middle of its bucket of the grid, where it is off the least.

    In the first bucket, beyond the last bound and in other bounds it stays as it is.
    """
    if value is None or not bounds or not bounds[0] < value < bounds[-1] or not is_fine(bounds):
        return value
    index = bisect_left(bounds, value)
    return float((bounds[index - 1] * bounds[index]) ** 0.5)


@lru_cache(maxsize=1024)
def _reach(bounds: Bounds) -> tuple[int, int] | None:
    """Which part of the grid bounds are, by the indices of its ends."""
    high = _INDEX.get(bounds[-1]) if len(bounds) > 1 else None
    if high is None:
        return None
    low = max(0, high - len(bounds) + 2) if len(bounds) <= high else 0
    return (low, high) if bounds == _part(low, high) else None


def _part(low: int, high: int) -> Bounds:
    part = GRID[low : high + 1]
    return (FLOOR, *part) if low else part
