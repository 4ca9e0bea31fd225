"""How bad a line of a log is, where its failures begin, and the list with a cursor."""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from textual.app import SuspendNotSupported

from tests.ui.playing import Stage
from vllm_console.ui.console import Console
from vllm_console.ui.log_buffer import KEPT_LINES, LogBuffer, severity
from vllm_console.ui.screens.page import holds


@pytest.mark.parametrize(
    ("line", "before", "level"),
    [
        ("INFO 11-20 12:04:31 [core.py:58] ok", 2, 0),
        ("WARNING 11-20 12:04:31 [core.py:58] slow", 0, 1),
        ("(EngineCore pid=7) ERROR 11-20 12:04:31 [core.py:58] bad", 0, 2),
        ("CRITICAL: worse", 0, 2),
        ("Traceback (most recent call last):", 0, 2),
        ("ValueError: no", 0, 2),
        ('  File "x.py", line 1', 2, 2),
        ('  File "x.py", line 1', 0, 0),
        ("a plain line", 2, 0),
    ],
)
def test_a_line_is_as_bad_as_its_level_and_what_is_indented_as_its_head(
    line: str, before: int, level: int
) -> None:
    assert severity(line, before) == level


def test_a_failure_of_several_lines_begins_once() -> None:
    buffer = LogBuffer()
    buffer.add("INFO a\nERROR b\n  c\nValueError: d\nINFO e\n", 1, fresh=True)
    buffer.add("ERROR f\n", 2, fresh=False)
    assert buffer.failures() == [1, 5]
    assert len(buffer.levels) == len(buffer.lines)


def test_levels_stay_beside_their_lines_when_the_oldest_go() -> None:
    buffer = LogBuffer()
    buffer.add("ERROR x\n" + "INFO y\n" * KEPT_LINES + "ERROR z\n", 1, fresh=True)
    assert buffer.failures() == [KEPT_LINES - 1]
    assert buffer.lines[KEPT_LINES - 1] == "ERROR z"
    buffer.add("INFO new\n", 2, fresh=True)
    assert list(buffer.levels) == [0]


def test_words_are_all_to_be_found_in_any_case_and_order() -> None:
    assert holds("B a", "xA yb")
    assert not holds("a c", "a b")
    assert holds("", "")


def _editing(console: Console, monkeypatch: pytest.MonkeyPatch, editor: str) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", editor)
    monkeypatch.setattr(console, "suspend", nullcontext)


def test_the_editor_of_the_environment_gets_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, console = tmp_path / "fleet.toml", Stage().app
    file.write_text("old")
    code = "import sys; open(sys.argv[1], 'w').write('new')"
    _editing(console, monkeypatch, f"{sys.executable} -c {shlex.quote(code)}")
    assert console.edit_in_terminal(str(file)) is None
    assert file.read_text() == "new"


def test_an_editor_that_fails_or_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Stage().app
    _editing(console, monkeypatch, f"{sys.executable} -c 'raise SystemExit(3)'")
    assert str(console.edit_in_terminal("f")).endswith("ended with exit code 3")
    _editing(console, monkeypatch, "no-such-editor-here")
    assert "no-such-editor-here: No such file" in str(console.edit_in_terminal("f"))


def test_a_terminal_that_is_not_ours_to_lend_keeps_the_editor_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    console = Stage().app

    def suspend() -> None:
        raise SuspendNotSupported

    monkeypatch.setattr(console, "suspend", suspend)
    assert "edit /a/fleet.toml in another" in str(console.edit_in_terminal("/a/fleet.toml"))
