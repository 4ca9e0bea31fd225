"""Chunks: what is packed comes back to the last bit, small, and damage is told."""

from __future__ import annotations

import zlib
from array import array

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vllm_console.history.codec import ABSENT, Chunk, NotAChunk, encode, shuffle, unshuffle

_EDGES = (0, 1, -1, ABSENT, ABSENT + 1, -ABSENT - 1, 127, 128, 255, 256, 65535, 65536, 2**32)
_NUMBERS = st.integers(ABSENT, -ABSENT - 1) | st.sampled_from(_EDGES) | st.integers(-9, 9)


@st.composite
def _sections(draw: st.DrawFn) -> list[list[array[int]]]:
    rows = draw(st.integers(1, 40))
    column = st.lists(_NUMBERS, min_size=rows, max_size=rows)
    growing = column.map(lambda steps: _running(steps))
    columns = st.lists((column | growing).map(lambda values: array("q", values)), max_size=4)
    sections = draw(st.lists(columns, min_size=1, max_size=3))
    return sections if any(sections) else [[array("q", range(rows))], *sections]


def _running(steps: list[int]) -> list[int]:
    total, values = 0, []
    for step in steps:
        total += abs(step) % 70000
        values.append(total)
    return values


@given(_sections())
@example([[array("q", [-ABSENT - 1 - 254, ABSENT])]])
def test_what_is_packed_comes_back_by_row_and_by_column(sections: list[list[array[int]]]) -> None:
    chunk = Chunk(encode(sections))
    assert chunk.sections == len(sections)
    for index, columns in enumerate(sections):
        for row in range(chunk.rows):
            assert chunk.section(index).row(row) == [column[row] for column in columns]
        again = Chunk(encode(sections)).section(index)
        assert [again.column(c) for c in range(len(columns))] == columns


@given(st.lists(_NUMBERS).map(lambda values: array("q", values)))
def test_shuffled_numbers_come_back(numbers: array[int]) -> None:
    assert unshuffle(shuffle(numbers), "q") == numbers


def test_a_column_that_stands_still_costs_nearly_nothing() -> None:
    still = [array("q", [10**12 + c]) * 120 for c in range(100)]
    assert len(encode([still])) < 350


def test_a_chunk_begins_with_its_version_and_a_later_one_is_refused() -> None:
    blob = encode([[array("q", [1, 2, 3])]])
    assert blob[0] == 1
    with pytest.raises(NotAChunk, match="version 9"):
        Chunk(b"\x09" + blob[1:])


@pytest.mark.parametrize("keep", [0, 3, 8, 12, -1])
def test_a_chunk_cut_short_is_told(keep: int) -> None:
    blob = encode([[array("q", range(0, 3000, 7))]])
    with pytest.raises(NotAChunk):
        Chunk(blob[:keep]).section(0)


def test_a_section_of_the_wrong_length_is_told() -> None:
    blob = bytearray(encode([[array("q", [5, 5])]]))
    section = zlib.compress(b"\x00" * 12)
    with pytest.raises(NotAChunk, match="meant"):
        Chunk(bytes(blob[:6]) + len(section).to_bytes(4, "little") + section).section(0)
