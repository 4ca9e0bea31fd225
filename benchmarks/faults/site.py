"""A fleet in a directory of its own, driven as a user would, and proof that nothing of it is left.

Every process of a site carries the site's directory in its environment or writes to a file below
it: that finds what no pid file, lock or parent leads to any more.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from benchmarks.common import CLI
from benchmarks.faults.table import NotMet, until
from vllm_console.control.client import Client
from vllm_console.control.process import is_running
from vllm_console.errors import NoDaemon, TimedOut
from vllm_console.fleet.find import Place, locate
from vllm_console.launchers.processes import send
from vllm_console.snapshot import Model, Snapshot, Worker
from vllm_console.workers import adoption
from vllm_console.workers.shim import descendants, process

Member = tuple[int, int]
"""Pid and start time: one process for the whole boot."""

MARK = "FAULTS_SITE"
"""Environment variable of every process of a site."""
READY_S = 30.0
VERB_S = 120.0


class Site:
    """One fleet: `write` its file, `up`, hurt it, look at it. Leaving it takes it down.

    Leaving raises `NotMet` when a process of the site is left, and ends that process.
    """

    def __init__(
        self,
        root: Path,
        toml: str,
        *,
        env: Mapping[str, str] | None = None,
        ready_s: float = READY_S,
    ) -> None:
        """`ready_s` is how long a worker may take to become ready."""
        self.root = root.resolve()
        self.root.mkdir(parents=True, exist_ok=True)
        self.file = self.root / "fleet.toml"
        self.ready_s = ready_s
        self.environment = {**os.environ, **(env or {}), MARK: str(self.root)}
        self.write(toml)
        self.place: Place = locate(self.file, self.root / "state")
        self.client = Client(self.place.socket, timeout=10.0)

    def __enter__(self) -> Site:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        said = self.verb("down", check=False).stderr.strip()
        left = self.end()
        if left and error is None:
            raise NotMet(f"left running after `down` ({said or 'no error'}): {', '.join(left)}")

    # -- what a user does -------------------------------------------------------------------------

    def write(self, toml: str) -> None:
        """Write fleet.toml."""
        self.file.write_text(toml, encoding="utf-8")

    def words(self, *verb: str) -> list[str]:
        """The command line of a verb on this fleet."""
        return [str(CLI), "--fleet", str(self.file), "--state-dir", str(self.root / "state"), *verb]

    def verb(
        self, *verb: str, check: bool = True, timeout: float = VERB_S
    ) -> subprocess.CompletedProcess[str]:
        """Runs a verb to its end; raises `NotMet` with its last line when it fails."""
        done = subprocess.run(
            self.words(*verb),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            last = done.stderr.strip().rpartition("\n")[2]
            raise NotMet(f"`{' '.join(verb)}` exits {done.returncode}: {last}")
        return done

    def up(self, *options: str) -> None:
        """`up -d`."""
        self.verb("up", "-d", *options)

    def command(self, verb: str, **args: object) -> None:
        """A command over the control API, as the console and the verbs send it."""
        self.client.command(verb, **args)

    # -- what it is -------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The fleet now."""
        return self.client.snapshot()

    def models(self) -> dict[str, Model]:
        """The models by name; empty while no daemon answers."""
        try:
            return {model.name: model for model in self.snapshot().models}
        except (NoDaemon, TimedOut):
            return {}

    def workers(self) -> dict[str, Worker]:
        """The workers by id; empty while no daemon answers."""
        return {worker.id: worker for model in self.models().values() for worker in model.workers}

    def pids(self) -> dict[str, int | None]:
        """The main process of every worker by id."""
        return {name: worker.pid for name, worker in self.workers().items()}

    def targets(self) -> dict[str, tuple[str, str]]:
        """(url, model) of every worker that serves, by id: what `Clients` takes."""
        return {
            worker.id: (worker.url, model.name)
            for model in self.models().values()
            for worker in model.workers
            if worker.url is not None
        }

    def events(self) -> list[str]:
        """The texts of the newest events, oldest first, each after its subject."""
        return [f"{event.subject}: {event.text}" for event in self.client.events()]

    def ready(self, *workers: str, within_s: float | None = None) -> float:
        """Wait until these workers, or all that are wanted, are ready; the seconds it took."""

        def are() -> bool:
            if workers:
                seen = self.workers()
                return all(w in seen and seen[w].state == "ready" for w in workers)
            models = self.models()
            return bool(models) and all(
                model.ready >= model.wanted
                and all(w.state == "ready" for w in model.workers[: model.wanted])
                for model in models.values()
            )

        try:
            return until(are, within_s or self.ready_s, "ready")
        except NotMet as error:
            states = {name: f"{w.state} ({w.reason})" for name, w in self.workers().items()}
            raise NotMet(f"{error}: {states or 'no daemon'}") from None

    def idle(self) -> bool:
        """Whether the daemon says that there is no worker; raises `NoDaemon` without one."""
        return not any(model.workers for model in self.snapshot().models)

    def state(self, worker: str) -> str | None:
        """The state of one worker; `None` when there is none of that id, or no daemon."""
        seen = self.workers().get(worker)
        return seen.state if seen is not None else None

    # -- its processes ----------------------------------------------------------------------------

    def daemon(self) -> Member | None:
        """The daemon by the lock it holds; `None` when there is none."""
        if not is_running(self.place):
            return None
        try:
            pid = int((self.place.state_dir / "daemon.lock").read_text())
        except (OSError, ValueError):
            return None
        seen = process(pid)
        return (pid, seen[0]) if seen is not None else None

    def directory(self, worker: str) -> Path:
        """Where a worker's files lie."""
        return self.place.workers / worker

    def shim(self, worker: str) -> Member | None:
        """The shim of a worker by the lock it holds; `None` when there is none."""
        return adoption.inspect(self.directory(worker)).shim

    def tree(self, worker: str) -> list[Member]:
        """The worker's processes without its shim, main process first; empty when none runs."""
        seen = adoption.inspect(self.directory(worker))
        if seen.shim is None:  # the record may be forged: what writes to the log is the tree
            return adoption.left(self.directory(worker), seen.record) if seen.record else []
        main = seen.record.pid if seen.record else None
        return identities(sorted(descendants(seen.shim[0]), key=lambda pid: pid != main))

    def kill_daemon(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal the daemon, by pid and start time, and wait until it is gone."""
        daemon = self.daemon()
        if daemon is None:
            raise NotMet("there is no daemon to kill")
        send(daemon, number)
        until(lambda: not lives(daemon), 10.0, "the daemon is gone")

    def processes(self) -> dict[Member, str]:
        """Every process of this site with the start of its command line, whoever its parent is."""
        mark = f"{MARK}={self.root}".encode()
        found: dict[Member, str] = {}
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == os.getpid():
                continue
            seen = process(int(name))
            if seen is not None and (_carries(name, mark) or _writes_below(name, self.root)):
                found[int(name), seen[0]] = _title(name)
        return found

    def left(self) -> list[str]:
        """What of the site still runs: its processes, and the workers whose shim holds a lock."""
        found = [f"{title} ({pid})" for (pid, _), title in self.processes().items()]
        if self.place.workers.is_dir():
            for directory in sorted(self.place.workers.iterdir()):
                if adoption.inspect(directory).fate in adoption.RUNNING:
                    found.append(f"worker {directory.name}")  # noqa: PERF401
        return found

    def nothing_left(self, *, within_s: float = 10.0) -> None:
        """Raises `NotMet` when something but the daemon still runs after `within_s`."""
        daemon = self.daemon()
        mine = {daemon} if daemon else set()

        def gone() -> bool:
            return not set(self.processes()) - mine

        try:
            until(gone, within_s, "nothing is left", every_s=0.05)
        except NotMet:
            raise NotMet(f"left running: {', '.join(self.left())}") from None

    def end(self) -> list[str]:
        """Ends whatever is left of the site; what that was."""
        try:
            until(lambda: not self.processes(), 5.0, "nothing is left", every_s=0.05)
        except NotMet:
            left = self.left()
            for member in self.processes():
                send(member, signal.SIGCONT)
                send(member, signal.SIGKILL)
            with suppress(NotMet):  # what no signal ends is told as well
                until(lambda: not self.processes(), 5.0, "the killed are gone", every_s=0.05)
            return left
        return []

    def note(self, name: str) -> dict[str, object]:
        """A JSON file below the state directory, such as "workers/one-1/state.json"."""
        return dict(json.loads((self.place.state_dir / name).read_bytes()))


def lives(member: Member) -> bool:
    """Whether this very process still runs."""
    seen = process(member[0])
    return seen is not None and seen[0] == member[1]


def identities(pids: Sequence[int]) -> list[Member]:
    """(pid, start time) of those that live."""
    return [(pid, seen[0]) for pid in pids if (seen := process(pid)) is not None]


def all_gone(members: Sequence[Member]) -> Callable[[], bool]:
    """Whether none of these processes runs, asked anew at each call."""
    return lambda: not any(lives(member) for member in members)


def _carries(pid: str, mark: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return mark in file.read().split(b"\0")
    except OSError:
        return False


def _writes_below(pid: str, root: Path) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/fd/1").startswith(f"{root}/")
    except OSError:
        return False


def _title(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().rstrip(b"\0").decode("utf-8", "replace").split("\0")
    except OSError:
        return "?"
    return " ".join(os.path.basename(word) for word in words[:4])
