"""The names that clients' keys go by, in fleet.toml and on the command line. Stdlib only."""

from __future__ import annotations

import re

ANONYMOUS = "anonymous"
"""Who a request without a key is counted for; no key has this name."""
KEY_NAME_FORM = (
    'a name of at most 64 letters, digits, ".", "_", "@" and "-" that begins with a letter or '
    f'digit and is not "{ANONYMOUS}"'
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


def is_key_name(name: str) -> bool:
    """Whether a key may have this name."""
    return name != ANONYMOUS and _NAME.fullmatch(name) is not None
