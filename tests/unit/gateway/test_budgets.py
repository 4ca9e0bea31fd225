"""Buckets a minute and $ a month: never more than promised, and a wait that is just long enough."""

from __future__ import annotations

from calendar import timegm

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_console.gateway.budgets import Bucket, Month, month_around

RATES = st.integers(1, 10**6)


def utc(*date: int) -> float:
    return float(timegm((*date, 0, 0, 0)[:6]))


def test_a_minutes_worth_may_be_taken_at_once_and_then_as_it_fills() -> None:
    bucket = Bucket(60, 100.0)
    for _ in range(60):
        assert bucket.lacks(1, 100.0) == 0
        bucket.take(1)
    assert bucket.lacks(1, 100.0) == pytest.approx(1.0)
    assert bucket.lacks(3, 101.0) == pytest.approx(2.0)
    assert bucket.lacks(1, 101.0) == 0


def test_it_holds_no_more_than_a_minutes_worth_however_long_it_rests() -> None:
    bucket = Bucket(60, 0.0)
    assert bucket.lacks(60, 1e9) == 0
    assert bucket.level == 60


def test_what_is_owed_has_to_fill_first() -> None:
    bucket = Bucket(60, 0.0)
    bucket.take(90)
    assert bucket.lacks(1, 0.0) == pytest.approx(31.0)


def test_a_clock_that_stands_or_goes_back_fills_nothing() -> None:
    bucket = Bucket(60, 50.0)
    bucket.take(60)
    bucket.lacks(0, 40.0)
    assert bucket.level == 0
    assert bucket.lacks(1, 51.0) == 0


@given(RATES, st.lists(st.tuples(st.floats(0, 100), st.integers(1, 10**6)), max_size=60))
def test_no_span_gives_more_than_a_minutes_worth_and_its_length(
    rate: int, tries: list[tuple[float, int]]
) -> None:
    bucket = Bucket(rate, 0.0)
    now, taken = 0.0, [(0.0, 0)]
    for pause, amount in tries:
        now += pause
        if amount <= rate and bucket.lacks(amount, now) == 0:
            bucket.take(amount)
            taken.append((now, amount))
    for index, (since, _) in enumerate(taken):
        total = 0
        for at, amount in taken[index:]:
            total += amount
            assert total <= (rate + (at - since) * rate / 60) * (1 + 1e-9) + 1e-6


@given(RATES, st.integers(0, 10**7), st.floats(0, 1))
def test_a_wait_is_just_as_long_as_it_has_to_be(rate: int, owed: int, share: float) -> None:
    bucket = Bucket(rate, 0.0)
    bucket.take(owed)
    amount = rate * share
    wait = bucket.lacks(amount, 0.0)
    if wait > 1e-3:
        assert bucket.lacks(amount, wait * 0.99) > 0
    assert bucket.lacks(amount, wait * 1.000001 + 1e-6) == 0


@given(RATES, st.lists(st.tuples(st.floats(0, 100), st.integers(-(10**6), 10**6)), max_size=30))
def test_what_is_given_back_never_makes_it_fuller_than_full(
    rate: int, moves: list[tuple[float, int]]
) -> None:
    bucket = Bucket(rate, 0.0)
    now = 0.0
    for pause, amount in moves:
        now += pause
        bucket.lacks(0, now)
        bucket.take(amount)
        assert bucket.level <= rate


def test_another_limit_keeps_what_is_owed() -> None:
    full, owing = Bucket(60, 0.0), Bucket(60, 0.0)
    owing.take(90)
    for bucket in (full, owing):
        bucket.resize(600, 0.0)
    assert (full.level, owing.level) == (600, -30)
    assert owing.lacks(0, 3.0) == 0
    full.resize(6, 0.0)
    assert full.level == 6


@pytest.mark.parametrize(
    ("at", "begins", "ends"),
    [
        (utc(2026, 11, 21, 10), utc(2026, 11, 1), utc(2026, 12, 1)),
        (utc(2026, 12, 31, 23, 59, 59), utc(2026, 12, 1), utc(2027, 1, 1)),
        (utc(2028, 2, 29), utc(2028, 2, 1), utc(2028, 3, 1)),
        (utc(2026, 1, 1), utc(2026, 1, 1), utc(2026, 2, 1)),
    ],
)
def test_a_month_is_of_utc(at: float, begins: float, ends: float) -> None:
    assert month_around(at) == (begins, ends)


def test_a_new_month_begins_with_nothing_spent() -> None:
    month = Month(utc(2026, 11, 30), 5.0)
    month.spent += 2.5
    assert month.at(utc(2026, 12, 1) - 0.001) == 7.5
    assert month.at(utc(2026, 12, 1)) == 0
    month.spent += 1.0
    assert month.at(utc(2026, 12, 31)) == 1.0


def test_what_was_stored_counts_where_it_is_more() -> None:
    month = Month(utc(2026, 11, 5), 5.0)
    month.at_least(4.0, utc(2026, 11, 5))
    assert month.spent == 5.0
    month.at_least(6.0, utc(2026, 11, 5))
    assert month.spent == 6.0
    month.at_least(0.5, utc(2026, 12, 5))
    assert month.spent == 0.5
