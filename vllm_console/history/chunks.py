"""How lines lie in the file: the keys of chunks, the journal of rows not yet packed, statements."""

from __future__ import annotations

import sqlite3
import struct
import zlib
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from vllm_console.history.codec import Chunk, NotAChunk, shuffle, unshuffle
from vllm_console.history.layout import Layout
from vllm_console.history.line import Entry

Found = tuple[int, int, bytes]
"""Key, layout and bytes of a chunk."""
Statement = tuple[str, Sequence[Any]]
"""SQL and its parameters."""

_TIER, _LINE, _TICK_MS = 60, 36, 64
_MOMENTS = (1 << _LINE) - 1
_END = _MOMENTS * _TICK_MS
_HEAD_TIER = 56
_COUNT = struct.Struct("<I")
_ENTRY = struct.Struct("<IIqH")


def key(tier: int, line: int, at: int) -> int:
    """The key of the chunk whose first row is at `at` (ms since the epoch), to 64 ms.

    Keys of one tier and line are in order of time: a row is found by one look-up.
    """
    return tier << _TIER | line << _LINE | max(0, min(_MOMENTS, at // _TICK_MS))


def put_layout(number: int, layout: Layout) -> Statement:
    """Keep a layout."""
    return "INSERT OR REPLACE INTO layout VALUES (?, ?)", (number, layout.to_json())


def put_line(number: int, subject: str, born: int, layout: int, origin: str) -> Statement:
    """Keep a line, with what its counts go on from."""
    values = (number, subject, born, layout, origin)
    return "INSERT OR REPLACE INTO line VALUES (?, ?, ?, ?, ?)", values


def put_chunk(tier: int, line: int, at: int, layout: int, blob: bytes) -> Statement:
    """Keep a chunk."""
    values = (key(tier, line, at), layout, blob)
    return "INSERT OR REPLACE INTO chunk VALUES (?, ?, ?)", values


def drop_chunks(tier: int, line: int, before: int) -> Statement:
    """Drop the chunks of a line that begin before `before` (ms since the epoch)."""
    bounds = (key(tier, line, 0), key(tier, line, before))
    return "DELETE FROM chunk WHERE k BETWEEN ? AND ?", bounds


def find_chunk(connection: sqlite3.Connection, tier: int, line: int, at: int) -> Found | None:
    """The newest chunk that begins at or before `at`."""
    found: Found | None = connection.execute(
        "SELECT k, layout, rows FROM chunk WHERE k BETWEEN ? AND ? ORDER BY k DESC LIMIT 1",
        (key(tier, line, 0), key(tier, line, at)),
    ).fetchone()
    return found


def next_chunk(connection: sqlite3.Connection, tier: int, line: int, at: int) -> Found | None:
    """The oldest chunk that begins after `at`."""
    found: Found | None = connection.execute(
        "SELECT k, layout, rows FROM chunk WHERE k > ? AND k <= ? ORDER BY k LIMIT 1",
        (key(tier, line, at), key(tier, line, _END)),
    ).fetchone()
    return found


def chunks_between(
    connection: sqlite3.Connection, tier: int, line: int, since: int, until: int
) -> Iterable[Found]:
    """The chunks that may hold rows of a span, oldest first."""
    first = find_chunk(connection, tier, line, since)
    yield from connection.execute(
        "SELECT k, layout, rows FROM chunk WHERE k BETWEEN ? AND ? ORDER BY k",
        (key(tier, line, since) if first is None else first[0], key(tier, line, until)),
    )


def oldest_chunks(connection: sqlite3.Connection, tier: int) -> list[int]:
    """Keys of the chunks of a tier, oldest first."""
    bounds = (tier << _TIER, (tier + 1 << _TIER) - 1)
    found = connection.execute("SELECT k FROM chunk WHERE k BETWEEN ? AND ?", bounds)
    return sorted((k for (k,) in found), key=lambda k: k & _MOMENTS)


def head_key(tier: int, number: int) -> int:
    """The key of a journal entry."""
    return tier << _HEAD_TIER | number


def put_head(tier: int, number: int, blob: bytes) -> Statement:
    """Journal the rows of one tick in one tier."""
    return "INSERT OR REPLACE INTO head VALUES (?, ?)", (head_key(tier, number), blob)


def drop_heads(tier: int, upto: int) -> Statement:
    """Drop journal entries that are packed by now."""
    bounds = (head_key(tier, 0), head_key(tier, upto))
    return "DELETE FROM head WHERE k BETWEEN ? AND ?", bounds


class Stored(NamedTuple):
    """A row as it lies in the file, of a line and a layout by their numbers."""

    line: int
    layout: int
    at: int
    """Milliseconds since the epoch."""
    numbers: array[int]


def to_head(entries: Sequence[Entry], layouts: dict[Layout, int]) -> bytes:
    """The rows of one tick, all lines together."""
    heads, numbers = [_COUNT.pack(len(entries))], array("q")
    for line, _, row in entries:
        heads.append(_ENTRY.pack(line.number, layouts[row.layout], row.at, len(row.numbers)))
        numbers.extend(row.numbers)
    return zlib.compress(b"".join((*heads, shuffle(numbers))), 1)


def from_head(blob: bytes) -> list[Stored]:
    """What `to_head` made; raises `NotAChunk`."""
    try:
        raw = zlib.decompress(blob)
        (count,) = _COUNT.unpack_from(raw)
        start = _COUNT.size + count * _ENTRY.size
        heads = list(_ENTRY.iter_unpack(raw[_COUNT.size : start]))
        numbers = unshuffle(raw[start:], "q")
    except (zlib.error, struct.error, ValueError) as error:
        raise NotAChunk(f"no journal entry: {error}") from None
    found, end = [], 0
    for line, layout, at, width in heads:
        found.append(Stored(line, layout, at, numbers[end : end + width]))
        end += width
    return found


def last_row(connection: sqlite3.Connection, tier: int, line: int) -> Stored | None:
    """The newest row that is packed in a tier of a line."""
    found = find_chunk(connection, tier, line, _END)
    if found is None:
        return None
    chunk = Chunk(found[2])
    numbers = array("q")
    for section in range(1, chunk.sections):
        numbers.extend(chunk.section(section).row(chunk.rows - 1))
    return Stored(line, found[1], chunk.section(0).column(0)[-1], numbers)


def last_at(connection: sqlite3.Connection, tier: int, line: int) -> int:
    """When the newest row that is packed in a tier of a line is; -1 where none is."""
    found = find_chunk(connection, tier, line, _END)
    return -1 if found is None else Chunk(found[2]).section(0).column(0)[-1]
