"""What a daemon meets on the fake machine: a launcher, HTTP, NVML and /proc, and their patches."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.faults.fake_machine import Identity, Machine, Tree
from tests.faults.fake_sleep_mode import switch
from tests.faults.virtual_time import VirtualLoop
from vllm_console.control import daemon, factory, launching
from vllm_console.control import machine as control_machine
from vllm_console.devices import patient
from vllm_console.devices.nvml import Nvml, NvmlReading
from vllm_console.engines.environment import EngineEnvironment
from vllm_console.fleet.options import Flag, FlagSchema
from vllm_console.history.database import Database, Tell, Write
from vllm_console.history.file import open_to_write
from vllm_console.history.schema import STEPS
from vllm_console.http1 import ConnectFailed, Disconnected, RequestTimedOut, Response
from vllm_console.snapshot import Failure, Host
from vllm_console.workers import sockets, worker
from vllm_console.workers.launch import Exit, LaunchFailed, LaunchSpec, Loss, Served, iso
from vllm_console.workers.states import Cause

ENGINE = EngineEnvironment(
    "fake", Path("/fake/bin/vllm"), Path("/fake/bin/python"), "fake", "0.32.0", "cuda"
)
OPTIONS = FlagSchema(
    "0.32.0", {"fake_step_s": Flag("fake_step_s", ("--fake-step-s",), takes="float")}
)
FORK_S = 0.02
"""Until the shim is there, after which only it can end what it started."""
ANSWER_S = 0.05


class FakeHandle:
    """A tree as `LocalHandle` has it: known by identities, each signal checked against them."""

    def __init__(self, machine: Machine, tree: Tree) -> None:
        self.tree_itself = tree
        self._machine = machine
        self._shim = tree.shim
        self._asked = False
        self._asked_when_found = tree.asked
        self._seen: set[Identity] = set()

    @property
    def spec(self) -> LaunchSpec:
        return self.tree_itself.spec

    @property
    def pid(self) -> int:
        return self.tree_itself.main.pid

    @property
    def started_at(self) -> float:
        return self.tree_itself.at

    @property
    def age_s(self) -> float:
        return self._machine.clock.now - self.tree_itself.launched

    @property
    def log(self) -> Path:
        return self.tree_itself.log

    @property
    def log_start(self) -> int:
        return self.tree_itself.log_start

    @property
    def served(self) -> Served | None:
        return self.tree_itself.served

    @property
    def asked(self) -> bool:
        return self._asked_when_found

    def alive(self) -> bool:
        return self._machine.is_alive(self.tree_itself.main)

    def tree(self) -> list[int]:
        return [member.pid for member in self._members()]

    def stop(self) -> None:
        self._asked = True
        if self._machine.is_alive(self._shim):
            self._machine.send(self._shim, signal.SIGTERM)
        elif self.alive():
            self._machine.send(self.tree_itself.main, signal.SIGTERM)

    def kill(self) -> None:
        self._asked = True
        if self._machine.is_alive(self._shim):
            self._machine.send(self._shim, signal.SIGUSR1)
        else:
            for member in self._members():
                self._machine.send(member, signal.SIGKILL)

    async def died(self) -> None:
        await self.tree_itself.main_ended.wait()

    async def gone(self) -> Exit:
        if self._shim is not None:
            await self.tree_itself.shim_ended.wait()
            self._shim = None
        if self.tree_itself.exit is not None:
            return self.tree_itself.exit
        self._members()
        await self.tree_itself.main_ended.wait()
        while left := self._members():
            for member in left:
                self._machine.send(member, signal.SIGKILL)
            await asyncio.sleep(0.05)
        return Exit(None, self._asked, self._machine.wall())

    def mark_served(self, served: Served) -> None:
        self.tree_itself.served = served

    def _members(self) -> list[Identity]:
        tree = self.tree_itself
        return [m for m in (tree.main, tree.engine) if m is not None and self._machine.is_alive(m)]


class FakeLauncher:
    """Launches and adopts as `LocalLauncher` does, refusals and loose ends included."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.dead = False
        """The daemon was killed: of what it had not forked yet nothing comes."""
        self.refusals: list[Failure] = []
        """What the next launches fail with."""

    async def launch(self, spec: LaunchSpec, environment: Mapping[str, str]) -> FakeHandle:
        """Start a tree; whoever waits for it may be cancelled, the start itself may not."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[FakeHandle | Failure] = loop.create_future()

        def settle(what: FakeHandle | Failure) -> None:
            if not self.dead:
                loop.call_soon(_set, answer, what)

        def begin() -> None:
            if self.dead:
                return
            said = self._begun(spec, environment)
            self._machine.clock.later(ANSWER_S, lambda: settle(said))

        self._machine.clock.later(FORK_S, begin)
        said = await answer
        if isinstance(said, Failure):
            raise LaunchFailed(said)
        return said

    async def adopt(self) -> Sequence[FakeHandle]:
        """Every tree whose shim or main process lives, in order of their ids."""
        machine = self._machine
        found = [
            tree
            for tree in machine.trees
            if machine.is_alive(tree.shim) or machine.is_alive(tree.main)
        ]
        await asyncio.sleep(0)
        found.sort(key=lambda tree: tree.spec.worker_id)
        return [FakeHandle(machine, tree) for tree in found]

    def losses(self) -> Sequence[Loss]:
        """Nothing is told of what ended while nobody watched."""
        return ()

    def expected_s(self, model: str, revision: int) -> float | None:
        """No earlier start is remembered."""
        return None

    def log_path(self, worker_id: str) -> Path:
        """The log of a worker."""
        return self._machine.root / worker_id / "out.log"

    def _begun(self, spec: LaunchSpec, environment: Mapping[str, str]) -> FakeHandle | Failure:
        machine = self._machine
        for tree in machine.trees:
            lives = machine.is_alive(tree.shim) or machine.is_alive(tree.main)
            if tree.spec.worker_id == spec.worker_id and lives:
                line = f"worker {spec.worker_id} still runs (pid {tree.main.pid})"
                return Failure(Cause.UNKNOWN, line, "unload it first", iso(machine.wall()))
        if self.refusals:
            return self.refusals.pop(0)
        return FakeHandle(machine, machine.launch(spec, environment))


def _set(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)


class FakeHttp:
    """Stands where `http1.Pool` stands; connects to the trees of the fake machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def request(self, method: str, url: str, *, timeout: float, **given: Any) -> Response:  # noqa: ASYNC109
        """Answers as vLLM does: health and models once it serves, metrics while it is bound."""
        port, _, path = url.removeprefix("http://127.0.0.1:").partition("/")
        await asyncio.sleep(0.002)
        tree = self._machine.server(int(port))
        if tree is None or not (tree.serving or tree.hung):
            raise ConnectFailed(f"{url}: connection refused")
        if tree.hung:
            await asyncio.sleep(timeout)
            raise RequestTimedOut(f"{url}: no answer within {timeout:g} s")
        body = b""
        if path == "v1/models":
            listed = [{"id": name} for name in tree.spec.served_names]
            body = json.dumps({"data": listed}).encode()
        elif path == "is_sleeping" or path.startswith(("sleep?", "wake_up", "collective_rpc")):
            return await self._sleep_mode(tree, url, path)
        elif path == "metrics":
            tree.steps += not tree.frozen
            body = _METRICS.format(running=int(tree.frozen), steps=tree.steps).encode()
        return Response(200, [], body)

    async def _sleep_mode(self, tree: Tree, url: str, path: str) -> Response:
        """An engine answers once it has done what it was told, or told before."""
        clock = self._machine.clock
        try:
            done = tree.rest.busy_until
            if path != "is_sleeping":
                done = switch(self._machine, tree, _TOLD[path.partition("&")[0]])
        except ValueError as error:
            return Response(500, [], json.dumps({"error": {"message": str(error)}}).encode())
        if clock.now < done:
            await asyncio.sleep(done - clock.now)
        if self._machine.server(tree.spec.port) is not tree or tree.hung:
            raise Disconnected(f"{url}: the connection ended")
        return Response(200, [], json.dumps({"is_sleeping": tree.rest.asleep}).encode())

    async def close(self) -> None:
        """There is nothing to let go of."""


