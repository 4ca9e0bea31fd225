"""Orphans: vLLM processes that nobody looks after any more, and why each counts as one.

Found by parentage, open files, executables and start times, never by a command line alone: vLLM
rewrites its own. Nothing here signals anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from vllm_console.workers import adoption
from vllm_console.workers.adoption import Fate, Inspection, Record
from vllm_console.workers.strangers import (
    SHIM,
    Stray,
    Table,
    inherited,
    owner_of,
    owners,
    strays,
    title_of,
)

PROC = Path("/proc")
_DELETED = " (deleted)"
_LOCK = "/shim.lock"
_PIDFD = re.compile(r"^Pid:\s+(\d+)$", re.MULTILINE)
_PIDFDS = hasattr(os, "pidfd_open")
_LOG = re.compile(r"(?P<directory>/.*/workers/[^/]+)/out\.log(?P<deleted> \(deleted\))?")


class Kind(StrEnum):
    """What an orphan is."""

    UNATTENDED = "unattended"
    """A worker that serves while its fleet has no daemon; the next daemon adopts it."""
    LOST = "lost"
    """What a worker of ours left behind and no daemon can adopt."""
    FOREIGN = "foreign"
    """An engine that no console started and whose server is gone."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """One process tree that nobody looks after."""

    pid: int
    start: int
    """Clock ticks since boot."""
    kind: Kind
    title: str
    """ "vllm serve", "vllm-shim", or the title vLLM gives a process, such as VLLM::EngineCore."""
    why: str
    uid: int | None
    directory: Path | None = None
    """The worker directory that it had or has; `None` for a foreign one."""
    tree: tuple[tuple[int, int], ...] = ()
    """Pid and start time of it and of its descendants, itself first."""


def orphans(
    table: Table,
    workers: Path | None,
    *,
    daemon_lives: Callable[[Path], bool],
    gpu_pids: Collection[int] = (),
    inspect: Callable[[Path], Inspection] = adoption.inspect,
    proc: Path = PROC,
    asker: int | None = None,
) -> list[Orphan]:
    """Every orphan among the processes of `table`, by pid.

    `workers` is the root of the fleet that is meant, `daemon_lives` tells of a state directory
    whether a daemon holds it, `gpu_pids` are the processes the GPU driver counts. A living worker
    is in the list only as `UNATTENDED`. `asker` is a process whose pidfds do not count, since it
    holds them to end what it looks at.
    """
    owned = dict(owners(table, workers, inspect))
    search = _Search(table, owned, daemon_lives, inspect, proc, asker)
    search.shims()
    for stray in strays(table, search.owned):
        search.stray(stray)
    for pid in gpu_pids:
        search.on_gpu(pid)
    search.unattended()
    return [search.found[pid] for pid in sorted(search.found)]


class _Search:
    """One look at the processes; `owned` gives the worker directory of each owning process."""

    def __init__(
        self,
        table: Table,
        owned: dict[int, Path],
        daemon_lives: Callable[[Path], bool],
        inspect: Callable[[Path], Inspection],
        proc: Path,
        asker: int | None,
    ) -> None:
        self.table = table
        self.owned = owned
        self.found: dict[int, Orphan] = {}
        self._daemon_lives = daemon_lives
        self._inspect = inspect
        self._proc = proc
        self._asker = asker

    def shims(self) -> None:
        """Follow shims by the lock they hold: their directory may have moved, or be gone."""
        for pid, process in self.table.items():
            if process.name != SHIM:
                continue
            links = (link for _, link in self._files(pid))
            lock = next((k for k in links if k.removesuffix(_DELETED).endswith(_LOCK)), None)
            if lock is None:
                continue
            directory = Path(lock.removesuffix(_DELETED)).parent
            self.owned[pid] = directory
            if lock.endswith(_DELETED) and not self._supervised(pid, directory.parent.parent):
                self._add(pid, Kind.LOST, SHIM, f"its directory {directory} is gone", directory)

    def stray(self, stray: Stray) -> None:
        """The head of a vLLM tree without a shim: ours by the log it writes, or a stranger's."""
        log = _LOG.fullmatch(self._link(stray.pid, "fd/1") or "")
        if log is None:
            if stray.headless and self._runs_python(stray.pid):
                self._add(stray.pid, Kind.FOREIGN, stray.title, "its server is gone")
            return
        directory = Path(log["directory"])
        state_dir = directory.parent.parent
        if log["deleted"]:
            free = inherited(self.table[stray.pid], self.table)
            if free and not self._supervised(stray.pid, state_dir):
                why = f"its directory {directory} is gone"
                self._add(stray.pid, Kind.LOST, stray.title, why, directory)
            return
        seen, name = self._inspect(directory), f"{directory.name} of {state_dir}"
        if seen.fate is Fate.SHIM_LOST and seen.record is not None and self._lives(seen.record):
            self.owned[seen.record.pid] = directory
        elif seen.fate is Fate.SHIM_LOST or not stray.headless:
            if not self._daemon_lives(state_dir):
                why = f"left by {name}: its shim is gone"
                self._add(stray.pid, Kind.LOST, stray.title, why, directory)
        elif not self._supervised(stray.pid, state_dir):
            why = f"left by an earlier {name}: its server is gone"
            self._add(stray.pid, Kind.LOST, stray.title, why, directory)

    def on_gpu(self, pid: int) -> None:
        """A process on a GPU without a title: vLLM's when it has vLLM's libraries mapped."""
        process = self.table.get(pid)
        if process is None or title_of(process) is not None or not inherited(process, self.table):
            return
        if owner_of(pid, self.table, self.owned) is None and self._maps_vllm(pid):
            why = "holds GPU memory for a vLLM whose server is gone"
            self._add(pid, Kind.FOREIGN, process.name, why)

    def unattended(self) -> None:
        """Name the living workers of fleets without a daemon, each by its main process."""
        for pid, directory in self.owned.items():
            if pid in self.found or pid not in self.table:
                continue
            if self._daemon_lives(directory.parent.parent):
                continue
            seen = self._inspect(directory)
            if seen.fate not in adoption.RUNNING:
                continue
            main = seen.record.pid if seen.record and self._lives(seen.record) else pid
            if self._supervised(pid, directory.parent.parent):
                continue
            why = f"worker {directory.name} of {directory.parent.parent}, which has no daemon"
            self._add(main, Kind.UNATTENDED, "vllm serve", why, directory)

    def _add(
        self, pid: int, kind: Kind, title: str, why: str, directory: Path | None = None
    ) -> None:
        tree = tuple((p, self.table[p].start) for p in self._tree(pid))
        uid = self._uid(pid)
        self.found[pid] = Orphan(pid, self.table[pid].start, kind, title, why, uid, directory, tree)

    def _tree(self, head: int) -> Iterator[int]:
        """The process and its descendants; no other owner's."""
        waiting = [head]
        children: dict[int, list[int]] = {}
        for pid, process in self.table.items():
            children.setdefault(process.parent, []).append(pid)
        seen = set()
        while waiting:
            pid = waiting.pop(0)
            if pid not in seen:
                seen.add(pid)
                yield pid
                waiting += [c for c in children.get(pid, ()) if c not in self.owned]

    def _lives(self, record: Record) -> bool:
        process = self.table.get(record.pid)
        return process is not None and process.start == record.start

    def _supervised(self, pid: int, state_dir: Path) -> bool:
        """Whether a daemon still looks after it, be its files gone or not.

        A daemon keeps a pidfd on each main process and shim, and its own lock open.
        """
        locks, watched = self._holds
        if f"{state_dir}/daemon.lock" in locks or not watched.isdisjoint(self._tree(pid)):
            return True
        return not _PIDFDS and self._daemon_lives(state_dir)

    @cached_property
    def _holds(self) -> tuple[set[str], set[int]]:
        """Removed files that processes hold open, and the processes that others hold a pidfd on."""
        removed: set[str] = set()
        watched: set[int] = set()
        for pid in self.table:
            for number, link in self._files(pid) if pid != self._asker else ():
                if link.endswith(_DELETED):
                    removed.add(link.removesuffix(_DELETED))
                elif link == "anon_inode:[pidfd]":
                    with suppress(OSError):
                        info = (self._proc / str(pid) / "fdinfo" / number).read_text()
                        watched.update(map(int, _PIDFD.findall(info)))
        return removed, watched

    def _files(self, pid: int) -> Iterator[tuple[str, str]]:
        """Number and target of each open file of a process; nothing where that cannot be seen."""
        try:
            numbers = os.listdir(self._proc / str(pid) / "fd")
        except OSError:
            return
        for number in numbers:
            if (link := self._link(pid, f"fd/{number}")) is not None:
                yield number, link

    def _link(self, pid: int, name: str) -> str | None:
        try:
            return os.readlink(self._proc / str(pid) / name)
        except OSError:
            return None

    def _uid(self, pid: int) -> int | None:
        try:
            return os.stat(self._proc / str(pid)).st_uid
        except OSError:
            return None

    def _runs_python(self, pid: int) -> bool:
        """Its program is a Python; another user's, which cannot be seen, is taken for one."""
        program = self._link(pid, "exe")
        return program is None or os.path.basename(program).startswith("python")

    def _maps_vllm(self, pid: int) -> bool:
        try:
            with open(self._proc / str(pid) / "maps", encoding="utf-8", errors="replace") as maps:
                return any("/site-packages/vllm/" in line for line in maps)
        except OSError:
            return False
