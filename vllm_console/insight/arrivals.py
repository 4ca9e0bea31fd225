"""How requests come: steady, in bursts or in periods, and how many the next minute will bring.

All of it is of counts in bins of equal length. The patterns are told by two classic numbers:

- index of dispersion, variance / mean of the counts (Cox and Lewis, 1966): 1 for a Poisson
  process, larger where the rate itself moves. How far the rate moves is the variance beyond the
  Poisson one: its coefficient of variation is sqrt(variance - mean) / mean.
- autocorrelation of the detrended counts: of a periodic rate it peaks at the period, and again at
  its double.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from operator import mul

from vllm_console.snapshot import Arrivals, Forecast

BIN_S = 5.0
"""Seconds a bin: no shorter than the time between two scrapes of an idle worker."""
ENOUGH_S = 300.0
ENOUGH_ARRIVALS = 50
"""What is needed to tell a pattern."""
AHEAD_S = 60.0
"""How far a forecast looks."""
_SWING = 0.2
"""A rate that swings by less than a fifth is called steady, however surely it swings."""
_PERIODIC_R = 0.35
"""Least autocorrelation at a period; Poisson noise alone lowers that of a strong sine to 0.5."""


def arrivals(counts: Sequence[float], *, bin_s: float = BIN_S) -> Arrivals:
    """What the counts of past bins, oldest first, say; the newest bin must be complete."""
    seconds = len(counts) * bin_s
    last_minute = counts[-round(60 / bin_s) :]
    per_s = sum(last_minute) / (len(last_minute) * bin_s) if last_minute else None
    if seconds < ENOUGH_S:
        return Arrivals(per_s=per_s, remembered_s=seconds, enough_s=ENOUGH_S)
    enough = sum(counts) >= ENOUGH_ARRIVALS
    period = period_of(counts) if enough and swings(counts) else None
    return Arrivals(
        per_s=per_s,
        forecast=forecast(counts, bin_s=bin_s, period=period) if enough else None,
        pattern=pattern(counts, period) if enough else None,
        dispersion=dispersion(counts),
        period_s=None if period is None else period * bin_s,
        remembered_s=seconds,
        enough_s=ENOUGH_S,
    )


def dispersion(counts: Sequence[float]) -> float | None:
    """Index of dispersion of the counts; `None` where nothing arrived."""
    if len(counts) < 2 or not any(counts):
        return None
    mean = sum(counts) / len(counts)
    return sum((c - mean) ** 2 for c in counts) / (len(counts) - 1) / mean


def pattern(counts: Sequence[float], period: int | None) -> str:
    """Tell "periodic" with a period, "bursty" where the rate swings without one, else "steady"."""
    if period is not None:
        return "periodic"
    return "bursty" if swings(counts) else "steady"


def swings(counts: Sequence[float]) -> bool:
    """Whether the rate surely moves, and by enough to matter.

    Surely: the dispersion is over 1 by four standard deviations of that of a Poisson process,
    sqrt(2 / (n - 1)) of n bins. Enough: the rate's coefficient of variation is at least
    `_SWING`.
    """
    index = dispersion(counts)
    if index is None or index <= 1 + 4 * math.sqrt(2 / (len(counts) - 1)):
        return False
    return math.sqrt((index - 1) * len(counts) / sum(counts)) >= _SWING


def period_of(counts: Sequence[float]) -> int | None:
    """The period in bins at which the counts repeat; `None` where they do not.

    It is the first high peak of the autocorrelation behind its first fall below zero, of at
    most a third of what is remembered, with an echo at its double: bursts that come at random
    have such a peak by chance, but seldom the echo.
    """
    size = len(counts)
    most = size // 3
    r = autocorrelation(counts, min(2 * most + 1, size - 2))
    if len(r) < 8:
        return None
    fall = next((lag for lag, value in enumerate(r) if value < 0), None)
    if fall is None:
        return None
    least = max(_PERIODIC_R, 4 / math.sqrt(size))
    peaks = [
        lag for lag in range(max(fall, 3), most + 1) if r[lag] >= max(r[lag - 1], r[lag + 1], least)
    ]
    if not peaks:
        return None
    highest = max(r[lag] for lag in peaks)
    lag = next(lag for lag in peaks if r[lag] >= 0.8 * highest)
    echo = max(r[2 * lag - 1 : 2 * lag + 2])
    return lag if echo >= 0.6 * r[lag] else None


def autocorrelation(values: Sequence[float], lags: int) -> list[float]:
    """Autocorrelation at lags 0 … `lags` of the values less their line of best fit.

    Empty where the values lie on a line.
    """
    rest = _detrended(values)
    size = len(rest)
    variance = sum(map(mul, rest, rest)) / size if size else 0.0
    if variance <= 1e-12:
        return []
    return [
        sum(map(mul, rest, rest[lag:])) / (size - lag) / variance
        for lag in range(min(lags, size - 1) + 1)
    ]


def _detrended(values: Sequence[float]) -> list[float]:
    size = len(values)
    if size < 2:
        return [0.0] * size
    middle, mean = (size - 1) / 2, sum(values) / size
    slope = sum((i - middle) * v for i, v in enumerate(values)) / (size * (size * size - 1) / 12)
    return [v - mean - slope * (i - middle) for i, v in enumerate(values)]


def forecast(
    counts: Sequence[float], *, bin_s: float = BIN_S, period: int | None = None
) -> Forecast | None:
    """Requests a second over the next `AHEAD_S`, by the method whose past errors were the least.

    "level" is exponential smoothing, "trend" Holt's with a damped trend (Gardner and McKenzie,
    1985), "season" the mean of the same phase of the last three periods. Each foretells the past
    from what came before it; the error is the root mean square of that. `None` while there are
    not three times as many bins as the forecast is long.
    """
    ahead = round(AHEAD_S / bin_s)
    if len(counts) < 3 * ahead:
        return None
    sums = list(accumulate(counts, initial=0.0))
    best: tuple[str, list[float | None], float] | None = None
    for method, told in _methods(counts, sums, ahead, period):
        error = _error(told, sums, ahead)
        if error is not None and (best is None or error < best[2]):
            best = (method, told, error)
    if best is None or (newest := best[1][-1]) is None:
        return None
    return Forecast(
        per_s=max(0.0, newest) / bin_s,
        error_per_s=best[2] / bin_s,
        ahead_s=AHEAD_S,
        method=best[0],
    )


def _methods(
    counts: Sequence[float], sums: Sequence[float], ahead: int, period: int | None
) -> list[tuple[str, list[float | None]]]:
    """What each method foretold after each bin: the mean of the `ahead` bins that follow."""
    found = [("level", _holt(counts, alpha, 0.0, ahead)) for alpha in (0.02, 0.1, 0.3)]
    found += [("trend", _holt(counts, alpha, 0.1, ahead)) for alpha in (0.1, 0.3)]
    if period is not None:
        found.append(("season", _season(sums, ahead, period)))
    return found


def _holt(counts: Sequence[float], alpha: float, beta: float, ahead: int) -> list[float | None]:
    damping = 0.95
    reach = sum((ahead - i) * damping ** (i + 1) for i in range(ahead)) / ahead
    warm = ahead
    level, trend = sum(counts[:warm]) / warm, 0.0
    told: list[float | None] = [None] * warm
    for count in counts[warm:]:
        before = level
        level = alpha * count + (1 - alpha) * (level + damping * trend)
        trend = beta * (level - before) + (1 - beta) * damping * trend
        told.append(level + trend * reach)
    return told


def _season(sums: Sequence[float], ahead: int, period: int) -> list[float | None]:
    told: list[float | None] = []
    for end in range(1, len(sums)):
        back = -(-ahead // period) * period
        means: list[float] = []
        while end - back >= 0 and len(means) < 3:
            means.append((sums[end - back + ahead] - sums[end - back]) / ahead)
            back += period
        told.append(sum(means) / len(means) if means else None)
    return told


def _error(told: Sequence[float | None], sums: Sequence[float], ahead: int) -> float | None:
    """Root mean square error of what was foretold, against the mean of the bins that followed."""
    errors = [
        (value - (sums[end + ahead] - sums[end]) / ahead) ** 2
        for end, value in enumerate(told[: len(sums) - 1 - ahead], start=1)
        if value is not None and end >= 2 * ahead
    ]
    return math.sqrt(sum(errors) / len(errors)) if errors else None
