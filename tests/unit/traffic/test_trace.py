"""Trace files: the shape Azure publishes, and everything that is not."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from vllm_console.errors import InvalidInput
from vllm_console.traffic.lengths import Lengths
from vllm_console.traffic.trace import read_trace

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROWS = (
    "2023-11-16 18:17:03.9799600,4808,10\n"
    "2023-11-16 18:17:04.0319600,3180,8\n"
    "2023-11-16 18:17:05.9799600,110,27\n"
)


def trace_file(directory: Path, text: str | bytes) -> Path:
    path = directory / "trace.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_a_trace_gives_times_from_zero_and_its_lengths(tmp_path: Path, end: str) -> None:
    trace = read_trace(trace_file(tmp_path, (HEADER + ROWS).rstrip("\n") + end))
    assert trace.times == pytest.approx((0.0, 0.052, 2.0))
    assert trace.requests == (Lengths(4808, 10), Lengths(3180, 8), Lengths(110, 27))
    assert trace.rate == pytest.approx(1.0)


def test_other_columns_zones_and_a_byte_order_mark_are_passed_over(tmp_path: Path) -> None:
    text = (
        "\N{BYTE ORDER MARK}id,TIMESTAMP,GeneratedTokens,ContextTokens\n"
        "a,2024-05-10 00:00:00.009930+00:00,5,2162\n"
        "b,2024-05-10 00:00:01.009930+00:00,6,2399\n"
    )
    trace = read_trace(trace_file(tmp_path, text))
    assert trace.times == (0.0, 1.0)
    assert trace.requests == (Lengths(2162, 5), Lengths(2399, 6))


def test_a_trace_repeats_without_end_at_the_rate_asked_for(tmp_path: Path) -> None:
    trace = read_trace(trace_file(tmp_path, HEADER + ROWS))
    times = list(islice(trace.arrivals(10.0), 3000))
    assert times == sorted(times)
    assert len(times) / times[-1] == pytest.approx(10.0, rel=0.01)
    assert list(islice(trace.arrivals(), 4)) == pytest.approx([0.0, 0.052, 2.0, 3.0])
    assert list(islice(trace.lengths(), 4))[3] == Lengths(4808, 10)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "no column TIMESTAMP"),
        ("a,b\n1,2\n", 1, "no column TIMESTAMP"),
        ("TIMESTAMP,ContextTokens\n", 1, "no column GeneratedTokens"),
        (HEADER + ROWS + "yesterday,1,2\n", 5, "'yesterday,1,2' is not a time and two counts"),
        (HEADER + "2023-11-16 18:17:03,ten,2\n", 2, "is not a time and two counts"),
        (HEADER + "2023-11-16 18:17:03,1\n", 2, "is not a time and two counts"),
        (HEADER + "2023-11-16 18:17:03,-1,2\n", 2, "a token count is negative"),
        (HEADER + ROWS + "2023-11-16 18:17:04,1,2\n", 5, "is earlier than the row before"),
        (HEADER + ROWS + "2023-11-16 18:17:09Z,1,2\n", 5, "is earlier than the row before"),
        (HEADER, None, "needs two requests at different times"),
        (HEADER + "2023-11-16 18:17:03,1,2\n", None, "needs two requests at different times"),
        (b"\xff\xfe\x00PNG", None, "not a CSV file"),
        (HEADER + '"' + "x" * 200_000, None, "not a CSV file"),
    ],
)
def test_a_broken_trace_is_one_line_with_file_and_line(
    tmp_path: Path, text: str | bytes, line: int | None, words: str
) -> None:
    path = trace_file(tmp_path, text)
    with pytest.raises(InvalidInput) as caught:
        read_trace(path)
    told = str(caught.value)
    assert told.startswith(f"{path}:" if line is None else f"{path}:{line}:")
    assert words in told
    assert "\n" not in told
    assert len(told) < len(str(path)) + 150


def test_a_missing_trace_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot read the trace \(No such file"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(InvalidInput, match="cannot read the trace"):
        read_trace(tmp_path)
