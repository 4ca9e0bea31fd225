"""One chunk: columns of whole numbers over a few moments, packed to a fraction of a byte each."""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from operator import sub

VERSION = 1
"""First byte of every chunk; a reader refuses what it does not know."""
ABSENT = -(1 << 63)
"""Stands where a column has no number."""
_LEVEL = 6
_HEAD = struct.Struct("<BHB")
_PART = struct.Struct("<HI")
_TYPES = ((1, "B", 1 << 8), (2, "H", 1 << 16), (4, "I", 1 << 32), (8, "Q", 1 << 64))
_TYPE = {width: code for width, code, _ in _TYPES}
_SIGNED = 0x10
"""In a column's mode, beside its width in bytes: differences are zigzag, as some are negative."""
_BIG = sys.byteorder == "big"


class NotAChunk(ValueError):
    """These bytes are no chunk, or one of a later version."""


def encode(sections: Sequence[Sequence[array[int]]]) -> bytes:
    """Pack sections of columns, each an `array("q")`, all of one length of 1 to 65535 rows.

    A section is compressed by itself, so that a reader opens only those it needs. In it stand the
    first row as it is, then each column's differences from row to row (modulo 2**64) in as few
    bytes as they need, byte planes apart; a column that does not change takes one byte.
    """
    rows = next(len(column) for section in sections for column in section)
    packed = [zlib.compress(_pack(section), _LEVEL) if section else b"" for section in sections]
    parts = zip(sections, packed, strict=True)
    directory = b"".join(_PART.pack(len(section), len(data)) for section, data in parts)
    return _HEAD.pack(VERSION, rows, len(sections)) + directory + b"".join(packed)


def shuffle(numbers: array[int]) -> bytes:
    """The bytes of numbers, all lowest bytes first: what compresses well."""
    raw, width = _bytes(numbers), numbers.itemsize
    return raw if width == 1 else b"".join(raw[plane::width] for plane in range(width))


def unshuffle(data: bytes, code: str) -> array[int]:
    """The numbers, of one type code of `array`, that `shuffle` made `data` of."""
    numbers = array(code)
    width, size = numbers.itemsize, len(data) // numbers.itemsize
    whole = bytearray(len(data))
    for plane in range(width):
        whole[plane::width] = data[plane * size : (plane + 1) * size]
    numbers.frombytes(bytes(whole))
    if _BIG:
        numbers.byteswap()
    return numbers


class Chunk:
    """A packed chunk; a section is opened when it is first asked for.

    Raises `NotAChunk`, here or then.
    """

    __slots__ = ("_parts", "_sections", "blob", "rows")

    def __init__(self, blob: bytes) -> None:
        self.blob = blob
        self._sections: dict[int, Section] = {}
        self._parts: list[tuple[int, int, int]] = []
        try:
            version, self.rows, count = _HEAD.unpack_from(blob)
            if version != VERSION:
                raise NotAChunk(f"chunk of version {version}, this program reads {VERSION}")
            end = _HEAD.size + count * _PART.size
            for index in range(count):
                columns, size = _PART.unpack_from(blob, _HEAD.size + index * _PART.size)
                self._parts.append((columns, end, end + size))
                end += size
        except struct.error as error:
            raise NotAChunk(f"no chunk: {error}") from None

    @property
    def sections(self) -> int:
        """How many sections it has."""
        return len(self._parts)

    @property
    def size(self) -> int:
        """Bytes of memory that it takes now, about."""
        return len(self.blob) + 200 + sum(section.size for section in self._sections.values())

    def section(self, index: int) -> Section:
        """One section, opened."""
        found = self._sections.get(index)
        if found is None:
            columns, start, end = self._parts[index]
            try:
                raw = zlib.decompress(self.blob[start:end]) if columns else b""
                found = Section(raw, self.rows, columns)
            except (zlib.error, IndexError, ValueError) as error:
                raise NotAChunk(f"no chunk: {error}") from None
            self._sections[index] = found
        return found


