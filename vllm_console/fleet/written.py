"""Keys and values as fleet.toml writes them."""

from __future__ import annotations

import json
import re
from typing import Any


def key_as_toml(key: str) -> str:
    """A key, in quotes where it needs them."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def as_toml(value: Any) -> str:
    """A value of a fleet file as the file writes it."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key_as_toml(k)} = {as_toml(v)}' for k, v in value.items())} }}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(as_toml, value))}]"
    if isinstance(value, (str, bool)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
