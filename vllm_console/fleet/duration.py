"""Durations as people write them: "350ms", "15m", "1h30m"."""

from __future__ import annotations

import re
from fractions import Fraction

_SECONDS: dict[str, Fraction | int] = {
    "ms": Fraction(1, 1000),
    "s": 1,
    "m": 60,
    "h": 3600,
    "d": 86400,
}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


def parse_duration(text: str) -> float:
    """Seconds of a duration such as "350ms", "30s", "15m" or "1h30m".

    Raises `ValueError` with the line a user reads.
    """
    compact = text.replace(" ", "")
    if not _WHOLE.fullmatch(compact):
        raise ValueError(
            f'not a duration: "{text}"; write a number and a unit (ms, s, m, h, d), such as "15m"'
        )
    return float(sum(Fraction(n) * _SECONDS[unit] for n, unit in _PART.findall(compact)))


def format_duration(seconds: float) -> str:
    """The shortest single-unit spelling that `parse_duration` reads back to the same number."""
    for unit in ("d", "h", "m", "s"):
        count = seconds / float(_SECONDS[unit])
        if count >= 1 and count == int(count):
            return f"{int(count)}{unit}"
    if seconds == 0:
        return "0s"
    if seconds < 1:
        return f"{_decimal(seconds * 1000)}ms"
    return f"{_decimal(seconds)}s"


def _decimal(number: float) -> str:
    return f"{number:.9f}".rstrip("0").rstrip(".")
