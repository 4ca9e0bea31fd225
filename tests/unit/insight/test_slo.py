"""Attainment by histogram buckets, against observations that are known one by one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_console.insight.slo import attainment, within
from vllm_console.snapshot import Attainment, Slo
from vllm_console.telemetry.sample import Histogram, Sample
from vllm_console.telemetry.window import Window

BOUNDS = (0.1, 0.2, 0.5, 1.0)


def counted(values: list[float]) -> Histogram:
    """A histogram of these observations."""
    counts = tuple(float(sum(v <= bound for v in values)) for bound in (*BOUNDS, math.inf))
    return Histogram(BOUNDS, counts, sum(values))


def window(**values: list[float]) -> Window:
    """A window in which these were observed."""
    old = Sample(0.0, histograms={name: counted([]) for name in values})
    return Window(old, Sample(300.04, histograms={n: counted(v) for n, v in values.items()}))


@given(st.lists(st.floats(0.001, 3.0), min_size=1, max_size=50), st.sampled_from(BOUNDS))
def test_at_a_bound_of_a_bucket_the_share_is_exact(values: list[float], target: float) -> None:
    exact = sum(value <= target for value in values) / len(values)
    assert within(window(x=values).buckets("x"), target) == pytest.approx(exact)


@given(st.lists(st.floats(0.001, 3.0), min_size=1), st.floats(0.0, 2.0), st.floats(0.0, 2.0))
def test_a_later_target_is_held_at_least_as_often(values: list[float], a: float, b: float) -> None:
    buckets = window(x=values).buckets("x")
    early, late = within(buckets, min(a, b)), within(buckets, max(a, b))
    assert early is not None
    assert late is not None
    assert 0.0 <= early <= late <= 1.0


def test_inside_a_bucket_observations_count_as_evenly_spread() -> None:
    buckets = window(x=[0.3, 0.3, 0.3, 0.3]).buckets("x")
    assert within(buckets, 0.35) == pytest.approx(0.5)


def test_what_is_beyond_the_last_bound_is_late() -> None:
    assert within(window(x=[0.05, 5.0]).buckets("x"), 4.0) == pytest.approx(0.5)
    assert within((), 1.0) is None
    assert within(window(x=[]).buckets("x"), 1.0) is None


def test_only_targets_that_are_set_are_judged_and_the_lowest_counts() -> None:
    seen = window(ttft_s=[0.05] * 9 + [0.6], itl_s=[0.05] * 4, e2e_s=[0.9])
    told = attainment(seen, Slo(ttft_p95_s=0.5, itl_p95_s=0.1))
    assert (told.window_s, told.itl, told.e2e) == (300.0, 1.0, None)
    assert told.ttft == told.overall == pytest.approx(0.9)
    assert attainment(seen, Slo()).overall is None
    assert attainment(None, Slo(ttft_p95_s=0.5)) == Attainment()
