"""Workers on this machine: one directory and one shim each, under one root.

root/start-times.json      how long earlier starts took
root/WORKER/               see `workers.shim`; spec.json and served.json are written here
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vllm_console.errors import InvalidInput
from vllm_console.launchers.processes import end_of, kill_all, members, send
from vllm_console.snapshot import Engine, Failure, from_json, to_json
from vllm_console.workers import adoption, shim
from vllm_console.workers.adoption import RUNNING, Fate, Record
from vllm_console.workers.launch import Exit, LaunchFailed, LaunchSpec, Served, iso
from vllm_console.workers.states import Cause

ANSWER_S = 30.0
"""A shim answers within some 30 ms; a program on a network that hangs is given this long."""
REMEMBERED_STARTS = 5
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CANNOT_EXECUTE = re.compile(r"\[Errno (?:2|8|13|20)\]")


class LocalLauncher:
    """Launches, adopts and ends workers through shims; keeps no state but what is in `root`."""

    def __init__(self, root: Path, *, python: str = sys.executable) -> None:
        self.root = root
        self.python = python

    def directory(self, worker_id: str) -> Path:
        """Where a worker's files lie; raises `InvalidInput` for an id that is no file name."""
        if not _NAME.fullmatch(worker_id):
            raise InvalidInput(
                f"worker {worker_id!r}: letters, digits, '.', '_' and '-' only, please"
            )
        return self.root / worker_id

    def log_path(self, worker_id: str) -> Path:
        """The log of a worker, running or not; need not exist."""
        return self.directory(worker_id) / "out.log"

    async def launch(self, spec: LaunchSpec, environment: Mapping[str, str]) -> LocalHandle:
        """Start a worker with exactly this environment; returns once its program runs.

        Raises `LaunchFailed`: the program cannot be executed, or a tree of this worker exists.
        """
        directory = self.directory(spec.worker_id)
        try:
            refusal = await asyncio.to_thread(self._launch, directory, spec, dict(environment))
        except OSError as error:
            place = error.filename or directory
            refusal = Cause.UNKNOWN, f"{place}: {error.strerror}", "see that it can be written to"
        if refusal is not None:
            cause, line, remedy = refusal
            raise LaunchFailed(Failure(cause, line, remedy, iso(time.time())))
        seen = adoption.inspect(directory)
        if seen.record is None:
            raise LaunchFailed(
                Failure(
                    Cause.UNKNOWN,
                    f"{directory}: its state.json is gone",
                    "leave the files of running workers alone; load it again",
                    iso(time.time()),
                )
            )
        return LocalHandle(directory, spec, seen.record, seen.shim)

    async def adopt(self) -> list[LocalHandle]:
        """Every tree of ours that still runs, ending ones included, in order of their ids."""
        try:
            directories = sorted(path for path in self.root.iterdir() if path.is_dir())
        except FileNotFoundError:
            return []
        found = [await self._adopt(directory) for directory in directories]
        return [handle for handle in found if handle is not None]

    def running(self) -> list[str]:
        """Ids of the workers of which a process still runs; for those who do not mean to adopt."""
        if not self.root.is_dir():
            return []
        return sorted(
            path.name
            for path in self.root.iterdir()
            if path.is_dir() and adoption.inspect(path).fate in RUNNING
        )

    def inspect(self, worker_id: str) -> adoption.Inspection:
        """What became of a worker."""
        return adoption.inspect(self.directory(worker_id))

    def forget(self, worker_id: str) -> None:
        """Remove the files of a worker that does not run; of one that does, nothing."""
        directory = self.directory(worker_id)
        if adoption.inspect(directory).fate not in RUNNING:
            shutil.rmtree(directory, ignore_errors=True)

    def expected_s(self, model: str, revision: int) -> float | None:
        """Median seconds to ready of this revision's last starts, or else of the newest other's."""
        by_revision = _read(self.root / "start-times.json").get(model)
        if not isinstance(by_revision, dict) or not by_revision:
            return None
        newest = next(reversed(by_revision.values()))
        times = by_revision.get(str(revision), newest)
        return statistics.median(times) if times else None

    def _launch(
        self, directory: Path, spec: LaunchSpec, environment: dict[str, str]
    ) -> tuple[Cause, str, str] | None:
        """Start the shim and hear its answer; the reason when there is no worker."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        seen = adoption.inspect(directory)
        if seen.fate in RUNNING:
            pid = seen.record.pid if seen.record else "?"
            line = f"worker {spec.worker_id} still runs (pid {pid}, {seen.fate})"
            return Cause.UNKNOWN, line, "unload it first"
        before = _read(directory / "spec.json").get("generation")
        generation = before + 1 if isinstance(before, int) else 1
        _write(directory / "spec.json", {**asdict(spec), "generation": generation})
        for name in ("state.json", "exit.json", "served.json"):
            (directory / name).unlink(missing_ok=True)
        try:
            said = subprocess.run(
                [self.python, "-I", "-S", shim.__file__, str(directory.absolute())],
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=ANSWER_S,
                check=False,
            ).stdout
        except subprocess.TimeoutExpired:
            self._abort(directory)
            line = f"{spec.argv[0]} could not be executed within {ANSWER_S:.0f} s"
            return Cause.UNKNOWN, line, "see that the disk it lies on answers"
        return _refusal(said, spec)

    def _abort(self, directory: Path) -> None:
        """End a shim that hangs before its worker runs, and what it forked."""
        seen = adoption.inspect(directory)
        if seen.shim is not None:
            family = [(pid, start) for pid, start in members(seen.shim[0]) if pid != seen.shim[0]]
            kill_all([*family, seen.shim])

    async def _adopt(self, directory: Path) -> LocalHandle | None:
        until = time.monotonic() + 2.0
        while True:
            seen = adoption.inspect(directory)
            lives = seen.fate in (Fate.ADOPTED, Fate.SHIM_LOST)
            if lives or (seen.fate is Fate.CLEANING and seen.record and seen.shim):
                assert seen.record is not None
                spec = _spec(directory)
                return LocalHandle(directory, spec, seen.record, seen.shim)
            if seen.fate is not Fate.CLEANING or time.monotonic() > until:
                return None
            await asyncio.sleep(0.02)


class LocalHandle:
    """One tree of this machine: its shim, or, without one, its main process."""

    def __init__(
        self, directory: Path, spec: LaunchSpec, record: Record, shim: tuple[int, int] | None
    ) -> None:
        self.directory = directory
        self._spec = spec
        self.record = record
        self._shim = shim
        self._asked = False
        self._members: set[tuple[int, int]] = set()
        """Pid and start time of what a tree without its shim was seen to consist of."""

    @property
    def spec(self) -> LaunchSpec:
        return self._spec

    @property
    def pid(self) -> int:
        return self.record.pid

    @property
    def started_at(self) -> float:
        return self.record.at

    @property
    def log(self) -> Path:
        return self.directory / "out.log"

    @property
    def log_start(self) -> int:
        return self.record.log_start

    @property
    def served(self) -> Served | None:
        content = _read(self.directory / "served.json")
        try:
            if content["generation"] != self.record.generation:
                return None
            engine = from_json(Engine, content["engine"])
            return Served(float(content["at"]), float(content["took_s"]), engine)
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def asked(self) -> bool:
        return self.record.asked

    def alive(self) -> bool:
        parent = self._shim[0] if self._shim is not None and self._shim_lives() else None
        return adoption.main_alive(self.record, parent)

    def tree(self) -> list[int]:
        if self._shim is None or not self._shim_lives():
            return [pid for pid, _ in self._lost_members()]
        pids = shim.descendants(self._shim[0])
        return sorted(pids, key=lambda pid: pid != self.pid)

    def stop(self) -> None:
        self._asked = True
        if self._shim is not None and self._shim_lives():
            send(self._shim, signal.SIGTERM)
        elif self._lost_members() and self.alive():
            send((self.record.pid, self.record.start), signal.SIGTERM)

    def kill(self) -> None:
        self._asked = True
        if self._shim is not None and self._shim_lives():
            send(self._shim, signal.SIGUSR1)
        else:
            kill_all(self._lost_members())

    async def died(self) -> None:
        if self.alive():
            await end_of(self.record.pid, self.record.start)

    async def gone(self) -> Exit:
        if self._shim is not None:
            await end_of(*self._shim)
            self._shim = None
        ended = adoption.inspect(self.directory).exit
        if ended is not None:
            return ended
        while self.alive():
            self._lost_members()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.died(), 2.0)
        while left := self._lost_members():
            kill_all(left)
            await asyncio.sleep(0.05)
        return Exit(None, self._asked, time.time())

    def mark_served(self, served: Served) -> None:
        content = {**to_json(served), "generation": self.record.generation}
        times_path = self.directory.parent / "start-times.json"
        times = _read(times_path)
        by_revision = times.setdefault(self.spec.model, {})
        revision = str(self.spec.revision)
        earlier = by_revision.pop(revision, [])
        by_revision[revision] = [*earlier, round(served.took_s, 3)][-REMEMBERED_STARTS:]
        with contextlib.suppress(OSError):
            _write(self.directory / "served.json", content)
            _write(times_path, times)

    def _shim_lives(self) -> bool:
        if self._shim is None:
            return False
        seen = shim.process(self._shim[0])
        return seen is not None and seen[0] == self._shim[1]

    def _lost_members(self) -> list[tuple[int, int]]:
        """What is left of a tree without its shim: what was seen of it while its head lived."""
        if self.alive():
            self._members |= set(members(self.record.pid))
        self._members = {
            (pid, start)
            for pid, start in self._members
            if (seen := shim.process(pid)) is not None and seen[0] == start
        }
        return sorted(self._members, key=lambda member: member[0] != self.pid)


def _refusal(said: bytes, spec: LaunchSpec) -> tuple[Cause, str, str] | None:
    """What the shim's answer amounts to; `None` when the worker runs."""
    lines = said.decode("utf-8", "replace").strip().splitlines()
    try:
        answer = json.loads(lines[-1])
    except (IndexError, ValueError):
        last = lines[-1] if lines else "it said nothing"
        return Cause.UNKNOWN, f"the shim of {spec.worker_id} ended: {last}", "report this, please"
    if "error" not in answer:
        return None
    error = str(answer["error"])
    if not _CANNOT_EXECUTE.search(error):
        return Cause.UNKNOWN, f"worker {spec.worker_id}: {error}", "mend that, then load it again"
    line = f"cannot start {spec.argv[0]}: {error}"
    remedy = "install an engine (`vllm-console engines install cpu`), or correct `engine`"
    return Cause.ENGINE_MISSING, line, remedy


def _spec(directory: Path) -> LaunchSpec:
    """The spec of a tree that runs; where its file is damaged, just enough to end the tree."""
    content = _read(directory / "spec.json")
    content.pop("generation", None)
    try:
        for name in ("argv", "served_names", "gpus"):
            content[name] = tuple(content.get(name, ()))
        spec = LaunchSpec(**content)
    except TypeError:
        return LaunchSpec(directory.name, directory.name, 0, (), 0, ())
    kinds = (
        (spec.model, str),
        (spec.revision, int),
        (spec.port, int),
        (spec.stop_grace_s, (int, float)),
    )
    sound = all(isinstance(value, kind) for value, kind in kinds)
    if not sound or spec.worker_id != directory.name:
        return LaunchSpec(directory.name, directory.name, 0, (), 0, ())
    return spec


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file of ours in one step, readable by its owner alone."""
    fresh = path.with_name(f"{path.name}.new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(content, file)
    fresh.replace(path)
