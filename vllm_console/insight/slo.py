"""Attainment: which share of what was served stayed within its target."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vllm_console.snapshot import Attainment, Slo
from vllm_console.telemetry.window import Window

WINDOW_S = 300.0
"""Long enough for a share that does not jump with each request."""


def within(buckets: Sequence[tuple[float, int]], target: float) -> float | None:
    """Share of the observations that are at most `target`; `None` where there are none.

    `buckets` are (upper bound, observations), the last bound infinite. Inside a bucket they count
    as evenly spread, as in `telemetry.window.quantile`, whose inverse this is; those beyond the
    last finite bound count as late.
    """
    total = sum(number for _, number in buckets)
    if not total:
        return None
    inside, lower = 0.0, 0.0
    for upper, number in buckets:
        if upper <= target:
            inside += number
        elif not math.isinf(upper) and target > lower:
            inside += number * (target - lower) / (upper - lower)
        lower = upper
    return inside / total


def attainment(window: Window | None, slo: Slo) -> Attainment:
    """Attainment of each target that is set; `window_s` is the span really covered, to 0.1 s."""
    if window is None:
        return Attainment(window_s=WINDOW_S)

    def share(histogram: str, target: float | None) -> float | None:
        return None if target is None else within(window.buckets(histogram), target)

    ttft = share("ttft_s", slo.ttft_p95_s)
    itl = share("itl_s", slo.itl_p95_s)
    e2e = share("e2e_s", slo.e2e_p95_s)
    lowest = min((value for value in (ttft, itl, e2e) if value is not None), default=None)
    return Attainment(round(window.seconds, 1), ttft, itl, e2e, lowest)
