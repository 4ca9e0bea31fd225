"""A passage of a worker's log as text: the last lines, or what follows a byte offset."""

from __future__ import annotations

import codecs
from pathlib import Path

from vllm_console.workers.logs import CHUNK, read

_LOOK_BACK = 4 * CHUNK


def passage(
    path: Path, *, offset: int | None = None, lines: int = 200, limit: int = CHUNK
) -> tuple[int, str]:
    """The byte offset to go on at, and the text before it.

    Without an offset: the last `lines` lines. A character that is only half written is left for
    the next passage; bytes that are no UTF-8 show as U+FFFD.
    """
    if offset is not None:
        chunk = read(path, offset, limit)
        text, left = _decode(chunk.data)
        return chunk.end - left, text
    try:
        size = path.stat().st_size
    except OSError:
        size = 0
    start = max(0, size - _LOOK_BACK)
    chunk = read(path, start, _LOOK_BACK)
    text, left = _decode(chunk.data)
    kept = text.splitlines(keepends=True)[-lines:] if lines > 0 else []
    return chunk.end - left, "".join(kept)


def _decode(data: bytes) -> tuple[str, int]:
    """The text of `data` and how many bytes at its end are half a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data)
    return text, len(decoder.getstate()[0])
