"""A compiled program is run only when it is its source's."""

from __future__ import annotations

import os
import py_compile
import sys
from pathlib import Path

import pytest

from vllm_console.launchers.compiled import compiled

MODES = [py_compile.PycInvalidationMode.TIMESTAMP, py_compile.PycInvalidationMode.CHECKED_HASH]


@pytest.fixture(params=MODES, ids=lambda mode: str(mode.name))
def program(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, str]:
    """A source file and the .pyc that was made of it."""
    source = tmp_path / "program.py"
    source.write_text("print(1)\n")
    made = py_compile.compile(str(source), invalidation_mode=request.param)
    assert made is not None
    return source, made


def test_a_program_runs_as_it_was_compiled(program: tuple[Path, str]) -> None:
    source, made = program
    assert compiled(str(source), sys.executable) == made


def test_a_changed_source_is_run_itself(program: tuple[Path, str]) -> None:
    source, _ = program
    source.write_text("print(2)\n")
    os.utime(source, (1, 1))
    assert compiled(str(source), sys.executable) == str(source)


def test_another_python_compiles_for_itself(program: tuple[Path, str]) -> None:
    source, _ = program
    assert compiled(str(source), "/usr/bin/another-python") == str(source)


def test_a_file_of_another_python_or_a_damaged_one_is_not_run(program: tuple[Path, str]) -> None:
    source, made = program
    whole = Path(made).read_bytes()
    for content in (b"\0\0\0\0" + whole[4:], whole[:7], b""):
        Path(made).write_bytes(content)
        assert compiled(str(source), sys.executable) == str(source)


def test_without_a_compiled_file_the_source_is_run(tmp_path: Path) -> None:
    source = tmp_path / "program.py"
    source.write_text("print(1)\n")
    assert compiled(str(source), sys.executable) == str(source)
