"""Log buckets against exact quantiles."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_console.gateway.histogram import BEYOND, Histogram, bucket, merged, quantiles, since
from vllm_console.telemetry.grid import GRID

SECONDS = st.floats(1.1e-5, 10_000.0)


def recorded(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(st.lists(SECONDS, min_size=1), st.sampled_from([0.01, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0]))
def test_a_quantile_is_within_one_percent_of_the_exact_one(values: list[float], q: float) -> None:
    exact = sorted(values)[max(0, math.ceil(q * len(values)) - 1)]
    found = recorded(values).quantile(q)
    assert found == pytest.approx(exact, rel=0.0101)


@given(SECONDS)
def test_a_value_lies_between_the_bounds_of_its_bucket(seconds: float) -> None:
    index = bucket(seconds)
    assert GRID[index - 1] * (1 - 1e-9) <= seconds <= GRID[index] * (1 + 1e-9)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-6, 1e-5, math.nan, -math.inf])
def test_what_takes_no_time_is_in_the_first_bucket(seconds: float) -> None:
    assert bucket(seconds) == 0


@pytest.mark.parametrize("seconds", [1e6, math.inf])
def test_what_takes_for_ever_is_in_the_last_bucket(seconds: float) -> None:
    assert bucket(seconds) == BEYOND
    assert quantiles({BEYOND: 1}, (0.5,)) == [GRID[-1]]


@given(st.lists(SECONDS), st.lists(SECONDS))
def test_merging_counts_what_both_counted(one: list[float], other: list[float]) -> None:
    both, together = recorded(one + other), merged([recorded(one), recorded(other)])
    assert together.counts == both.counts
    assert together.count == len(one) + len(other)
    assert together.sum == pytest.approx(both.sum)


def test_an_empty_histogram_has_no_quantile() -> None:
    assert Histogram().quantile(0.5) is None


def test_many_quantiles_are_those_asked_one_by_one() -> None:
    histogram = recorded([index / 100 for index in range(1, 500)])
    asked = (0.1, 0.5, 0.95, 0.99)
    assert quantiles(histogram.counts, asked) == [histogram.quantile(q) for q in asked]


def test_the_difference_to_a_copy_is_what_came_since() -> None:
    histogram = recorded([0.1, 0.2])
    copy = dict(histogram.counts)
    histogram.record(0.1)
    histogram.record(3.0)
    assert since(histogram.counts, copy) == {bucket(0.1): 1, bucket(3.0): 1}


def test_coarse_buckets_are_exact_at_bounds_of_the_grid() -> None:
    values = [0.002, 0.05, 0.0562, 0.3, 7.0, 20_000.0]
    bounds = GRID[0::29]
    counts = recorded(values).below(bounds)
    assert counts == [sum(value <= bound for value in values) for bound in bounds]


def test_what_is_sent_is_in_order() -> None:
    sparse = recorded([3.0, 0.1, 0.1, 0.0]).sparse()
    assert sparse == [(0, 1), (bucket(0.1), 2), (bucket(3.0), 1)]
