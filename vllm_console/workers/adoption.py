"""What became of a worker while nobody watched: read from its directory and the kernel alone.

The flock of the shim says whether it lives; boot id, start time and parent say whether the main
process is the one it started. A pid by itself says nothing, and a state file can be forged: a
process that fails one of these tests is neither adopted nor signalled.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from vllm_console.workers.launch import Exit
from vllm_console.workers.shim import boot_id, process


class Fate(StrEnum):
    """What a worker's directory tells."""

    NEW = "new"
    """Nothing was ever started here."""
    ADOPTED = "adopted"
    """Shim and main process live."""
    CLEANING = "cleaning"
    """The shim lives and ends what the main process left behind, or is just starting it."""
    EXITED = "exited"
    """Ended, with a record of how."""
    SHIM_LOST = "shim-lost"
    """The main process lives without its shim: it serves on, but nobody keeps its exit code."""
    VANISHED = "vanished"
    """Ended without a record: the shim was killed too, or the machine was rebooted."""


RUNNING = frozenset({Fate.ADOPTED, Fate.CLEANING, Fate.SHIM_LOST})
"""A process of the worker still runs."""


@dataclass(frozen=True, slots=True)
class Record:
    """state.json: the main process as the shim started it."""

    pid: int
    start: int
    """Clock ticks since boot."""
    boot: str
    generation: int
    at: float
    """Seconds since the epoch."""
    log_start: int
    asked: bool = False
    """The shim has been asked to end it."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """The fate of a worker, with what is known of it."""

    fate: Fate
    record: Record | None = None
    exit: Exit | None = None
    shim: tuple[int, int] | None = None
    """Pid and start time of the shim that holds the lock."""


def inspect(directory: Path) -> Inspection:
    """Say what runs, or ran, in a worker's directory."""
    record = _record(directory)
    if _locked(directory / "shim.lock"):
        shim = _shim(directory)
        if record is not None and shim is not None and main_alive(record, parent=shim[0]):
            return Inspection(Fate.ADOPTED, record, shim=shim)
        return Inspection(Fate.CLEANING, record, _exit(directory, record), shim)
    if record is None:
        return Inspection(Fate.NEW)
    ended = _exit(directory, record)
    if ended is not None:
        return Inspection(Fate.EXITED, record, ended)
    if main_alive(record) and _writes_to(record.pid, directory / "out.log"):
        return Inspection(Fate.SHIM_LOST, record)
    return Inspection(Fate.VANISHED, record)


def main_alive(record: Record, parent: int | None = None) -> bool:
    """The process of `record` runs: same boot, same start time, and the given parent if any."""
    seen = process(record.pid)
    if seen is None or seen[0] != record.start or record.boot != boot_id():
        return False
    return parent is None or seen[1] == parent


def _locked(path: Path) -> bool:
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _shim(directory: Path) -> tuple[int, int] | None:
    """The shim that wrote itself into the lock it holds; `None` if that process is not there."""
    content = _json(directory / "shim.lock")
    pid, start = content.get("pid"), content.get("start")
    if not isinstance(pid, int) or not isinstance(start, int):
        return None
    seen = process(pid)
    return (pid, start) if seen is not None and seen[0] == start else None


def _record(directory: Path) -> Record | None:
    content = _json(directory / "state.json")
    try:
        return Record(
            pid=int(content["pid"]),
            start=int(content["start"]),
            boot=str(content["boot"]),
            generation=int(content["generation"]),
            at=float(content["at"]),
            log_start=int(content["log_start"]),
            asked=bool(content.get("asked")),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _exit(directory: Path, record: Record | None) -> Exit | None:
    content = _json(directory / "exit.json")
    if record is not None and content.get("generation") != record.generation:
        return None
    try:
        return Exit(int(content["rc"]), bool(content["asked"]), float(content["at"]))
    except (KeyError, TypeError, ValueError):
        return None


def _writes_to(pid: int, log: Path) -> bool:
    """The process has this log as its stdout: no stranger has."""
    try:
        return os.path.samefile(f"/proc/{pid}/fd/1", log)
    except OSError:
        return False


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
