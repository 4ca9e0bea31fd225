"""Logs by byte offset: holes, tails, and following a file that grows."""

from __future__ import annotations

import asyncio
import ctypes
import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from vllm_console.workers import logs


def punch(path: Path, length: int) -> None:
    """Free the first `length` bytes, as the shim does."""
    with path.open("r+b") as file:
        libc = ctypes.CDLL(None, use_errno=True)
        done = libc.fallocate(file.fileno(), 3, ctypes.c_long(0), ctypes.c_long(length))
        assert done == 0, os.strerror(ctypes.get_errno())


def test_reading_skips_a_hole_and_keeps_its_offsets(tmp_path: Path) -> None:
    path = tmp_path / "out.log"
    path.write_bytes(b"old line\n" * 2000 + b"new line\n")
    punch(path, 16384)
    first = logs.read(path, 0, 100)
    assert first.start == 16384
    assert first.end == 16484
    assert b"\0" not in first.data
    assert logs.tail(path, 1) == ["new line"]
    assert "\0" not in "".join(logs.tail(path, 10_000))
    assert all(line == "old line" for line in logs.tail(path, 10_000)[:-1])


def test_a_missing_file_and_an_end_give_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.log"
    assert logs.read(path, 7) == logs.Chunk(b"", 7, 7)
    assert logs.tail(path, 10) == []
    path.write_bytes(b"abc")
    assert logs.read(path, 3) == logs.Chunk(b"", 3, 3)


def test_a_file_that_was_cut_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "out.log"
    path.write_bytes(b"fresh\n")
    assert logs.read(path, 1000) == logs.Chunk(b"fresh\n", 0, 6)


def test_a_tail_keeps_to_its_start_and_shows_the_last_drawing_of_a_bar(tmp_path: Path) -> None:
    path = tmp_path / "out.log"
    path.write_bytes(b"before\n\x1b[31mred\x1b[0m\n\rbar 1/2\rbar 2/2\nlast\x07 words")
    assert logs.tail(path, 10, start=7) == ["red", "bar 2/2", "last words"]
    assert logs.tail(path, 2) == ["bar 2/2", "last words"]
    assert logs.tail(path, 0) == []


def test_following_sees_every_byte_and_ends_when_told(tmp_path: Path) -> None:
    path = tmp_path / "out.log"

    async def scenario() -> bytes:
        ended = asyncio.Event()
        seen = b""

        async def write() -> None:
            with path.open("ab", buffering=0) as file:
                for number in range(50):
                    file.write(b"line %d\n" % number)
                    await asyncio.sleep(0)
            ended.set()

        writing = asyncio.create_task(write())
        async for chunk in logs.follow(path, 0, ended, interval_s=0.001):
            seen += chunk.data
        await writing
        return seen

    assert asyncio.run(scenario()) == b"".join(b"line %d\n" % n for n in range(50))


@given(st.binary(max_size=300))
def test_no_bytes_upset_the_split(data: bytes) -> None:
    for line in logs.split(data):
        assert "\n" not in line
        assert "\x1b" not in line
