"""Rates and percentiles of windows."""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_console.telemetry.sample import Histogram, Sample
from vllm_console.telemetry.window import POINT, Window, bracket, quantile


def _window(old: Histogram, new: Histogram) -> Window:
    return Window(Sample(0.0, histograms={"h": old}), Sample(60.0, histograms={"h": new}))


def test_a_rate_is_growth_over_time() -> None:
    window = Window(Sample(10.0, {"a": 100.0}), Sample(15.0, {"a": 150.0, "b": 1.0}))
    assert window.seconds == 5.0
    assert window.delta("a") == 50
    assert window.rate("a") == 10


def test_what_a_window_cannot_tell_is_none() -> None:
    window = Window(Sample(10.0, {"a": 100.0, "c": 5.0}), Sample(15.0, {"a": 90.0, "b": 1.0}))
    assert window.rate("a") is None
    assert window.rate("b") is None
    assert window.rate("c") is None
    assert window.rate("d") is None
    assert Window(window.old, window.old).rate("a") is None
    assert window.buckets("h") == ()
    assert window.quantiles("h").count == 0
    assert window.quantiles("h").p50 is None


def test_a_ratio_needs_something_to_divide_by() -> None:
    old = Sample(0.0, {"hits": 1.0, "queries": 10.0})
    assert Window(old, Sample(1.0, {"hits": 4.0, "queries": 14.0})).ratio("hits", "queries") == 0.75
    assert Window(old, Sample(1.0, {"hits": 1.0, "queries": 10.0})).ratio("hits", "queries") is None


def test_percentiles_are_of_the_window_and_not_of_all_time() -> None:
    old = Histogram((1.0, 2.0, 4.0), (1000.0, 1000.0, 1000.0, 1000.0), 100.0)
    new = Histogram((1.0, 2.0, 4.0), (1000.0, 1050.0, 1100.0, 1100.0), 400.0)
    quantiles = _window(old, new).quantiles("h")
    assert quantiles.p50 == 2.0
    assert quantiles.p95 == pytest.approx(3.8)
    assert quantiles.p99 == pytest.approx(3.96)
    assert quantiles.count == 100
    assert _window(old, new).buckets("h") == ((1.0, 0), (2.0, 50), (4.0, 50), (math.inf, 0))


def test_a_window_without_an_event_has_no_percentile() -> None:
    same = Histogram((1.0,), (5.0, 9.0), 3.0)
    quantiles = _window(same, same).quantiles("h")
    assert (quantiles.p50, quantiles.p95, quantiles.p99, quantiles.count) == (None, None, None, 0)


def test_other_bounds_or_falling_counts_have_no_percentile() -> None:
    one = Histogram((1.0,), (5.0, 9.0), 3.0)
    assert _window(one, Histogram((2.0,), (6.0, 10.0), 3.0)).quantiles("h").p50 is None
    assert _window(one, Histogram((1.0,), (1.0, 2.0), 3.0)).quantiles("h").p50 is None


@pytest.mark.parametrize(
    ("q", "counts", "expected"),
    [
        (0.5, (10.0, 10.0, 10.0), 0.5),  # first bucket: from 0 to its bound
        (0.9, (0.0, 10.0, 10.0), 2.8),  # inside (1, 3]
        (0.5, (5.0, 5.0, 10.0), 1.0),  # rank falls on the end of the first bucket
        (0.99, (0.0, 0.0, 10.0), 3.0),  # +Inf bucket: its lower bound
        (0.0, (0.0, 4.0, 4.0), 1.0),
        (1.0, (2.0, 4.0, 4.0), 3.0),
        (0.5, (0.0, 0.0, 0.0), None),
    ],
)
def test_a_quantile_is_that_of_prometheus(
    q: float, counts: tuple[float, ...], expected: float | None
) -> None:
    got = quantile(q, (1.0, 3.0), counts)
    assert got is None if expected is None else got == pytest.approx(expected)


def test_a_histogram_of_nothing_but_the_last_bucket_tells_nothing() -> None:
    assert quantile(0.5, (), (7.0,)) is None