_TOLD = {
    "sleep?level=1": "sleep",
    "sleep?level=2": "sleep",
    "wake_up": "wake",
    "wake_up?tags=weights": "weights",
    "collective_rpc": "reload",
    "wake_up?tags=kv_cache": "kv_cache",
}
"""What an engine is told, by path."""

_METRICS = """vllm:num_requests_running {running}.0
vllm:num_requests_waiting 0.0
vllm:generation_tokens_total {steps}.0
vllm:iteration_tokens_total_bucket{{le="1.0"}} {steps}.0
vllm:iteration_tokens_total_bucket{{le="+Inf"}} {steps}.0
vllm:iteration_tokens_total_sum {steps}.0
vllm:iteration_tokens_total_count {steps}.0
"""


class FakeNvml(Nvml):
    """The driver of the fake machine."""

    def __init__(self, machine: Machine) -> None:
        super().__init__("here", api=SimpleNamespace(NVMLError=Exception))
        self._machine = machine

    def poll(self) -> NvmlReading:
        return self._machine.reading()


class FakeDatabase(Database):
    """Writes at once, without a thread; the file outlives the daemon."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file, _ = open_to_write(path, STEPS)

    def start(self, tell: Tell | None = None) -> None:
        """There is no thread to start."""

    def write(self, write: Write, done: Callable[[], None] | None = None) -> None:
        """Carry it out: at the next turn of the loop, as the caller may hold a lock it takes."""
        try:
            asyncio.get_running_loop().call_soon(self._carry_out, write, done)
        except RuntimeError:  # the daemon is being made
            self._carry_out(write, done)

    def flush(self, timeout: float) -> bool:
        """Nothing waits."""
        return True

    def close(self, timeout: float = 5.0) -> None:
        """Let go of the file."""
        self._file.close()

    def _carry_out(self, write: Write, done: Callable[[], None] | None) -> None:
        self._file.execute("BEGIN")
        write(self._file)
        self._file.execute("COMMIT")
        if done is not None:
            done()


class _NoOrphans:
    """Looks for no orphans: those of the real machine are none of ours."""

    alerts = ()

    def __init__(self, *_: object) -> None:
        pass

    async def look_for_ever(self) -> None:
        """Never finds any."""
        await asyncio.Event().wait()


class _FakeHost:
    """A host on which nothing is measured."""

    def __init__(self, node: str) -> None:
        self._node = node

    def poll(self) -> Host:
        return Host(self._node)

    def tree_usage(self, pids: object) -> tuple[None, None]:
        return None, None


@contextmanager
def on(machine: Machine) -> Iterator[None]:
    """Whatever the console does meanwhile, it does on the fake machine."""

    def in_thread(work: Callable[[], Any]) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        future: asyncio.Future[Any] = loop.create_future()

        def answer() -> None:
            if not loop.is_closed():
                loop.call_soon(_set, future, work())

        machine.ask_driver(answer)
        return future

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(daemon, "Pool", lambda: FakeHttp(machine))
        patch.setattr(daemon, "Database", FakeDatabase)
        patch.setattr(daemon, "OrphanWatch", _NoOrphans)
        patch.setattr(launching, "free_port", lambda avoid=(): machine.free_port(avoid))
        patch.setattr(launching, "resolve", lambda _: ENGINE)
        patch.setattr(launching, "flag_schema", lambda _: OPTIONS)
        patch.setattr(factory, "resolve", lambda _: ENGINE)
        patch.setattr(sockets, "belongs", machine.belongs)
        patch.setattr(worker, "time", SimpleNamespace(time=machine.wall, monotonic=None))
        patch.setattr(control_machine, "HostReader", _FakeHost)
        patch.setattr(control_machine, "process_name", lambda _: None)
        patch.setattr(patient, "_in_thread", in_thread)
        yield
