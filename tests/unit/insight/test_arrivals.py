"""Patterns and forecasts against simulated traffic whose answer is known."""

from __future__ import annotations

import math
import random
from bisect import bisect
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_console.insight.arrivals import (
    BIN_S,
    arrivals,
    autocorrelation,
    dispersion,
    forecast,
    period_of,
)
from vllm_console.traffic.arrivals import poisson_arrivals, thinned_arrivals

SEEDS = range(20)


def counted(times: Iterator[float], seconds: float) -> list[float]:
    """Arrivals a bin until `seconds`."""
    counts = [0.0] * round(seconds / BIN_S)
    for at in times:
        if at >= seconds:
            return counts
        counts[int(at / BIN_S)] += 1
    return counts


def switching(
    low: float, high: float, mean_low_s: float, mean_high_s: float, seed: int
) -> Iterator[float]:
    """A Markov-modulated Poisson process of two rates."""
    rng, edges = random.Random(seed), [0.0]
    while edges[-1] < 3600:
        edges.append(
            edges[-1] + rng.expovariate(1 / (mean_low_s if len(edges) % 2 else mean_high_s))
        )
    return thinned_arrivals(lambda t: low if bisect(edges, t) % 2 else high, high, seed=seed + 999)


def sine(rate: float, swing: float, period_s: float, seed: int) -> Iterator[float]:
    """Poisson arrivals whose rate is a sine."""
    return thinned_arrivals(
        lambda t: rate * (1 + swing * math.sin(math.tau * t / period_s)), 2 * rate, seed=seed
    )


@pytest.mark.parametrize("rate", [0.2, 2.0, 50.0])
def test_poisson_arrivals_are_steady_at_any_rate(rate: float) -> None:
    told = [arrivals(counted(poisson_arrivals(rate, seed=s), 1800)) for s in SEEDS]
    assert [a.pattern for a in told].count("steady") == len(SEEDS)
    mean = sum(a.dispersion or 0.0 for a in told) / len(told)
    assert mean == pytest.approx(1.0, abs=0.08)


def test_a_rate_that_switches_is_bursty() -> None:
    told = [arrivals(counted(switching(1, 10, 40, 15, s), 1800)) for s in SEEDS]
    assert [a.pattern for a in told].count("bursty") >= 18
    assert all((a.dispersion or 0.0) > 5 for a in told)


@pytest.mark.parametrize(("period_s", "seconds"), [(60, 600), (90, 1800), (300, 1800)])
def test_a_sine_is_periodic_with_its_period(period_s: float, seconds: float) -> None:
    told = [arrivals(counted(sine(6, 0.6, period_s, s), seconds)) for s in SEEDS]
    assert [a.pattern for a in told].count("periodic") >= 18
    periods = [a.period_s for a in told if a.period_s is not None]
    assert all(abs(found - period_s) <= max(BIN_S, 0.05 * period_s) for found in periods)


def test_a_rate_that_only_climbs_has_no_period() -> None:
    climbing = thinned_arrivals(lambda t: 1 + t / 200, 10, seed=3)
    assert period_of(counted(climbing, 1800)) is None


def test_a_period_on_a_climb_is_still_seen() -> None:
    counts = [20 + i / 4 + 15 * math.sin(math.tau * i / 24) for i in range(360)]
    assert period_of(counts) == 24


def test_a_swing_too_small_to_matter_is_steady_however_sure_it_is() -> None:
    told = arrivals(counted(switching(95, 105, 60, 60, 1), 1800))
    assert (told.dispersion or 0) > 1.5
    assert told.pattern == "steady"


def test_nothing_is_told_before_there_is_enough() -> None:
    short = arrivals([3.0] * 59)
    assert (short.pattern, short.forecast, short.dispersion) == (None, None, None)
    assert short.per_s == pytest.approx(0.6)
    assert short.remembered_s == 295
    rare = arrivals([0.0] * 359 + [1.0])
    assert (rare.pattern, rare.forecast) == (None, None)
    assert arrivals([]).per_s is None


def test_the_rate_is_that_of_the_last_minute() -> None:
    assert arrivals([0.0] * 100 + [10.0] * 12).per_s == pytest.approx(2.0)


def test_a_forecast_of_a_steady_rate_is_that_rate_with_the_error_of_chance() -> None:
    told = [forecast(counted(poisson_arrivals(4, seed=s), 1800)) for s in SEEDS]
    found = [f for f in told if f is not None]
    assert [f.method for f in found].count("level") == len(SEEDS)
    assert sum(f.per_s for f in found) / len(found) == pytest.approx(4.0, abs=0.15)
    chance = math.sqrt(4 / 60)  # of a minute's mean
    assert sum(f.error_per_s for f in found) / len(found) == pytest.approx(chance, rel=0.25)


def test_a_forecast_of_a_climb_follows_it() -> None:
    climb = [2.0 + 0.2 * i for i in range(120)]
    told = forecast(climb)
    assert told is not None
    assert told.method == "trend"
    assert told.per_s > climb[-1] / BIN_S
    assert told.per_s == pytest.approx((climb[-1] + 0.2 * 6.5) / BIN_S, rel=0.05)


def test_a_forecast_of_long_periods_repeats_the_season() -> None:
    counts = [20 + 10 * math.sin(math.tau * i / 60) for i in range(330)]
    told = forecast(counts, period=60)
    assert told is not None
    assert told.method == "season"
    following = [20 + 10 * math.sin(math.tau * i / 60) for i in range(330, 342)]
    assert told.per_s == pytest.approx(sum(following) / 12 / BIN_S, rel=0.02)
    assert told.error_per_s < 0.05


def test_a_forecast_of_a_fall_to_nothing_is_not_negative() -> None:
    told = forecast([max(0.0, 40.0 - i) for i in range(45)])
    assert told is not None
    assert told.per_s >= 0


@given(st.lists(st.integers(0, 50), min_size=2, max_size=120))
def test_dispersion_is_variance_over_mean(counts: list[int]) -> None:
    index = dispersion(counts)
    if not any(counts):
        assert index is None
        return
    mean = sum(counts) / len(counts)
    variance = sum((c - mean) ** 2 for c in counts) / (len(counts) - 1)
    assert index == pytest.approx(variance / mean)


@given(st.lists(st.integers(0, 50), min_size=10, max_size=120), st.integers(1, 1000))
def test_autocorrelation_starts_at_one_and_does_not_know_the_scale(
    counts: list[int], scale: int
) -> None:
    r = autocorrelation(counts, 5)
    if not r:
        return
    assert r[0] == pytest.approx(1.0)
    assert r == pytest.approx(autocorrelation([c * scale for c in counts], 5), abs=1e-6)


@given(st.lists(st.integers(0, 10_000), max_size=400))
def test_any_counts_are_told_without_an_error(counts: list[int]) -> None:
    told = arrivals(counts)
    assert told.pattern in (None, "steady", "bursty", "periodic")
    assert (told.pattern == "periodic") == (told.period_s is not None)
    if told.forecast is not None:
        assert told.forecast.per_s >= 0
        assert told.forecast.error_per_s >= 0


@pytest.mark.parametrize("make", [lambda: [], lambda: [5.0] * 300])
def test_counts_without_any_change_have_no_period(make: Callable[[], list[float]]) -> None:
    assert period_of(make()) is None