class Section:
    """The columns of one section: single rows, or whole columns."""

    __slots__ = ("_columns", "_first", "_modes", "_raw", "_rows", "_starts")

    def __init__(self, raw: bytes, rows: int, columns: int) -> None:
        self._raw = raw
        self._rows = rows
        self._modes = raw[:columns]
        self._first = unshuffle(raw[columns : 9 * columns], "q")
        sizes = ((mode & 0x0F) * (rows - 1) for mode in self._modes)
        self._starts = list(accumulate(sizes, initial=9 * columns))
        self._columns: dict[int, array[int]] = {}
        if len(raw) != self._starts[-1]:
            raise ValueError(f"{len(raw)} bytes where {self._starts[-1]} were meant")

    @property
    def size(self) -> int:
        """Bytes of memory that it takes now, about."""
        return len(self._raw) + 16 * len(self._starts) + 8 * self._rows * len(self._columns)

    def row(self, row: int) -> list[int]:
        """All columns at one row; of columns that only grow it reads no more than is summed."""
        values = self._first.tolist()
        if row == 0:
            return values
        raw = self._raw
        for column, mode in enumerate(self._modes):
            if mode == 0:
                continue
            start = self._starts[column]
            if mode == 1:
                values[column] = _wrapped(values[column] + sum(raw[start : start + row]))
            elif mode & _SIGNED:
                values[column] = self.column(column)[row]
            else:
                step = self._rows - 1
                grown = 0
                for plane in range(mode):
                    begin = start + plane * step
                    grown += sum(raw[begin : begin + row]) << (8 * plane)
                values[column] = _wrapped(values[column] + grown)
        return values

    def one_of_many(self, row: int) -> list[int]:
        """All columns at one row, where many rows will be asked for."""
        return [self.column(column)[row] for column in range(len(self._modes))]

    def column(self, column: int) -> array[int]:
        """One column over all rows."""
        found = self._columns.get(column)
        if found is None:
            found = self._columns[column] = self._decoded(column)
        return found

    def _decoded(self, column: int) -> array[int]:
        first, mode = self._first[column], self._modes[column]
        if mode == 0:
            return array("q", (first,)) * self._rows
        steps: Iterable[int] = unshuffle(
            self._raw[self._starts[column] : self._starts[column + 1]], _TYPE[mode & 0x0F]
        )
        if mode & _SIGNED:
            steps = [(step >> 1) ^ -(step & 1) for step in steps]
        values = accumulate(chain((first,), steps))
        try:
            return array("q", values)
        except OverflowError:
            values = accumulate(chain((first,), steps))
            return array("q", map(_wrapped, values))


def _pack(columns: Sequence[array[int]]) -> bytes:
    modes, planes = bytearray(), []
    for column in columns:
        mode, data = _differences(column)
        modes.append(mode)
        planes.append(data)
    first = array("q", (column[0] for column in columns))
    return b"".join((bytes(modes), shuffle(first), *planes))


def _differences(column: array[int]) -> tuple[int, bytes]:
    """Mode and shuffled differences of one column."""
    steps = list(map(sub, column[1:], column))
    if not any(steps):
        return 0, b""
    low, high = min(steps), max(steps)
    if low < ABSENT or high >= -ABSENT:
        steps = [_wrapped(step) for step in steps]
        low, high = min(steps), max(steps)
    mode = 0
    if low < 0:
        mode = _SIGNED
        steps = [(step << 1) ^ (step >> 63) for step in steps]
        high = max(steps)
    width, code = next((width, code) for width, code, above in _TYPES if high < above)
    return mode | width, shuffle(array(code, steps))


def _wrapped(value: int) -> int:
    """A whole number as 64 signed bits have it."""
    return (value - ABSENT) % (1 << 64) + ABSENT


def _bytes(numbers: array[int]) -> bytes:
    if _BIG:
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()
