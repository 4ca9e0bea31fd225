"""The latency histogram against a sorted list."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_console.traffic.histogram import GROWTH, SMALLEST_S, LogHistogram


@given(
    st.lists(st.floats(SMALLEST_S, 1000.0), min_size=1, max_size=200),
    st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0]),
)
def test_a_quantile_is_within_half_a_bucket_of_the_sorted_list(
    durations: list[float], share: float
) -> None:
    histogram = LogHistogram()
    for duration in durations:
        histogram.add(duration)
    exact = sorted(durations)[max(1, math.ceil(share * len(durations))) - 1]
    told = histogram.quantile(share)
    assert told is not None
    assert 1 / math.sqrt(GROWTH) - 1e-6 <= told / exact <= math.sqrt(GROWTH) + 1e-6
    assert histogram.count == len(durations)
    assert histogram.total_s == pytest.approx(sum(durations))


def test_an_empty_histogram_has_no_quantile() -> None:
    assert LogHistogram().quantile(0.5) is None


def test_durations_off_both_ends_land_in_the_outer_buckets() -> None:
    histogram = LogHistogram()
    histogram.add(0.0)
    histogram.add(1e9)
    low, high = histogram.quantile(0.5), histogram.quantile(1.0)
    assert low is not None
    assert high is not None
    assert low <= SMALLEST_S
    assert 2000 < high < 4000
