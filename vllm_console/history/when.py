"""Times as people write them: "24h", "yesterday 14:00", "2026-11-20", ISO 8601."""

from __future__ import annotations

import difflib
import re
from datetime import UTC, datetime, time, timedelta, tzinfo

from vllm_console.errors import InvalidInput
from vllm_console.fleet.duration import parse_duration

FORMS = (
    '"24h" or "7d" ago, "now", "today", "yesterday", "14:00", "yesterday 14:00", "2026-11-20", '
    '"2026-11-20 14:00" or ISO 8601'
)
"""The ways to write a time, for help texts."""
_DAYS = {"today": 0, "yesterday": 1}
_WORDS = ("now", *_DAYS)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def moment(text: str, now: float, zone: tzinfo | None = None) -> float:
    """Seconds since the epoch of a time that a person wrote.

    Times without an offset are of `zone`, by default that of this machine; a duration means so
    long before `now`. Raises `InvalidInput` with the nearest right spelling.
    """
    words = text.lower().removesuffix("ago").split()
    try:
        if words == ["now"]:
            at = now
        elif is_duration(text):
            at = now - parse_duration("".join(words))
        else:
            at = (_day_and_clock(words, now, zone) or _iso(text, zone)).timestamp()
    except (ValueError, OverflowError, OSError):
        near = difflib.get_close_matches(words[0] if words else "", _WORDS, n=1)
        meant = " ".join((*near, *words[1:]))
        hint = f'did you mean "{meant}"?' if near and near != words[:1] else f"write {FORMS}"
        raise InvalidInput(f'not a time: "{text}"; {hint}') from None
    if at < 0:
        raise InvalidInput(f'not a time: "{text}" is before 1970; write {FORMS}')
    return at


def is_duration(text: str) -> bool:
    """Whether a time is given as so long ago."""
    try:
        parse_duration("".join(text.lower().removesuffix("ago").split()))
    except ValueError:
        return False
    return True


def on_grid(at: float, step: float, zone: tzinfo | None = None) -> float:
    """The last multiple of `step` seconds, counted from a midnight there, at or before `at`."""
    there = datetime.fromtimestamp(at, UTC).astimezone(zone)
    offset = (there.utcoffset() or timedelta()).total_seconds()
    return (at + offset) // step * step - offset


def iso(at: float) -> str:
    """ISO 8601 UTC to the millisecond, as events have it."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_of(text: str) -> float:
    """The inverse of `iso`; raises `ValueError`."""
    return datetime.fromisoformat(text).timestamp()


def _day_and_clock(words: list[str], now: float, zone: tzinfo | None) -> datetime | None:
    """ "yesterday", "14:00", "yesterday 14:00", "2026-11-20 14:00"; `None` for anything else."""
    if not 1 <= len(words) <= 2:
        return None
    today = datetime.fromtimestamp(now, UTC).astimezone(zone).date()
    day, clock = today, time()
    if words[0] in _DAYS:
        day = today - timedelta(days=_DAYS[words[0]])
    elif _DATE.fullmatch(words[0]):
        day = datetime.strptime(words[0], "%Y-%m-%d").date()  # noqa: DTZ007 - a day has no zone
    elif len(words) == 2 or not _CLOCK.fullmatch(words[0]):
        return None
    if found := _CLOCK.fullmatch(words[-1]):
        hour, minute, second = (int(number or 0) for number in found.groups())
        clock = time(hour, minute, second)
    elif len(words) == 2:
        return None
    return _in_zone(datetime.combine(day, clock), zone)


def _iso(text: str, zone: tzinfo | None) -> datetime:
    found = datetime.fromisoformat(text.strip())
    return found if found.tzinfo is not None else _in_zone(found, zone)


def _in_zone(naive: datetime, zone: tzinfo | None) -> datetime:
    return naive.astimezone() if zone is None else naive.replace(tzinfo=zone)
