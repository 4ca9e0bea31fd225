"""Durations are read with their unit and written as short as they were."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllm_console.fleet.duration import format_duration, parse_duration

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no failure."""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("350ms", 0.35), ("30s", 30), ("1.5m", 90), ("1h30m", 5400), ("2 d", 172800), ("0s", 0)],
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "15", "m", "-5s", "5 minutes", "1m x", "1e3s", "5M"])
def test_anything_else_is_refused_with_the_way_out(text: str) -> None:
    with pytest.raises(ValueError, match='such as "15m"'):
        parse_duration(text)


@pytest.mark.parametrize("text", ["350ms", "30s", "15m", "2h", "1d", "0s", "1.5s", "90s"])
def test_a_common_duration_is_written_as_people_write_it(text: str) -> None:
    assert format_duration(parse_duration(text)) == text


@UNHURRIED
@given(st.floats(min_value=1e-6, max_value=1e7))
def test_what_is_written_reads_back_as_the_same_time(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-6)
