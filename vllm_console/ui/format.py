"""Numbers as the screen writes them: three significant figures, the unit apart, `–` for unknown."""

from __future__ import annotations

from datetime import datetime, tzinfo

NONE = "–"
"""What an unknown value looks like; never 0, never NaN."""

_SCALES = (("G", 1e9), ("M", 1e6), ("k", 1e3))


def sig3(value: float) -> str:
    """Three significant figures below 1000: `2.54`, `12.3`, `127`; whole numbers stay whole."""
    if value == int(value) and abs(value) < 1000:
        return f"{value:.0f}"
    for digits in (2, 1):
        if abs(value) < 10 ** (3 - digits) - 0.5 * 10**-digits:
            return f"{value:.{digits}f}"
    return f"{value:.0f}"


def figure(value: float) -> str:
    """Three figures, three decimals below 1, thousands with a comma: `0.074`, `23.9`, `1,994`."""
    if 0 < value < 0.9995:
        return f"{value:.3f}"
    return sig3(value) if abs(value) < 999.5 else count(value) if abs(value) < 9999.5 else si(value)


def si(value: float | None) -> str:
    """A number with its SI letter in at most five cells: `999`, `1.54k`, `32.8k`, `2.10M`."""
    if value is None:
        return NONE
    for letter, scale in _SCALES:
        if abs(value) >= scale * 0.9995:
            return sig3(value / scale) + letter
    return sig3(value)


def count(value: float | None) -> str:
    """A whole number with commas up to five digits (`1,162`, `50,982`), beyond that `si`."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) < 99_999.5 else si(value)


def rate(value: float | None) -> str:
    """A rate: `0.42`, `4.20`, `37.5`, then whole with commas."""
    if value is None:
        return NONE
    return sig3(value) if abs(value) < 99.95 else count(value)


def tokens(value: float | None) -> str:
    """Tokens per second: whole from 10 on, since a tenth of a token says nothing there."""
    if value is None:
        return NONE
    return sig3(value) if 0 < abs(value) < 9.995 else count(value)


def duration(seconds: float | None) -> tuple[str, str]:
    """Seconds as (number, unit) in the unit that reads best, from ms to days."""
    if seconds is None:
        return NONE, ""
    if seconds < 0.9995:
        return sig3(seconds * 1e3), "ms"
    if seconds < 99.5:
        return sig3(seconds), "s"
    if seconds < 5400:
        return sig3(seconds / 60), "min"
    if seconds < 172_800:
        return sig3(seconds / 3600), "h"
    return sig3(seconds / 86_400), "d"


def uptime(seconds: float | None) -> tuple[str, str]:
    """Seconds since something began as (number, unit); its last digit moves at most once a second.

    >>> uptime(73.4), uptime(4000.0), uptime(273_000.0)
    (('73', 's'), ('66', 'min'), ('3.1', 'd'))
    """
    if seconds is None:
        return NONE, ""
    for unit, length, digits in (("d", 86_400, 1), ("h", 3600, 1), ("min", 60, 0)):
        if seconds >= 2 * length:
            scale = 10**digits
            return f"{int(seconds / length * scale) / scale:.{digits}f}", unit
    return f"{int(seconds)}", "s"


def age(seconds: float) -> str:
    """An age in whole units, for text that changes each second: `12 s`, `3 min`, `2 h`."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def gib(size: float | None) -> str:
    """Bytes as GiB: two digits behind the point below 1, one below 100, none above."""
    if size is None:
        return NONE
    value = size / 2**30
    if 0 < value < 0.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def size(count: float | None, like: float | None = None) -> tuple[str, str]:
    """Bytes as (number, unit): GiB as `gib` writes them, MiB below one.

    With `like` the unit is the one that reads best for so many bytes: what comes and goes keeps
    the unit of its whole.

    >>> size(131 * 2**30), size(1.3 * 2**20), size(0, like=4 * 2**20)
    (('131', 'GiB'), ('1.3', 'MiB'), ('0.0', 'MiB'))
    """
    if count is None:
        return NONE, ""
    if 0 < (count if like is None else like) < 0.995 * 2**30:
        value = count / 2**20
        return (f"{value:.1f}" if value < 9.95 else f"{value:.0f}"), "MiB"
    return gib(count), "GiB"


def percent(ratio: float | None) -> str:
    """A ratio 0..1 as a whole percentage without its sign."""
    return NONE if ratio is None else f"{ratio * 100:.0f}"


def date_and_clock(at: str, zone: tzinfo | None = None) -> str:
    """The day and time of an ISO 8601 time in `zone`, `2026-11-20 12:04:31`."""
    try:
        return datetime.fromisoformat(at).astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return NONE


def clock(at: str, zone: tzinfo | None = None) -> str:
    """The time of day of an ISO 8601 time in `zone` (default: this machine's), `12:04:31`."""
    try:
        return datetime.fromisoformat(at).astimezone(zone).strftime("%H:%M:%S")
    except ValueError:
        return NONE
