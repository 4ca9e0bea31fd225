"""One metric over one or several windows: buckets, counts and shares add up exactly."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from itertools import accumulate

from vllm_console.answer import Figure
from vllm_console.telemetry.grid import Bounds, joined, middle, widened
from vllm_console.telemetry.window import Window, bracket, quantile

_FINEST_S = 15.0
"""A span this short is not cut further in search of the moment at which columns changed."""
_SURE = 0.01
"""A share is a point when it is known to within this."""

Span = tuple[float, float]
"""From when to when, in seconds since the epoch."""
Look = Callable[[float, float], Window | None]
"""The window of a span."""
Tells = Callable[[Window], bool | None]
"""Whether a window can tell of a metric; `None` that no part of it can."""


def pieces(look: Look, span: Span, tells: Tells) -> list[Window]:
    """Windows that together are a span, cut at the moments at which a metric's columns changed.

    A window can tell what happened on one side of such a moment only, as buckets then differ.
    """
    since, until = span
    window = look(since, until)
    if window is None or (can := tells(window)) is None:
        return []
    if can:
        return [window]
    if until - since <= _FINEST_S:
        return []
    middle = (since + until) / 2
    return [*pieces(look, (since, middle), tells), *pieces(look, (middle, until), tells)]


def knows_histogram(name: str) -> Tells:
    """Whether a window can tell the buckets of a histogram."""

    def tells(window: Window) -> bool | None:
        if window.buckets(name):
            return True
        return False if name in window.old.histograms or name in window.new.histograms else None

    return tells


def knows_counters(*names: str) -> Tells:
    """Whether a window can tell the growth of all these counters."""

    def tells(window: Window) -> bool | None:
        if all(window.delta(name) is not None for name in names):
            return True
        ends = (window.old.counters, window.new.counters)
        return False if any(all(name in end for name in names) for end in ends) else None

    return tells


def distribution(windows: Iterable[Window], name: str, percents: Sequence[float]) -> Figure:
    """Percentiles of a histogram as "p95"; all `None` where nothing was counted."""
    names = [f"p{percent:g}" for percent in percents]
    found = _merged(windows, name)
    if found is None:
        return Figure(dict.fromkeys(names))
    bounds, counts = found
    count = round(counts[-1])
    values: dict[str, float | None] = {}
    between: dict[str, tuple[float, float | None]] = {}
    for key, percent in zip(names, percents, strict=True):
        values[key] = middle(quantile(percent / 100, bounds, counts), bounds)
        if (wide := bracket(percent / 100, bounds, counts)) is not None:
            between[key] = wide
    thin = tuple(k for k, p in zip(names, percents, strict=True) if 0 < count * (100 - p) < 300)
    return Figure(values, count, between or None, thin)


def counter(windows: Sequence[Window], name: str) -> Figure:
    """Growth of a counter, and a second of the time from the first sample to the last."""
    grown = [(delta, w.seconds) for w in windows if (delta := w.delta(name)) is not None]
    seconds = sum(length for _, length in grown)
    if seconds <= 0:
        return Figure({"per_s": None, "count": None})
    total = sum(delta for delta, _ in grown)
    return Figure({"per_s": total / seconds, "count": total}, round(total))


def parts(windows: Sequence[Window], name: str) -> Figure:
    """Growth of each part of a split counter."""
    values: dict[str, float | None] = {}
    for window in windows:
        for each in window.new.counters:
            head, _, part = each.partition(":")
            if head == name and part and (delta := window.delta(each)) is not None:
                values[part] = (values.get(part) or 0.0) + delta
    return Figure(values, round(sum(v or 0.0 for v in values.values())) if values else None)


def ratio(windows: Sequence[Window], part: str, whole: str) -> Figure:
    """Growth of one counter as a share of another's; `None` where the other did not grow."""
    deltas = [(window.delta(part), window.delta(whole)) for window in windows]
    known = [(a, b) for a, b in deltas if a is not None and b is not None]
    of = sum(b for _, b in known)
    if not of:
        return Figure({"share": None}, 0 if known else None)
    return Figure({"share": sum(a for a, _ in known) / of}, round(of))


def within(windows: Iterable[Window], name: str, target: float) -> Figure:
    """Share of a histogram's events at or below a target, and how many were above it.

    The events of a bucket are taken to be spread evenly over it, those beyond the last bound to be
    above any target there.
    """
    found = _merged(windows, name)
    if found is None or not found[1][-1]:
        return Figure({"share": None, "missed": None}, None if found is None else 0)
    bounds, counts = found
    total = counts[-1]
    index = bisect_left(bounds, target)
    lower, below = (bounds[index - 1], counts[index - 1]) if index else (0.0, 0.0)
    upper = bounds[index] if index < len(bounds) else math.inf
    inside = (counts[index] - below) * (target - lower) / (upper - lower)
    share = (below + max(0.0, inside)) / total
    low, high = below / total, counts[index] / total
    wide = None if target == upper or high - low <= _SURE else {"share": (low, high)}
    return Figure({"share": share, "missed": total * (1 - share)}, round(total), wide)


def _merged(windows: Iterable[Window], name: str) -> tuple[tuple[float, ...], list[float]] | None:
    """Bounds and cumulative counts of a histogram over several windows.

    Where bounds differ, those that all have: counts up to a shared bound add exactly. Bounds of the
    grid all become those that hold every one of them.
    """
    found = [buckets for window in windows if (buckets := window.buckets(name))]
    if not found:
        return None
    whole = reduce(_both, map(_bounds, found))
    each = [_cumulative(buckets, whole) for buckets in found]
    shared = sorted(set(each[0]).intersection(*each[1:]))
    return tuple(shared[:-1]), [float(sum(part[bound] for part in each)) for bound in shared]


def _both(one: Bounds | None, other: Bounds | None) -> Bounds | None:
    """The bounds of the grid that hold both; `None` for others."""
    return None if one is None or other is None else joined(one, other)


def _bounds(buckets: Sequence[tuple[float, int]]) -> Bounds | None:
    return tuple(bound for bound, _ in buckets[:-1])


def _cumulative(buckets: Sequence[tuple[float, int]], wide: Bounds | None) -> dict[float, float]:
    """Counts at or below each bound, by the wider bounds where they can be told."""
    counts = [float(count) for count in accumulate(count for _, count in buckets)]
    known = None if wide is None else widened(counts, _bounds(buckets) or (), wide)
    if wide is None or known is None:
        return dict(zip((bound for bound, _ in buckets), counts, strict=True))
    return dict(zip((*wide, math.inf), known, strict=True))
