"""Amounts of memory and disk as people write them: "500MB", "2GiB"."""

from __future__ import annotations

import re

_UNITS = {
    "": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
    "TIB": 1 << 40,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: str) -> int:
    """Bytes of "2GB" (10⁹ each) or "2GiB" (2³⁰ each); raises `ValueError` with what to write."""
    found = _SIZE.fullmatch(text)
    unit = _UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None:
        raise ValueError(f'"{text}" is not a size: write one like "500MB" or "2GiB"')
    return round(float(found[1]) * unit)
