"""A line of TOML in inks: tables and keys stand out, comments stand back."""

from __future__ import annotations

import re

from vllm_console.ui.rows import Row

_COMMENT = re.compile(r"""(?:[^"'#]|"(?:\\.|[^"\\])*"|'[^']*')*""")
_KEY = re.compile(r"^(\s*)([\w.\"'-]+)(\s*=\s*)(.*)$")


def toml_row(line: str) -> Row:
    """The line as a row."""
    code = _COMMENT.match(line)
    end = code.end() if code else len(line)
    body, comment = line[:end], line[end:]
    if body.lstrip().startswith("["):
        return [(body, "engines!"), (comment, "dim")]
    match = _KEY.match(body)
    if match is None:
        return [(body, "text"), (comment, "dim")]
    indent, key, equals, value = match.groups()
    return [(indent, ""), (key, "label"), (equals, "dim"), (value, "value"), (comment, "dim")]
