"""What a worker's directory tells, from files alone and a lock; real trees are in tests/faults."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from vllm_console.workers import adoption
from vllm_console.workers.adoption import Fate
from vllm_console.workers.launch import Exit
from vllm_console.workers.shim import boot_id, process

STATE = {"pid": 1, "start": 1, "boot": "another boot", "generation": 3, "at": 5.0, "log_start": 0}
EXIT = {"rc": -9, "asked": False, "at": 6.0, "generation": 3}


def write(directory: Path, name: str, content: Any) -> None:
    (directory / name).write_text(json.dumps(content))


def test_an_empty_or_missing_directory_is_new(tmp_path: Path) -> None:
    assert adoption.inspect(tmp_path).fate is Fate.NEW
    assert adoption.inspect(tmp_path / "missing").fate is Fate.NEW


@pytest.mark.parametrize("garbage", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1}'])
def test_a_damaged_state_file_is_no_record(tmp_path: Path, garbage: str) -> None:
    (tmp_path / "state.json").write_text(garbage)
    assert adoption.inspect(tmp_path).fate is Fate.NEW


def test_an_exit_record_of_the_same_start_counts(tmp_path: Path) -> None:
    write(tmp_path, "state.json", STATE)
    assert adoption.inspect(tmp_path).fate is Fate.VANISHED
    write(tmp_path, "exit.json", {**EXIT, "generation": 2})
    assert adoption.inspect(tmp_path).fate is Fate.VANISHED
    write(tmp_path, "exit.json", EXIT)
    seen = adoption.inspect(tmp_path)
    assert (seen.fate, seen.exit) == (Fate.EXITED, Exit(-9, False, 6.0))


def test_a_pid_of_another_boot_is_nobody(tmp_path: Path) -> None:
    me = process(os.getpid())
    assert me is not None
    record = adoption.Record(os.getpid(), me[0], boot_id(), 1, 0.0, 0)
    assert adoption.main_alive(record)
    assert adoption.main_alive(record, parent=me[1])
    assert not adoption.main_alive(record, parent=os.getpid())
    write(tmp_path, "state.json", {**STATE, "pid": os.getpid(), "start": me[0]})
    assert adoption.inspect(tmp_path).fate is Fate.VANISHED


def test_a_held_lock_without_a_main_process_is_cleaning(tmp_path: Path) -> None:
    me = process(os.getpid())
    assert me is not None
    write(tmp_path, "state.json", STATE)
    write(tmp_path, "shim.lock", {"pid": os.getpid(), "start": me[0]})
    assert adoption.inspect(tmp_path).fate is Fate.VANISHED
    with (tmp_path / "shim.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        seen = adoption.inspect(tmp_path)
    assert (seen.fate, seen.shim) == (Fate.CLEANING, (os.getpid(), me[0]))
