"""Makes the workers of a fleet: each with its engine, GPUs and port, and none with another's."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from pathlib import Path

from vllm_console.control.attached import AttachedWorker
from vllm_console.control.launching import choose_gpus, prepare, weights_bytes
from vllm_console.control.machine import Machine
from vllm_console.control.roster import Roster
from vllm_console.control.served import Actor, ServedModel
from vllm_console.control.sleepers import Sleepers
from vllm_console.engines.environment import resolve
from vllm_console.errors import ConsoleError, InvalidInput
from vllm_console.fleet.model import ModelConfig
from vllm_console.fleet.secrets import read_secret
from vllm_console.http1 import Pool
from vllm_console.snapshot import Worker as WorkerView
from vllm_console.workers.launch import Handle, Launcher, LaunchSpec
from vllm_console.workers.states import LOADING, RUNNING, State
from vllm_console.workers.worker import Worker

NOT_IN_FILE = "(no longer in fleet.toml)"
"""The source of a model that still runs and that the fleet file lists no more."""
_USE = RUNNING - {State.ASLEEP}
"""What is on a GPU is in use."""
_UNSTEADY = frozenset({State.STARTING, State.STOPPING})
"""The memory of the GPUs changes: vLLM, which measures it at start, would fail beside that."""


class WorkerFactory:
    """Makes workers, and knows which GPUs and ports those it made have. Lives in one event loop."""

    def __init__(
        self,
        fleet_file: Path,
        roster: Roster,
        *,
        node: str,
        launcher: Launcher,
        machine: Machine,
        http: Pool,
        reserved_port: Callable[[], int],
        on_change: Callable[[Actor, WorkerView], None],
        tell: Callable[[str, str, str], None],
        drain: Callable[[str, float], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`reserved_port` is one no worker may have, asked for anew at each launch.

        `tell` takes level, subject and text of an event.

        `drain` returns when a worker, by its id, has no request any more, or after some seconds.
        """
        self._fleet_file = fleet_file
        self._roster = roster
        self._node = node
        self._launcher = launcher
        self._machine = machine
        self._http = http
        self._reserved_port = reserved_port
        self._on_change = on_change
        self._drain = drain
        self._clock = clock
        self._gates: dict[int, asyncio.Lock] = {}
        self._specs: dict[str, LaunchSpec] = {}
        self._facts: dict[str, tuple[str, int | None]] = {}
        """The engine environment and the bytes of the weights of each worker's newest start."""
        self._turns: dict[str, tuple[ModelConfig, int]] = {}
        """Configuration and revision of each worker's newest start."""
        self._sleepers = Sleepers(machine, tell, self._steady)

    def make(self, model: ServedModel, worker_id: str) -> Actor:
        """A worker that is not started yet, or one that is only watched."""
        return (
            self._attached(model, worker_id)
            if model.config.attached
            else self._launched(model, worker_id)
        )

    def adopt(self, model: ServedModel, found: Handle) -> Worker:
        """A worker for a tree that runs, to be told of it with `Worker.adopt`."""
        worker = self._launched(model, found.spec.worker_id)
        model.workers[worker.id] = worker
        self._specs[worker.id] = found.spec
        if worker in model.own:
            self.describe(model, worker.id)
        return worker

    def describe(self, model: ServedModel, worker_id: str) -> None:
        """Have a model shown as one of its workers was started, if that was yet."""
        if worker_id in self._specs:
            model.command = self._specs[worker_id].argv
        if worker_id in self._facts:
            model.engine_environment, model.weights_bytes = self._facts[worker_id]

    def stray(self, found: Handle) -> ServedModel:
        """A model that is served but no longer in fleet.toml: shown, so that it can be unloaded."""
        config = ModelConfig(name=found.spec.model, source=NOT_IN_FILE, autostart=False)
        return ServedModel(config, found.spec.revision, self.make)

    def forget(self, worker_id: str) -> None:
        """Nothing of that worker is left, and it will not come back."""
        self._specs.pop(worker_id, None)
        self._facts.pop(worker_id, None)
        self._turns.pop(worker_id, None)
        self._sleepers.forget(worker_id)

    def has_room_beside(self, config: ModelConfig) -> bool:
        """Whether one more worker of this configuration can start while the others still run."""
        if config.devices:
            return False
        try:
            engine = resolve(config.engine)
            choose_gpus(config, engine, self._machine.devices.gpus, self.gpus_taken(""))
        except ConsoleError:
            return False
        return True

    def _attached(self, model: ServedModel, worker_id: str) -> AttachedWorker:
        url = model.config.url or ""  # the fleet file was refused without one
        model.engine_environment = "attached: started by somebody else"
        secret, base = model.config.api_key, self._fleet_file.parent

        def api_key() -> str | None:
            return read_secret(f"models.{model.name}.api_key", secret, base) if secret else None

        return AttachedWorker(
            worker_id,
            model.name,
            url,
            api_key=api_key,
            http=self._http,
            on_change=self._on_change,
            clock=self._clock,
        )

    def _launched(self, model: ServedModel, worker_id: str) -> Worker:
        async def prepare_launch() -> tuple[LaunchSpec, dict[str, str]]:
            config, revision = self._turns.get(worker_id, model.config_of(worker_id))
            if config.source == NOT_IN_FILE:
                raise InvalidInput(f"{model.name} is no longer in {self._fleet_file}")
            await self._machine.settled()
            prepared = await prepare(
                worker_id,
                config,
                revision,
                base=self._fleet_file.parent,
                gpus=self._machine.devices.gpus,
                taken=lambda: self.gpus_taken(worker_id),
                ports_in_use=lambda: self._ports(worker_id),
            )
            version = f", vLLM {prepared.engine.version}" if prepared.engine.version else ""
            found = f"{prepared.engine.found}{version}"
            self._facts[worker_id] = (found, weights_bytes(prepared.source))
            self._specs[worker_id] = prepared.spec
            if any(worker.id == worker_id for worker in model.own):
                self.describe(model, worker_id)
            return prepared.spec, prepared.environ

        def gate() -> AbstractAsyncContextManager[object]:
            return self._start_gate(worker_id, model)

        async def drain() -> None:
            if self._drain is not None:
                await self._drain(worker_id, model.config_of(worker_id)[0].drain_timeout_s)

        return Worker(
            worker_id,
            model.name,
            prepare=prepare_launch,
            launcher=self._launcher,
            http=self._http,
            on_change=self._on_change,
            node=self._node,
            start_gate=gate,
            drain=drain,
            bed=self._sleepers,
            expected_s=self._launcher.expected_s(model.name, model.config_of(worker_id)[1]),
            clock=self._clock,
        )

    @asynccontextmanager
    async def _start_gate(self, worker_id: str, model: ServedModel) -> AsyncIterator[None]:
        """Starts on a shared GPU wait for each other: vLLM profiles free memory at start.

        Those that hold no gate, being given a GPU that was free, are waited for too. The start is
        of the configuration that the model has when its turn comes, and of no later one, which
        might name other GPUs.
        """
        while True:
            gpus = set(model.config_of(worker_id)[0].devices or ())
            async with self._steady(worker_id, gpus):
                config, revision = model.config_of(worker_id)
                if gpus == set(config.devices or ()):
                    self._turns[worker_id] = (config, revision)
                    yield
                    return

    @asynccontextmanager
    async def _steady(self, worker_id: str, gpus: Collection[int]) -> AsyncIterator[None]:
        """Held by one worker at a time for each GPU, once no other changes its memory."""
        async with AsyncExitStack() as held:
            for index in sorted(gpus):
                await held.enter_async_context(self._gates.setdefault(index, asyncio.Lock()))
            while others := self._unsteady(worker_id, set(gpus)):
                with suppress(ConsoleError):  # the daemon ends
                    await others[0].left(_UNSTEADY)
            yield

    def _unsteady(self, but: str, gpus: set[int]) -> list[Worker]:
        """The other workers that take or give back memory of these GPUs now.

        One that wakes up holds the gates of its GPUs, or waits for them and has nothing there yet.
        """
        return [
            worker
            for worker, spec in self._others(but)
            if isinstance(worker, Worker)
            and worker.state in _UNSTEADY
            and not worker.wakes
            and not gpus.isdisjoint(spec.gpus)
        ]

    def in_the_way(self, gpus: Iterable[int]) -> list[str]:
        """The workers whose start or stop on these GPUs a start of now would wait for."""
        return [worker.id for worker in self._unsteady("", set(gpus))]

    def gpus_taken(self, but: str) -> Mapping[int, int]:
        """How many other workers use each GPU, those included that are to start on named ones.

        It is 0 for one on which others only sleep.
        """
        used = [
            index
            for worker, spec in self._others(but)
            if worker.state in _USE | {State.QUEUED}
            for index in spec.gpus
        ]
        sleepers = [
            index
            for worker, spec in self._others(but)
            if worker.state is State.ASLEEP
            for index in spec.gpus
        ]
        named = [
            index
            for model, worker in self._roster.workers()
            if worker.id != but and worker.state in _USE | LOADING
            for index in self._named(model, worker.id)
        ]
        return {**dict.fromkeys(sleepers, 0), **Counter([*used, *named, *self._machine.held])}

    def _named(self, model: ServedModel, worker_id: str) -> set[int]:
        """The GPUs that a worker may come to by name: of its newest start, and of its next."""
        next_one, _ = model.config_of(worker_id)
        newest, _ = self._turns.get(worker_id, (next_one, 0))
        return {*(newest.devices or ()), *(next_one.devices or ())}

    def _ports(self, but: str) -> set[int]:
        return {spec.port for _, spec in self._others(but)} | {self._reserved_port()}

    def _others(self, but: str) -> list[tuple[Actor, LaunchSpec]]:
        """The other workers with the specs that were made for them."""
        return [
            (worker, self._specs[worker.id])
            for _, worker in self._roster.workers()
            if worker.id != but and worker.id in self._specs
        ]
