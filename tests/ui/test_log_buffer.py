"""A worker's log: whole lines without escapes, coloured by level, bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vllm_console.ui.lines import printable
from vllm_console.ui.log_buffer import KEPT_LINES, LogBuffer, inked


def test_a_line_that_arrives_in_two_pieces_is_one_line() -> None:
    buffer = LogBuffer()
    assert buffer.add("one\ntw", 6, fresh=True) == 1
    assert buffer.add("o\n", 8, fresh=False) == 1
    assert list(buffer.lines) == ["one", "two"]
    assert buffer.offset == 8


@given(st.lists(st.text(alphabet="ab\n", max_size=8), max_size=8))
def test_pieces_give_the_same_lines_as_the_whole(pieces: list[str]) -> None:
    parts, whole = LogBuffer(), LogBuffer()
    for piece in pieces:
        parts.add(piece, 0, fresh=False)
    whole.add("".join(pieces), 0, fresh=True)
    assert parts.lines == whole.lines


def test_escape_sequences_and_overwritten_progress_are_gone() -> None:
    buffer = LogBuffer()
    buffer.add(
        "\x1b[1;36m(EngineCore)\x1b[0m ready\r\n10%\r50%\r100%\n\x1b]0;evil\x07x\n", 1, fresh=True
    )
    assert list(buffer.lines) == ["(EngineCore) ready", "100%", "x"]


def test_nothing_a_terminal_obeys_gets_through() -> None:
    assert printable("plain ⣿ text") == "plain ⣿ text"
    assert printable("a\x1b[2Jb\x07\u202ec\x9b") == "a [2Jb c "


def test_levels_have_their_colours_and_the_beginning_is_dim() -> None:
    line = "(EngineCore pid=7) INFO 11-20 12:04:31 [core.py:58] Initializing"
    assert inked(line) == [
        ("(EngineCore pid=7) ", "dim"),
        ("INFO", "dim"),
        (" 11-20 12:04:31 [core.py:58] ", "dim"),
        ("Initializing", "text"),
    ]
    assert [ink for _, ink in inked("WARNING 11-20 12:04:31 [x.py:1] slow")][1:] == [
        "warn!", "dim", "warn",
    ]  # fmt: skip
    assert inked("ValueError: no such thing") == [("ValueError: no such thing", "crit")]
    assert inked("  File x, line 3") == [("  File x, line 3", "label")]


def test_the_oldest_lines_go_first() -> None:
    buffer = LogBuffer()
    buffer.add("".join(f"{i}\n" for i in range(KEPT_LINES + 10)), 1, fresh=True)
    assert (len(buffer.lines), buffer.lines[0]) == (KEPT_LINES, "10")
