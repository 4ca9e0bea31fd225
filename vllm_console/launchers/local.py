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
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vllm_console.errors import ConsoleError, InvalidInput
from vllm_console.launchers.compiled import compiled
from vllm_console.launchers.files import (
    clear,
    expected_s,
    is_duration,
    learn,
    read_spec,
    write,
    write_spec,
)
from vllm_console.launchers.processes import end_of, kill_all, members, send
from vllm_console.launchers.scope import Scopes
from vllm_console.snapshot import Engine, Failure, from_json, to_json
from vllm_console.workers import adoption, shim
from vllm_console.workers.adoption import RUNNING, Fate, Record, read_json
from vllm_console.workers.launch import Exit, LaunchFailed, LaunchSpec, Loss, Served, iso
from vllm_console.workers.states import Cause

SETTLES_S = 0.5
"""A shim whose launch was interrupted has written state.json by then."""
LOST_ENDS_S = 5.0
"""A killed process is gone within this, unless the kernel holds it."""
ANSWER_S = 30.0
"""A shim answers within some 30 ms; a program on a network that hangs is given this long."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CANNOT_EXECUTE = re.compile(r"\[Errno (?:2|8|13|20)\]")


class LocalLauncher:
    """Launches, adopts and ends workers through shims; keeps no state but what is in `root`."""

    def __init__(
        self, root: Path, *, python: str = sys.executable, scopes: Scopes | None = None
    ) -> None:
        self.root = root
        self.python = python
        self._scopes = scopes or Scopes()

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
        """Start a worker with this environment; returns once its program runs.

        Its engine's sockets lie in its own directory, where the path is not too long for that.
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
        """Every tree of ours that still runs, ending ones included, in order of their ids.

        A tree whose directory or files were removed is found by its shim. Raises `ConsoleError`
        where `root` cannot be read: nobody knows then what runs.
        """
        directories = {path for path in self._directories() if path.is_dir()}
        holders = self._known_to_shims()
        found = [await self._adopt(path, holders) for path in sorted({*directories, *holders})]
        return [handle for handle in found if handle is not None]

    def losses(self) -> list[Loss]:
        """What ended unasked while nobody watched, told once; its files make way for a start."""
        lost = []
        _sweep()
        for directory in self._directories():
            seen = adoption.inspect(directory)
            if seen.record is None or seen.fate in RUNNING:
                continue
            told = read_json(directory / "exit.json").get("told") is True
            rebooted = seen.record.boot != shim.boot_id()
            if seen.exit is None or not (told or seen.exit.asked):
                lost.append(Loss(directory.name, seen.exit, rebooted and seen.exit is None))
            if not told:
                with contextlib.suppress(OSError):
                    _make_way(directory)
        return lost

    def running(self) -> list[str]:
        """Ids of the workers of which a process still runs; for those who do not mean to adopt."""
        seen = {path for path in self._directories() if adoption.inspect(path).fate in RUNNING}
        return sorted(path.name for path in {*seen, *self._known_to_shims()})

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
        return expected_s(self.root / "start-times.json", model, revision)

    def _directories(self) -> list[Path]:
        try:
            return sorted(path for path in self.root.iterdir() if _NAME.fullmatch(path.name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConsoleError(
                f"{self.root}: cannot be read ({error.strerror}), so nobody knows which workers "
                "run; give it back to this user, or choose another --state-dir"
            ) from None

    def _known_to_shims(self) -> dict[Path, tuple[int, int]]:
        """Shims by their directories under our root, be these removed; (pid, start time) each."""
        root = os.path.realpath(self.root)
        return {
            self.root / os.path.basename(directory): (pid, seen[0])
            for pid, directory in shim.shims()
            if os.path.dirname(directory) == root and (seen := shim.process(pid)) is not None
        }

    def _launch(
        self, directory: Path, spec: LaunchSpec, environment: dict[str, str]
    ) -> tuple[Cause, str, str] | None:
        """Start the shim and hear its answer; the reason when there is no worker."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._end_lost(directory, spec)
        seen = adoption.inspect(directory)
        if seen.fate in RUNNING:
            pid = seen.record.pid if seen.record else "?"
            line = f"worker {spec.worker_id} still runs (pid {pid}, {seen.fate})"
            return Cause.UNKNOWN, line, "unload it first"
        before = read_json(directory / "spec.json").get("generation")
        generation = before + 1 if isinstance(before, int) and before > 0 else 1
        _make_way(directory)
        environment = _own_sockets(directory) | environment
        write_spec(directory, spec, generation)
        program = compiled(shim.__file__, self.python)
        shim_argv = [self.python, "-I", "-S", program, str(directory.absolute())]
        argv, environ = self._scopes.wrap(shim_argv, environment, spec.worker_id)
        try:
            said = _run(argv, environ)
            if argv != shim_argv and _answer(said) is None:  # systemd-run failed, not the shim
                self._scopes.give_up()
                said = _run(shim_argv, environment)
        except subprocess.TimeoutExpired:
            self._abort(directory)
            line = f"{spec.argv[0]} could not be executed within {ANSWER_S:.0f} s"
            return Cause.UNKNOWN, line, "see that the disk it lies on answers"
        if _answer(said) is None:  # it was killed: what it had forked may be running by now
            self._end_lost(directory, spec, settles_s=SETTLES_S)
        return _refusal(said, spec)

    def _end_lost(self, directory: Path, spec: LaunchSpec, *, settles_s: float = 0.0) -> None:
        """End a tree whose shim was killed before anybody had a handle on it.

        A process that is just being executed is told by its log only after `settles_s`.
        """
        began = time.monotonic()
        while (spent := time.monotonic() - began) < LOST_ENDS_S:
            seen = adoption.inspect(directory)
            if seen.fate is Fate.SHIM_LOST and seen.record is not None:
                LocalHandle(directory, spec, seen.record, None).kill()
            elif spent >= settles_s:
                return
            time.sleep(0.02)

    def _abort(self, directory: Path) -> None:
        """End a shim that hangs before its worker runs, and what it forked."""
        seen = adoption.inspect(directory)
        if seen.shim is not None:
            family = [(pid, start) for pid, start in members(seen.shim[0]) if pid != seen.shim[0]]
            kill_all([*family, seen.shim])

    async def _adopt(
        self, directory: Path, holders: Mapping[Path, tuple[int, int]]
    ) -> LocalHandle | None:
        until = time.monotonic() + SETTLES_S
        while True:
            seen = adoption.inspect(directory)
            holder, record = seen.shim or holders.get(directory), seen.record
            late = time.monotonic() > until
            if record is None and holder is not None and late:
                record = adoption.rebuilt(directory, holder)
            if record is not None and (holder is not None or seen.fate is Fate.SHIM_LOST):
                spec = read_spec(directory, record.pid)
                return LocalHandle(directory, spec, record, holder)
            if late or (holder is None and seen.fate is not Fate.CLEANING):
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
    def age_s(self) -> float:
        return adoption.age_s(self.record)

    @property
    def log(self) -> Path:
        return self.directory / "out.log"

    @property
    def log_start(self) -> int:
        return self.record.log_start

    @property
    def served(self) -> Served | None:
        content = read_json(self.directory / "served.json")
        if content.get("generation") != self.record.generation:
            return None
        try:
            took_s: Any = content.get("took_s")
            engine = from_json(Engine, content["engine"])
            at, known = float(content["at"]), is_duration(took_s)
            return Served(at, float(took_s) if known else None, engine)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return None

    @property
    def asked(self) -> bool:
        return self.record.asked

    def alive(self) -> bool:
        if self._shim is not None and self._shim_lives():
            return adoption.main_alive(self.record, parent=self._shim[0])
        return adoption.main_ours(self.directory, self.record)

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
            self._kill_left()

    async def died(self) -> None:
        if self.alive():
            await end_of(self.record.pid, self.record.start)

    async def gone(self) -> Exit:
        if self._shim is not None:
            await end_of(*self._shim)
            self._shim = None
        if not adoption.cleaned(self.directory, self.record):
            await self._end_without_shim()
        content = read_json(self.directory / "exit.json")
        ended = adoption.exit_of(self.directory, self.record)
        if ended is None:
            ended = Exit(None, self._asked, time.time())
            content = {**asdict(ended), "generation": self.record.generation, "clean_s": 0.0}
        with contextlib.suppress(OSError):
            write(self.directory / "exit.json", {**content, "told": True})
        return ended

    def mark_served(self, served: Served) -> None:
        content = {**to_json(served), "generation": self.record.generation}
        times = self.directory.parent / "start-times.json"
        with contextlib.suppress(OSError):
            write(self.directory / "served.json", content)
            if served.took_s is not None:
                learn(times, self.spec.model, self.spec.revision, served.took_s)

    async def _end_without_shim(self) -> None:
        """Wait for the main process, then kill what it leaves."""
        while self.alive():
            self._lost_members()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.died(), 2.0)
        while self._lost_members():
            self._kill_left()
            await asyncio.sleep(0.05)
        cgroup = adoption.cgroup_of(self.directory, self.record)
        if cgroup is not None:
            with contextlib.suppress(OSError):
                os.rmdir(cgroup)

    def _kill_left(self) -> None:
        """SIGKILL to what is left of a tree without its shim."""
        cgroup = adoption.cgroup_of(self.directory, self.record)
        if cgroup is not None:
            shim.cgroup_kill(cgroup)
        kill_all(self._lost_members())

    def _shim_lives(self) -> bool:
        if self._shim is None:
            return False
        seen = shim.process(self._shim[0])
        return seen is not None and seen[0] == self._shim[1]

    def _lost_members(self) -> list[tuple[int, int]]:
        """What is left of a tree without its shim: what was seen of it while its head lived."""
        if self.alive():
            self._members = self._members.union(members(self.record.pid))
        if not adoption.cleaned(self.directory, self.record):
            self._members = self._members.union(adoption.left(self.directory, self.record))
        self._members = {
            (pid, start)
            for pid, start in self._members
            if (seen := shim.process(pid)) is not None and seen[0] == start
        }
        return sorted(self._members, key=lambda member: member[0] != self.pid)


def _make_way(directory: Path) -> None:
    """Clear what an earlier run left, save its log; raises `OSError`."""
    for name in ("state.json", "exit.json", "served.json"):
        clear(directory / name)
    for name in ("spec.json", "shim.lock", "out.log"):
        if not (directory / name).is_file():
            clear(directory / name)


def _own_sockets(directory: Path) -> dict[str, str]:
    """Where vLLM's processes talk to each other: a killed one would leave them in /tmp for ever.

    vllm/utils/network_utils.py adds a slash and a uuid; the kernel takes 107 bytes.
    """
    home = directory.absolute() / "ipc"
    shutil.rmtree(home, ignore_errors=True)
    if len(os.fsencode(home)) + 1 + 36 > 107:
        return {}
    home.mkdir(mode=0o700)
    return {"VLLM_RPC_BASE_PATH": str(home)}


def _sweep() -> None:
    """Remove the cgroups of workers that are no more; the kernel keeps one that is in use."""
    home = shim.own_cgroup()
    if home is not None and os.access(home, os.W_OK):
        for leaf in Path(home).glob("vllm-worker-*"):
            with contextlib.suppress(OSError):
                leaf.rmdir()


def _run(argv: list[str], environment: Mapping[str, str]) -> bytes:
    """What the program says before it goes into the background; raises `TimeoutExpired`."""
    return subprocess.run(
        argv,
        env=environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=ANSWER_S,
        check=False,
    ).stdout


def _answer(said: bytes) -> dict[str, object] | None:
    """The shim's answer, the last line; `None` when it gave none."""
    try:
        answer = json.loads(said.decode("utf-8", "replace").strip().rpartition("\n")[2])
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _refusal(said: bytes, spec: LaunchSpec) -> tuple[Cause, str, str] | None:
    """What the shim's answer amounts to; `None` when the worker runs."""
    answer = _answer(said)
    if answer is None:
        lines = said.decode("utf-8", "replace").strip().splitlines()
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
