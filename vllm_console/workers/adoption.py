"""What became of a worker while nobody watched: read from its directory and the kernel alone.

The flock of the shim says whether it lives; boot id, start time and parent say whether the main
process is the one it started. A pid by itself says nothing, and a state file can be forged: a
process that fails one of these tests is neither adopted nor signalled. Files may be missing,
damaged or of another version: what the kernel knows as well is then taken from the kernel.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from vllm_console.workers.launch import Exit
from vllm_console.workers.shim import (
    boot_id,
    cgroup_members,
    cgroup_name,
    children,
    process,
    shims,
)

_TICKS = os.sysconf("SC_CLK_TCK")
_MOST_BYTES = 4 << 20
"""No file of ours is near that long."""
_LAST_SECOND = 253402300799.0
"""The end of the year 9999, past which no date can be told."""


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
    """The tree, or what its main process left of it, lives without its shim."""
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
    """Seconds since the epoch, by the wall clock of that moment."""
    log_start: int
    asked: bool = False
    """The shim has been asked to end it."""
    cgroup: str | None = None
    """The cgroup that holds the tree and nothing else, if there is one."""


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
    locked = _locked(directory / "shim.lock")
    shim = _shim(directory, record, locked)
    if shim is not None and (record is None or _elsewhere(record, shim)):
        record = rebuilt(directory, shim) or record
    if locked or shim is not None:
        if record is not None and shim is not None and main_alive(record, parent=shim[0]):
            return Inspection(Fate.ADOPTED, record, shim=shim)
        return Inspection(Fate.CLEANING, record, exit_of(directory, record), shim)
    if record is None:
        record = _headless(directory)
        return Inspection(Fate.NEW) if record is None else Inspection(Fate.SHIM_LOST, record)
    ended = exit_of(directory, record)
    if not cleaned(directory, record) and left(directory, record):
        return Inspection(Fate.SHIM_LOST, record, ended)
    return Inspection(Fate.VANISHED if ended is None else Fate.EXITED, record, ended)


def main_alive(record: Record, parent: int | None = None) -> bool:
    """The process of `record` runs: same boot, same start time, and the given parent if any."""
    seen = process(record.pid)
    if seen is None or seen[0] != record.start or record.boot != boot_id():
        return False
    return parent is None or seen[1] == parent


def main_ours(directory: Path, record: Record) -> bool:
    """The process of `record` runs and is this directory's, though no shim vouches for it."""
    if not main_alive(record):
        return False
    cgroup = cgroup_of(directory, record)
    inside = cgroup is not None and record.pid in cgroup_members(cgroup)
    return inside or _writes_to(record.pid, _log_names(directory))


def left(directory: Path, record: Record) -> list[tuple[int, int]]:
    """(pid, start time) of what lives of a tree that lost its shim, main process first.

    A process belongs to it when it is in the tree's cgroup or has the worker's log as its output:
    no stranger is, and no copy of the directory makes it so.
    """
    if record.boot != boot_id():
        return []
    pids = set(cgroup_members(cgroup)) if (cgroup := cgroup_of(directory, record)) else set()
    names = _log_names(directory)
    pids |= {int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _writes_to(pid, names)}
    own = {pid for pid, _ in shims()}
    found = [(pid, seen[0]) for pid in pids - own if (seen := process(pid)) is not None]
    return sorted(found, key=lambda member: (member[0] != record.pid, member))


def cgroup_of(directory: Path, record: Record) -> str | None:
    """The cgroup of this directory's tree, if the record names it and it can be no other's."""
    if record.cgroup is None or record.boot != boot_id():
        return None
    try:
        name = cgroup_name(str(directory), record.generation)
    except OSError:
        return None
    return record.cgroup if os.path.basename(record.cgroup) == name else None


def age_s(record: Record) -> float:
    """Seconds since a main process of this boot was started; no change of the clock moves it."""
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - record.start / _TICKS)


def rebuilt(directory: Path, shim: tuple[int, int]) -> Record | None:
    """The record of a shim's main process without state.json: the first of its children.

    `None` when the shim has none that leads a session, as its main process does.
    """
    seen = [(found[0], pid) for pid in children(shim[0]) if (found := process(pid)) is not None]
    leaders = [(start, pid) for start, pid in sorted(seen) if _leads(pid)]
    if not leaders:
        return None
    start, pid = leaders[0]
    generation = _int(read_json(directory / "spec.json").get("generation")) or 0
    record = Record(pid, start, boot_id(), generation, 0.0, 0)
    return Record(pid, start, record.boot, generation, time.time() - age_s(record), 0)


