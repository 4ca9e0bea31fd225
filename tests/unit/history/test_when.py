"""Times as people write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from vllm_console.errors import InvalidInput
from vllm_console.history.when import iso, moment, on_grid, seconds_of

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 21, 10, 30, 15, tzinfo=BERLIN).timestamp()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("now", "2026-11-21T10:30:15+01:00"),
        ("24h", "2026-11-20T10:30:15+01:00"),
        ("7d ago", "2026-11-14T10:30:15+01:00"),
        ("1h 30m", "2026-11-21T09:00:15+01:00"),
        ("today", "2026-11-21T00:00:00+01:00"),
        ("Yesterday", "2026-11-20T00:00:00+01:00"),
        ("yesterday 14:00", "2026-11-20T14:00:00+01:00"),
        ("9:05", "2026-11-21T09:05:00+01:00"),
        ("2026-10-25", "2026-10-25T00:00:00+02:00"),
        ("2026-10-25 14:00:07", "2026-10-25T14:00:07+01:00"),
        ("2026-11-20T14:00", "2026-11-20T14:00:00+01:00"),
        ("2026-11-20T14:00:00Z", "2026-11-20T14:00:00+00:00"),
        ("2026-11-20T14:00:00.250-05:00", "2026-11-20T14:00:00.250-05:00"),
    ],
)
def test_a_time_means_what_it_says(text: str, meant: str) -> None:
    assert moment(text, NOW, BERLIN) == datetime.fromisoformat(meant).timestamp()


def test_a_time_without_a_zone_is_this_machines() -> None:
    local = datetime(2026, 11, 20, 14).astimezone()
    assert moment("2026-11-20 14:00", NOW) == local.timestamp()


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("yesterdy", 'did you mean "yesterday"?'),
        ("yesterdya 14:00", 'did you mean "yesterday 14:00"?'),
        ("25:00", "write "),
        ("2026-13-01", "write "),
        ("yesterday 14", "write "),
        ("yesterday 14:00 sharp", "write "),
        ("", "write "),
    ],
)
def test_what_is_no_time_is_one_line_with_a_way_out(text: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        moment(text, NOW, BERLIN)
    assert str(caught.value).startswith(f'not a time: "{text}"; ')
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["100000000d", "1969-12-31", "0001-01-01T00:00:00Z"])
def test_a_time_before_all_history_is_told(text: str) -> None:
    with pytest.raises(InvalidInput, match="is before 1970; write "):
        moment(text, NOW, BERLIN)


def test_steps_begin_at_midnight_of_the_zone() -> None:
    noon = datetime(2026, 11, 20, 12, 7, tzinfo=BERLIN)
    assert on_grid(noon.timestamp(), 86400, BERLIN) == noon.replace(hour=0, minute=0).timestamp()
    assert on_grid(noon.timestamp(), 300, BERLIN) == noon.replace(minute=5).timestamp()
    odd = timezone(timedelta(hours=5, minutes=45))
    assert on_grid(noon.timestamp(), 3600, odd) % 3600 == 900


def test_iso_is_what_events_have() -> None:
    at = datetime(2026, 11, 20, 14, 0, 0, 250000, tzinfo=UTC).timestamp()
    assert iso(at) == "2026-11-20T14:00:00.250Z"
    assert seconds_of(iso(at)) == at
