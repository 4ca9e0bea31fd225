"""A worker's log by byte offset. Offsets never move: old bytes become a hole, which is skipped."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

CHUNK = 256 << 10

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes of a log as they were written, without the NULs of a hole."""

    data: bytes
    start: int
    """Offset of the first byte."""
    end: int
    """Where to go on reading."""


def plain(text: str) -> str:
    """Text without terminal escapes and other control characters, save tab, \\r and \\n."""
    return _CONTROL.sub("", _ESCAPE.sub("", text))


def read(path: Path, offset: int = 0, limit: int = CHUNK) -> Chunk:
    """Up to `limit` bytes from `offset`, or from the first data after it.

    A file that has become shorter than `offset` is read from its start; a missing one is empty.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return Chunk(b"", offset, offset)
    try:
        seen = os.fstat(file)
        if not stat.S_ISREG(seen.st_mode):  # a directory, or a pipe that nobody writes to
            return Chunk(b"", offset, offset)
        if seen.st_size < offset:
            offset = 0
        try:
            offset = max(offset, os.lseek(file, offset, os.SEEK_DATA))
        except OSError:
            return Chunk(b"", offset, offset)
        data = os.pread(file, limit, offset)
    finally:
        os.close(file)
    return Chunk(data.replace(b"\0", b""), offset, offset + len(data))


def tail(path: Path, lines: int, start: int = 0, limit: int = 4 * CHUNK) -> list[str]:
    """The last `lines` lines written at or after `start`, as plain text, oldest first.

    Looks at the last `limit` bytes at most. Of a progress bar redrawn by \\r its last drawing
    counts.
    """
    try:
        size = path.stat().st_size
    except OSError:
        return []
    if size < start:
        start = 0
    first = max(start, size - limit)
    chunk = read(path, first, limit)
    found = split(chunk.data)
    return found[chunk.start > start :][-lines:] if lines > 0 else []


def split(data: bytes) -> list[str]:
    """Whole and last partial lines as plain text."""
    text = data.decode("utf-8", "replace")
    rows = [plain(line.rstrip("\r").rpartition("\r")[2]) for line in text.split("\n")]
    return rows[:-1] if rows[-1] == "" else rows


async def follow(
    path: Path, offset: int, ended: asyncio.Event | None = None, interval_s: float = 0.1
) -> AsyncIterator[Chunk]:
    """What is written from `offset` on, as it grows; ends once `ended` is set and all is read.

    Looks at the file's size every `interval_s` seconds: some microseconds a look.
    """
    last = ended is not None and ended.is_set()
    while True:
        chunk = read(path, offset)
        if chunk.data:
            offset = chunk.end
            yield chunk
            continue
        if last:
            return
        if ended is None:
            await asyncio.sleep(interval_s)
            continue
        try:
            await asyncio.wait_for(ended.wait(), interval_s)
            last = True
        except TimeoutError:
            continue
