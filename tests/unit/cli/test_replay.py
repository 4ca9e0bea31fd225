"""`vllm-console replay`: what it refuses before it draws."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_console.cli.main import main


def test_it_needs_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(tmp_path / "none.sqlite")]) == 2
    assert "the console needs a terminal; `vllm-console history`" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_one_line_and_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEXTUAL_DRIVER", "a driver that draws elsewhere")
    assert main(["replay", str(tmp_path / "none.sqlite")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "none.sqlite: no such file; replay takes a fleet's history.sqlite" in said
