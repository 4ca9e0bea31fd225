"""A program of ours as Python has compiled it: compiling it again takes time and memory."""

from __future__ import annotations

import os
import sys
from importlib.util import MAGIC_NUMBER, cache_from_source, source_hash
from pathlib import Path

_CHECKED_BY_HASH = 1
"""Flag of a .pyc that carries the hash of its source in place of its time and size (PEP 552)."""


def compiled(source: str, python: str) -> str:
    """The .pyc of a source file if it is that very source's, else the source file itself.

    A process that compiles what it runs keeps the memory that took: half a megabyte for a shim.
    """
    if python != sys.executable:
        return source
    try:
        cached = cache_from_source(source)
        with open(cached, "rb") as file:
            head = file.read(16)
        written = os.stat(source)
        content = Path(source).read_bytes()
    except (OSError, NotImplementedError):
        return source
    flags = int.from_bytes(head[4:8], "little")
    if flags & _CHECKED_BY_HASH:
        mark = source_hash(content)
    else:
        mark = b"".join(
            (number & 0xFFFFFFFF).to_bytes(4, "little")
            for number in (int(written.st_mtime), written.st_size)
        )
    fresh = head[:4] == MAGIC_NUMBER and head[8:] == mark
    return cached if fresh else source
