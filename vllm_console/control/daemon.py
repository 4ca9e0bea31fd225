"""The daemon: reconciles what is wanted with what runs, and publishes what it sees."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import platform
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any

from vllm_console import __version__
from vllm_console.control.changes import Changes
from vllm_console.control.commands import Commands
from vllm_console.control.events import EventLog, now_iso
from vllm_console.control.factory import WorkerFactory
from vllm_console.control.machine import Machine
from vllm_console.control.observe import Observation
from vllm_console.control.picture import alerts, model_picture
from vllm_console.control.revisions import Revisions, WantedModels
from vllm_console.control.rollout import Rollout
from vllm_console.control.roster import Roster
from vllm_console.control.served import Actor, ServedModel
from vllm_console.devices.nvml import Nvml
from vllm_console.errors import ConsoleError, InvalidInput, NotFound
from vllm_console.fleet.find import Place
from vllm_console.fleet.load import load_fleet
from vllm_console.fleet.model import Fleet, ModelConfig
from vllm_console.history.base import SERIES
from vllm_console.history.memory import MemoryHistory
from vllm_console.http1 import Pool
from vllm_console.launchers.local import LocalLauncher
from vllm_console.snapshot import Daemon as DaemonFacts
from vllm_console.snapshot import Event, Snapshot, to_json
from vllm_console.workers.launch import Launcher
from vllm_console.workers.passage import passage
from vllm_console.workers.states import ENDED, State

TICK_S = 1.0
"""Seconds between two snapshots."""
_EVENTS_SHOWN = 50
_LOOKS_FOR_S = 10.0
"""How long a snapshot keeps the fleet scraped at the busy rate."""

_log = logging.getLogger(__name__)


class Daemon:
    """The control plane of one fleet. All methods run on one event loop."""

    def __init__(
        self,
        place: Place,
        fleet: Fleet,
        *,
        sets: Sequence[str] = (),
        nvml: Nvml | None = None,
        launcher: Launcher | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.place = place
        self.fleet = fleet
        self.rollout = Rollout(self, lambda: load_fleet(place.fleet_file, sets=sets))
        self.events = EventLog(place.state_dir / "events.jsonl")
        self.stopped = asyncio.Event()
        """Set once the fleet has been taken down and the daemon may end."""
        self._clock = clock
        self._started = clock()
        self._node = platform.node() or "localhost"
        self._pool = Pool()
        self._observation = Observation(self._pool, MemoryHistory(), clock)
        self._launcher: Launcher = launcher or LocalLauncher(place.workers)
        self._machine = Machine(self._node, nvml, self.tell, clock)
        self.revisions = Revisions(place.state_dir / "revisions.json")
        self._wanted = WantedModels(place.state_dir / "wanted.json")
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticked = asyncio.Event()
        self._line = b""
        self._begun = asyncio.Event()
        self.going_down = False
        self._watchers = 0
        self._looked = float("-inf")
        self.models = Roster()
        self._changes = Changes(self._observation, self._machine, self.tell, clock)
        self._factory = WorkerFactory(
            place.fleet_file,
            self.models,
            node=self._node,
            launcher=self._launcher,
            machine=self._machine,
            http=self._pool,
            reserved_port=lambda: self.fleet.gateway.port,
            on_change=self._changes.heard,
            clock=clock,
        )
        self._commands = Commands(self)
        self.models.update((name, self._served(config)) for name, config in fleet.models.items())

    # -- life ------------------------------------------------------------------------------

    async def start(self, *, autostart: bool = True) -> None:
        """Adopt what runs, then start what is wanted."""
        adopted = await self._adopt()
        wanted = self._wanted.read()
        for model in self.models.values():
            count = model.config.workers if model.config.autostart else 0
            if wanted is not None:  # a model that is new in the file is not in it
                count = wanted.get(model.name, count)
            stay = [w for w in model.workers.values() if w.state is not State.STOPPING]
            model.wanted = max(model.wanted, len(stay))
            if autostart and count:
                self.load(model, count)
        text = f"daemon {__version__} started"
        self.events.add("info", "fleet", f"{text}, {adopted} adopted" if adopted else text)
        self.spawn(self._tick_for_ever())
        self.spawn(self._read_machine_for_ever())
        self._begun.set()

    async def close(self) -> None:
        """End the daemon; workers keep serving and the next daemon adopts them."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _, worker in self.models.workers():
            await worker.close()
        await self._observation.close()
        await self._pool.close()
        await self._machine.close()

    async def take_down(self) -> None:
        """Stop every worker; `stopped` is set once nothing is left.

        Asked for while the daemon still starts, it waits for that; asked for twice, it is done
        once.
        """
        if self.going_down:
            return
        self.going_down = True
        await self._begun.wait()
        self.events.add("info", "fleet", "going down")
        while left := [w for m in self.models.values() for w in m.unload() if w.state not in ENDED]:
            await asyncio.gather(*(worker.unload() for worker in left))
        self._wanted.clear()
        self.events.add("ok", "fleet", "down")
        self.stopped.set()

    # -- the control API (control.server.Controlled) ------------------------------------------

    def snapshot(self) -> Snapshot:
        """The whole fleet as it is now."""
        machine = self._machine
        models = tuple(
            model_picture(m, self._observation, machine.usage, machine.devices, machine.host)
            for m in self.models.values()
        )
        trouble = [self.events.trouble] if self.events.trouble else []
        return Snapshot(
            at=now_iso(),
            fleet=self.fleet.name,
            daemon=DaemonFacts(
                running=True,
                pid=os.getpid(),
                version=__version__,
                uptime_s=round(self._clock() - self._started, 3),
            ),
            models=models,
            gpus=machine.devices.gpus,
            gpus_reason=machine.devices.reason,
            host=machine.host,
            alerts=alerts(models, trouble, machine.devices.gpus),
            events=self.events.newest(_EVENTS_SHOWN),
            interval_s=TICK_S,
        )

    def snapshot_json(self) -> bytes:
        """The whole fleet as it is now, as JSON; who asks is taken to look for a while."""
        self._looked = self._clock()
        return json.dumps(
            to_json(self.snapshot()), ensure_ascii=False, separators=(",", ":"), allow_nan=False
        ).encode()

    async def snapshot_stream(self) -> AsyncIterator[bytes]:
        """The fleet now, then at each tick; a reader that is slow misses ticks, not order."""
        self._watchers += 1
        try:
            yield self.snapshot_json()
            while True:
                await self._ticked.wait()
                yield self._line
        finally:
            self._watchers -= 1

    def events_after(self, seq: int, limit: int) -> list[Event]:
        """Events above `seq`, oldest first."""
        return self.events.after(seq, limit)

    def follow_events(self, seq: int) -> AsyncIterator[Event]:
        """Events above `seq`, then each new one."""
        return self.events.follow(seq)

    def series(self, subject: str, metric: str, seconds: float, step: float) -> list[float | None]:
        """One graph series of "model/NAME", "worker/ID" or "fleet"."""
        if metric not in SERIES:
            raise InvalidInput(f"no metric {metric}; there are {', '.join(SERIES)}")
        return self._observation.history.series(subject, metric, seconds, step)

    def log(self, worker: str, offset: int | None, lines: int) -> tuple[int, str]:
        """A worker's log from `offset` on, or its last `lines`; `worker` may be a model's name."""
        found = self.models.worker(worker)
        model = self.models.named(worker)
        if found is not None:
            path = self._launcher.log_path(found.id)
        else:  # a model that is unloaded: what its first worker wrote last
            path = self._launcher.log_path(f"{model.name}-1" if model else worker)
        if path.is_file():
            return passage(path, offset=offset, lines=lines)
        if found is None and model is None:
            raise self.models.unknown(worker, "worker")
        raise NotFound(f"{worker} has no log: none of its workers was started here yet")

    async def command(self, verb: str, args: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one command, as `control.commands` describes."""
        return await self._commands.carry_out(verb, args)

    # -- what commands ask of it -----------------------------------------------------------

    def load(self, model: ServedModel, count: int | None = None) -> list[Actor]:
        """Want workers of a model (default: as fleet.toml says); returns those that start."""
        started = model.load(count)
        self._note_wanted()
        return started

    def unload(self, model: ServedModel) -> list[Actor]:
        """Want none of a model; returns the workers that go."""
        workers = model.unload()
        self._note_wanted()
        for worker in workers:
            self.spawn(self._unload(model, worker))
        return workers

    def restart(self, model: ServedModel) -> None:
        """Give each worker of a model a new process; a model that has none is loaded."""
        if not model.workers:
            self.load(model)
            return
        for worker in model.workers.values():
            self.spawn(worker.restart())
        model.wanted = max(model.wanted, len(model.workers))
        self._note_wanted()

    def begin_down(self) -> None:
        """Take the fleet down, without waiting for it."""
        self.spawn(self.take_down())

    async def apply(self, agreed: str | None) -> None:
        """Bring the fleet to what its file says; `agreed` is the digest of the plan shown."""
        try:
            self.fleet = await self.rollout.apply(agreed)
        finally:  # what was carried out before a failure stays
            self._note_wanted()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside; an error of it becomes an event."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    # -- what a rollout asks of the daemon (control.rollout.Fleetwide) --------------------------

    def tell(self, level: str, subject: str, text: str) -> None:
        """Record an event."""
        self.events.add(level, subject, text)

    def admit(self, config: ModelConfig) -> None:
        """Take in a model that is new in the file, and load it if it starts by itself."""
        model = self.models[config.name] = self._served(config)
        if config.autostart:
            self.load(model, None)

    def revise(self, model: ServedModel, config: ModelConfig) -> None:
        """Give a model a configuration and the revision that goes with it."""
        model.config = config
        model.revision = self.revisions.number(config)

    def has_room_beside(self, model: ServedModel) -> bool:
        """Whether a worker of this model can start while its others still run."""
        return self._factory.has_room_beside(model)

    async def retire(self, model: ServedModel, worker: Actor) -> None:
        """Unload one worker and forget it."""
        await worker.unload()
        model.workers.pop(worker.id, None)
        await self._forget(worker)

    # -- models and workers ----------------------------------------------------------------

    def _served(self, config: ModelConfig) -> ServedModel:
        return ServedModel(config, self.revisions.number(config), self._factory.make)

    async def _adopt(self) -> int:
        count = 0
        for found in await self._launcher.adopt():
            model = self.models.get(found.spec.model)
            if model is None:
                model = self.models[found.spec.model] = self._factory.stray(found)
            worker = self._factory.adopt(model, found)
            self._changes.adopting(worker.id)
            worker.adopt(found)
            count += 1
            self.events.add("ok", worker.id, f"adopted, pid {worker.view.pid}, not touched")
            if found.spec.revision != model.revision:
                text = f"runs revision {found.spec.revision}; restart applies {model.revision}"
                self.events.add("warn", worker.id, text)
        return count

    async def _unload(self, model: ServedModel, worker: Actor) -> None:
        await worker.unload()
        for gone in model.drop_stopped():
            await self._forget(gone)

    async def _forget(self, worker: Actor) -> None:
        self._changes.forget(worker.id)
        self._factory.forget(worker.id)
        await worker.close()

    def _note_wanted(self) -> None:
        self._wanted.write({m.name: m.wanted for m in self.models.values()})

    # -- the clockwork ---------------------------------------------------------------------

    async def _tick_for_ever(self) -> None:
        due = self._clock()
        while True:
            self._observation.looked_at = self._clock() - self._looked < _LOOKS_FOR_S
            self._observation.tick()
            self._judge_progress()
            if self._watchers:
                self._line = self.snapshot_json()
                ticked, self._ticked = self._ticked, asyncio.Event()
                ticked.set()
            due = max(due + TICK_S, self._clock())
            await asyncio.sleep(due - self._clock())

    def _judge_progress(self) -> None:
        """Call workers stalled whose engine does not get on, and ready again when it does."""
        for model, worker in self.models.workers():
            frozen = self._observation.frozen_s(worker.id)
            if worker.state == State.STALLED and frozen == 0.0:
                worker.resumed()
            elif worker.state == State.READY and frozen >= model.config.stall_after_s:
                worker.stalled(f"requests run, no iteration has finished for {frozen:.0f} s")
                if model.config.on_stall == "restart":
                    self.spawn(worker.restart())

    async def _read_machine_for_ever(self) -> None:
        while True:
            trees = {worker.id: worker.tree() for _, worker in self.models.workers()}
            await self._machine.read(trees)
            await asyncio.sleep(TICK_S if self._observation.looked_at else 5 * TICK_S)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, ConsoleError):
            self.events.add("warn", "fleet", str(error))
        else:
            _log.error("a task of the daemon failed", exc_info=error)
            self.events.add("crit", "daemon", f"internal error, see daemon.log: {error!r}")
