"""Whose a process is: every vLLM tree of this machine and the worker directory that owns it.

Read from /proc and the shims' locks; nothing here signals anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from vllm_console.workers import adoption
from vllm_console.workers.adoption import Fate, Inspection

Table = Mapping[int, "Process"]
"""Processes by pid, as they were when /proc was read."""

SHIM = "vllm-shim"
"""The name that a shim gives itself."""
_RUNNERS = ("python", "vllm", "uv")
_ADOPTERS = ("systemd", "init", "tini", "dumb-init", "docker-init")
"""Names of processes, beside pid 1, that inherit children whose parent has ended."""


@dataclass(frozen=True, slots=True)
class Process:
    """One live process."""

    pid: int
    parent: int
    name: str
    """At most 15 bytes (proc(5), comm)."""
    argv: tuple[str, ...] = ()
    """May hold secrets: it is looked at, never shown."""
    start: int = 0
    """Clock ticks since boot: with it a pid names one process for the whole boot."""


@dataclass(frozen=True, slots=True)
class Stray:
    """The head of a vLLM process tree that no shim owns."""

    pid: int
    title: str
    """ "vllm serve", or the title vLLM gives a process, such as VLLM::EngineCore."""
    headless: bool
    """Its server is gone: it holds memory and serves nobody."""


def processes(proc: Path = Path("/proc")) -> dict[int, Process]:
    """Every process this user may see, zombies left out."""
    found = {}
    for name in os.listdir(proc):
        if not name.isdigit():
            continue
        try:
            stat = (proc / name / "stat").read_bytes()
            argv = (proc / name / "cmdline").read_bytes()
        except OSError:
            continue
        head, _, rest = stat.rpartition(b")")
        fields = rest.split()
        if len(fields) < 2 or fields[0] in (b"Z", b"X"):
            continue
        words = argv.decode("utf-8", "replace").rstrip("\0").split("\0")
        title = head.partition(b"(")[2].decode("utf-8", "replace")
        pid = int(name)
        start = int(fields[19]) if len(fields) > 19 else 0
        spoken = tuple(words) if words != [""] else ()
        found[pid] = Process(pid, int(fields[1]), title, spoken, start)
    return found


def ancestry(pid: int, table: Table) -> Iterator[Process]:
    """The process, its parent, and so on, as far as they are seen."""
    seen: set[int] = set()
    while (process := table.get(pid)) is not None and pid not in seen:
        seen.add(pid)
        yield process
        pid = process.parent


def owners(
    table: Table,
    workers: Path | None = None,
    inspect: Callable[[Path], Inspection] = adoption.inspect,
) -> dict[int, Path]:
    """The worker directory of every shim that runs, by the shim's pid.

    A process counts as a shim when it holds the lock of the directory it names; where that
    directory belongs to somebody else and cannot be looked into, its word is taken. The main
    process of a worker under `workers` that has lost its shim stands for it.
    """
    found: dict[int, Path] = {}
    for process in table.values():
        if process.name != SHIM or not process.argv or not process.argv[-1].startswith("/"):
            continue
        directory = Path(process.argv[-1])
        shim = inspect(directory).shim
        if (shim is not None and shim[0] == process.pid) or not os.access(directory, os.R_OK):
            found[process.pid] = directory
    for directory in sorted(workers.iterdir()) if workers is not None and workers.is_dir() else ():
        seen = inspect(directory) if directory.is_dir() else None
        if seen is not None and seen.fate is Fate.SHIM_LOST and seen.record is not None:
            found[seen.record.pid] = directory
    return found


def owner_of(pid: int, table: Table, owned: Mapping[int, Path]) -> Path | None:
    """The worker directory that a process belongs to; `None` for somebody else's process."""
    return next((owned[p.pid] for p in ancestry(pid, table) if p.pid in owned), None)


def strays(table: Table, owned: Mapping[int, Path]) -> list[Stray]:
    """The heads of the vLLM process trees that no shim owns, by pid."""
    found = []
    for pid, process in sorted(table.items()):
        title = title_of(process)
        if title is None or owner_of(pid, table, owned) is not None:
            continue
        above = list(ancestry(pid, table))[1:]
        if any(title_of(other) is not None for other in above):
            continue
        serves = not title.startswith("VLLM::") or title.startswith("VLLM::APIServer")
        found.append(Stray(pid, title, inherited(process, table) and not serves))
    return found


def inherited(process: Process, table: Table) -> bool:
    """Whether the process that started it has ended, so that init has taken its place."""
    above = table.get(process.parent)
    return process.parent == 1 or (above is not None and above.name in _ADOPTERS)


def title_of(process: Process) -> str | None:
    """What of vLLM a process is; `None` when it is nothing of it.

    vLLM's processes set their title (`VLLM::EngineCore`, vllm/utils/system_utils.py), which
    overwrites argv.
    """
    argv = process.argv
    if argv and argv[0].startswith("VLLM::"):
        return argv[0].split()[0]
    if process.name.startswith("VLLM::"):
        return process.name
    if not argv or not os.path.basename(argv[0]).startswith(_RUNNERS):
        return None
    for word, following in pairwise(argv):
        if os.path.basename(word) == "vllm" and following == "serve":
            return "vllm serve"
        if word == "-m" and following.startswith("vllm.entrypoints."):
            return "vllm serve"
    return None