def _elsewhere(record: Record, shim: tuple[int, int]) -> bool:
    """The process of `record` lives and is no child of the shim: the record was forged."""
    return main_alive(record) and not main_alive(record, parent=shim[0])


def _headless(directory: Path) -> Record | None:
    """What runs of a tree that has neither shim nor state.json, as one whose main process is gone.

    Nothing says which of its processes the main one is, so the tree can only be ended.
    """
    generation = _int(read_json(directory / "spec.json").get("generation")) or 0
    record = Record(0, 0, boot_id(), generation, time.time(), 0)
    members = left(directory, record)
    return replace(record, pid=members[0][0]) if members else None


def exit_of(directory: Path, record: Record | None) -> Exit | None:
    """exit.json, if it tells of this start; of any start, without a record."""
    content = read_json(directory / "exit.json")
    if record is not None and content.get("generation") != record.generation:
        return None
    rc, asked, at = content.get("rc"), content.get("asked"), _moment(content.get("at"))
    if not isinstance(rc, int | None) or not isinstance(asked, bool) or at is None:
        return None
    return Exit(rc, asked, at)


def cleaned(directory: Path, record: Record) -> bool:
    """The shim said that nothing of this start was left when it ended."""
    content = read_json(directory / "exit.json")
    same = content.get("generation") == record.generation
    return same and content.get("clean_s") is not None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty when it cannot be read, is no regular file or holds no object."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return {}
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return {}
        content = json.loads(os.read(file, _MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    finally:
        os.close(file)
    return content if isinstance(content, dict) else {}


def _locked(path: Path) -> bool:
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _shim(directory: Path, record: Record | None, locked: bool) -> tuple[int, int] | None:
    """The shim that keeps this directory's lock open, be the lock damaged or removed meanwhile.

    It is the process that wrote itself into the lock it holds; else the parent of the main process
    or any shim, if the kernel says that it has this very lock open.
    """
    if locked:
        content = read_json(directory / "shim.lock")
        pid, start = _int(content.get("pid")), _int(content.get("start"))
        if pid is not None and start is not None:
            seen = process(pid)
            if seen is not None and seen[0] == start:
                return pid, start
    elif record is not None and not main_alive(record):
        return None
    return shim_of(directory)


def shim_of(directory: Path) -> tuple[int, int] | None:
    """(pid, start time) of the shim that has this directory's lock open, even a removed one."""
    here = os.path.realpath(directory)
    for pid, of in shims():
        seen = process(pid) if of == here else None
        if seen is not None:
            return pid, seen[0]
    return None


def _record(directory: Path) -> Record | None:
    content = read_json(directory / "state.json")
    pid, start = _int(content.get("pid")), _int(content.get("start"))
    boot, generation = content.get("boot"), _int(content.get("generation"))
    if pid is None or start is None or generation is None or not isinstance(boot, str):
        return None
    at, cgroup = _moment(content.get("at")), content.get("cgroup")
    return Record(
        pid=pid,
        start=start,
        boot=boot,
        generation=generation,
        at=time.time() if at is None else at,
        log_start=_int(content.get("log_start")) or 0,
        asked=content.get("asked") is True,
        cgroup=cgroup if isinstance(cgroup, str) else None,
    )


def _log_names(directory: Path) -> tuple[str, str]:
    """What the kernel calls the worker's log, while it is there and once it was removed."""
    log = os.path.realpath(directory / "out.log")
    return log, f"{log} (deleted)"


def _writes_to(pid: int | str, names: Sequence[str]) -> bool:
    """The process has a file of such a name as its stdout or stderr; the file is not touched."""
    for number in (1, 2):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/fd/{number}") in names:
                return True
    return False


def _leads(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except OSError:
        return False


def _int(value: Any) -> int | None:
    """A whole number that is not negative; a flag is none."""
    sound = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
    return value if sound else None


def _moment(value: Any) -> float | None:
    """Seconds since the epoch that make a date."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if math.isfinite(value) and 0 <= value <= _LAST_SECOND else None