@pytest.mark.parametrize(
    ("q", "counts", "expected"),
    [
        (0.5, (10.0, 10.0, 10.0, 10.0), (0.0, 1.0)),  # the first bucket begins at 0
        (0.5, (0.0, 10.0, 10.0, 10.0), None),  # (1, 1.25] is 11 % to either side
        (0.5, (0.0, 0.0, 10.0, 10.0), (1.25, 2.5)),
        (0.99, (0.0, 0.0, 0.0, 10.0), (2.5, None)),  # beyond the last bound
        (0.5, (0.0, 0.0, 0.0, 0.0), None),
    ],
)
def test_a_bucket_too_wide_for_a_point_is_a_bracket(
    q: float, counts: tuple[float, ...], expected: tuple[float, float | None] | None
) -> None:
    assert bracket(q, (1.0, 1.25, 2.5), counts) == expected


@pytest.mark.parametrize(("upper", "wide"), [(1.35, False), (1.36, True)])
def test_a_point_is_at_most_15_percent_from_the_ends_of_its_bucket(
    upper: float, wide: bool
) -> None:
    assert (bracket(0.5, (1.0, upper), (0.0, 10.0, 10.0)) is not None) is wide


def test_quantiles_carry_their_brackets_and_say_which_are_thin() -> None:
    bounds = (1.0, 1.25, 2.5)
    nothing = Histogram(bounds, (0.0,) * 4, 0.0)
    few = _window(nothing, Histogram(bounds, (0.0, 50.0, 59.0, 59.0), 60.0)).quantiles("h")
    assert few.p50_between is None
    assert few.p95_between == few.p99_between == (1.25, 2.5)
    assert few.p95 is not None
    assert few.thin == ("p95", "p99")
    more = _window(nothing, Histogram(bounds, (0.0, 60.0, 60.0, 60.0), 60.0)).quantiles("h")
    assert more.thin == ("p99",)
    most = _window(nothing, Histogram(bounds, (0.0, 300.0, 300.0, 300.0), 300.0)).quantiles("h")
    assert most.thin == ()
    assert _window(nothing, nothing).quantiles("h").thin == ()


@given(
    values=st.lists(st.floats(0.001, 100.0), min_size=1, max_size=200),
    bounds=st.sets(st.floats(0.01, 100.0), min_size=1, max_size=12).map(sorted),
    q=st.floats(0.01, 1.0),
)
def test_the_truth_lies_in_the_bracket_or_near_the_point(
    values: list[float], bounds: list[float], q: float
) -> None:
    each = [0] * (len(bounds) + 1)
    for value in values:
        each[bisect_left(bounds, value)] += 1
    counts = [float(count) for count in accumulate(each)]
    true = sorted(values)[math.ceil(q * len(values)) - 1]
    between, point = bracket(q, bounds, counts), quantile(q, bounds, counts)
    assert point is not None
    if between is None:
        assert abs(point - true) <= 2 * POINT / (1 - POINT) * true * (1 + 1e-9)
    else:
        assert between[0] <= true <= (math.inf if between[1] is None else between[1])


@given(
    values=st.lists(st.floats(0.0, 100.0), min_size=1, max_size=200),
    bounds=st.sets(st.floats(0.01, 100.0), min_size=1, max_size=12).map(sorted),
    q=st.floats(0.01, 1.0),
)
def test_a_quantile_lies_in_the_bucket_of_the_true_one(
    values: list[float], bounds: list[float], q: float
) -> None:
    each = [0] * (len(bounds) + 1)
    for value in values:
        each[bisect_left(bounds, value)] += 1
    got = quantile(q, bounds, [float(count) for count in accumulate(each)])
    assert got is not None
    true = sorted(values)[math.ceil(q * len(values)) - 1]
    bucket = bisect_left(bounds, true)
    if bucket == len(bounds):
        assert got == bounds[-1]
    else:
        lower = bounds[bucket - 1] if bucket else 0.0
        assert lower <= got <= bounds[bucket] or got == pytest.approx(bounds[bucket])
