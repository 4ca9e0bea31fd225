"""Arrival processes: their mean, their shape, their seed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from itertools import islice, pairwise, takewhile

import pytest

from vllm_console.traffic.arrivals import poisson_arrivals, varying_arrivals

Arrivals = Callable[..., Iterator[float]]


@pytest.mark.parametrize("arrivals", [poisson_arrivals, varying_arrivals])
@pytest.mark.parametrize("rate", [0.5, 20.0])
def test_the_long_run_rate_is_the_one_asked_for(arrivals: Arrivals, rate: float) -> None:
    times = list(islice(arrivals(rate, seed=3), 20_000))
    assert len(times) / times[-1] == pytest.approx(rate, rel=0.05)
    assert times == sorted(times)


@pytest.mark.parametrize("arrivals", [poisson_arrivals, varying_arrivals])
def test_the_seed_decides_everything(arrivals: Arrivals) -> None:
    def first(seed: int) -> list[float]:
        return list(islice(arrivals(5.0, seed=seed), 100))

    assert first(1) == first(1)
    assert first(1) != first(2)


def test_poisson_gaps_are_as_spread_as_their_mean() -> None:
    times = list(islice(poisson_arrivals(10.0, seed=4), 20_000))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert statistics.stdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.05)


def test_bursts_and_waves_show_in_the_rate() -> None:
    times = list(takewhile(lambda at: at < 3700, varying_arrivals(50.0, period_s=74.0, seed=5)))

    def rate(start: float, end: float, period: float) -> float:
        inside = sum(start <= at % period < end for at in times)
        return inside / (3700 / period * (end - start))

    assert rate(33, 37, 37) > 2.0 * rate(0, 33, 37)
    assert rate(4, 30, 74) > 1.5 * rate(41, 67, 74)
