"""A rig that runs workers over fake `vllm serve` trees, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.fake_engine import FAKE, make_fake_engine
from vllm_console import http1, snapshot
from vllm_console.launchers.local import LocalHandle, LocalLauncher
from vllm_console.workers.launch import LaunchSpec
from vllm_console.workers.shim import process
from vllm_console.workers.sockets import free_port
from vllm_console.workers.states import State
from vllm_console.workers.worker import Worker

WITHIN_S = 15.0


class Rig:
    """Makes workers under one root, as one daemon would; `again()` is the next daemon."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.launcher = LocalLauncher(root)
        self.http = http1.Pool()
        self.workers: list[Worker] = []
        self.seen: list[tuple[str, str | None]] = []
        """(state, stage) of every change, each once in a row."""
        self.environment = {"PATH": "/usr/bin:/bin", "HF_TOKEN": "hf_notinanyfile"}
        self._ports: set[int] = set()

    def spec(self, *options: str, worker_id: str = "tiny-1", **changes: Any) -> LaunchSpec:
        port = changes.pop("port", None) or free_port(self._ports)
        self._ports.add(port)
        argv = (sys.executable, "-I", str(FAKE), "serve", "models/tiny", "--port", str(port))
        argv = changes.pop("argv", (*argv, "--served-model-name", "tiny", *options))
        changes = {"stop_grace_s": 3.0, "start_timeout_s": 30.0, **changes}
        return LaunchSpec(worker_id, "tiny", 1, argv, port, ("tiny",), **changes)

    def worker(
        self,
        *options: str,
        worker_id: str = "tiny-1",
        stubborn: bool = False,
        prepare: Callable[[], Awaitable[tuple[LaunchSpec, dict[str, str]]]] | None = None,
        gate: Callable[[], AbstractAsyncContextManager[Any]] | None = None,
        **changes: Any,
    ) -> Worker:
        async def fresh() -> tuple[LaunchSpec, dict[str, str]]:
            manner = () if stubborn else ("--fake-gentle",)
            spec = self.spec(*manner, *options, worker_id=worker_id, **changes)
            return spec, self.environment

        made = Worker(
            worker_id,
            "tiny",
            prepare=prepare or fresh,
            launcher=self.launcher,
            http=self.http,
            on_change=self._note,
            node="here",
            start_gate=gate,
        )
        self.workers.append(made)
        return made

    async def ready(self, worker: Worker) -> Worker:
        worker.load()
        await worker.wait({State.READY}, WITHIN_S)
        return worker

    async def again(self) -> list[LocalHandle]:
        """The daemon ends, and the next one looks for what it left running."""
        for worker in self.workers:
            await worker.close()
        self.workers.clear()
        self.launcher = LocalLauncher(self.root)
        return await self.launcher.adopt()

    async def end(self) -> None:
        for worker in self.workers:
            await worker.close()
        for handle in await self.launcher.adopt():
            handle.kill()
            await asyncio.wait_for(handle.gone(), WITHIN_S)
        await self.http.close()

    @staticmethod
    def identities(pids: list[int]) -> list[tuple[int, int]]:
        """(pid, start time) of live processes."""
        return [(pid, seen[0]) for pid in pids if (seen := process(pid)) is not None]

    @staticmethod
    def left_of(members: list[tuple[int, int]]) -> list[int]:
        """Those of (pid, start time) that still live."""
        return [pid for pid, start in members if (seen := process(pid)) and seen[0] == start]

    @staticmethod
    async def until(condition: Callable[[], bool], within_s: float = WITHIN_S) -> None:
        """Return once the condition holds; fails the test when it does not in time."""
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110 - the condition is in another process
                await asyncio.sleep(0.01)

    def _note(self, worker: Worker, view: snapshot.Worker) -> None:
        now = (str(view.state), view.stage)
        if not self.seen or self.seen[-1] != now:
            self.seen.append(now)


Scenario = Callable[[Rig], Coroutine[Any, Any, None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Scenario], None]:
    """Plays a scenario with a rig; whatever it leaves running is ended afterwards."""

    @asynccontextmanager
    async def rigged() -> AsyncIterator[Rig]:
        rig = Rig(tmp_path / "workers")
        try:
            yield rig
        finally:
            await rig.end()

    async def played(scenario: Scenario) -> None:
        async with rigged() as rig:
            await asyncio.wait_for(scenario(rig), 60)

    return lambda scenario: asyncio.run(played(scenario))


@pytest.fixture
def fake_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine environment whose `vllm` is the fake one, and whose Python lists its options."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return make_fake_engine(tmp_path / "engine")
