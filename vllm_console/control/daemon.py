"""The daemon: reconciles what is wanted with what runs, and publishes what it sees."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import platform
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

from vllm_console import __version__
from vllm_console.answer import Answer, Question
from vllm_console.control.analysis import Analysis
from vllm_console.control.audit import AuditLog
from vllm_console.control.canaries import Canaries
from vllm_console.control.canary import CanaryFile
from vllm_console.control.changes import Changes
from vllm_console.control.commands import Commands
from vllm_console.control.doctor import locality
from vllm_console.control.events import EventLog, now_iso
from vllm_console.control.exposition import exposition
from vllm_console.control.factory import WorkerFactory
from vllm_console.control.front import Front
from vllm_console.control.gateway_numbers import GatewayNumbers
from vllm_console.control.health import HealthCount
from vllm_console.control.insights import Insights
from vllm_console.control.log_errors import LogWatch
from vllm_console.control.looking import Looking
from vllm_console.control.losses import tell_losses
from vllm_console.control.machine import Machine
from vllm_console.control.observe import Observation
from vllm_console.control.orphans import OrphanWatch
from vllm_console.control.past import moment_of, snapshot_at
from vllm_console.control.picture import alerts, model_picture, slots_of
from vllm_console.control.pins import Pins
from vllm_console.control.reigning import Reigning
from vllm_console.control.revisions import Revisions, WantedModels
from vllm_console.control.rollout import Rollout
from vllm_console.control.roster import Roster
from vllm_console.control.served import Actor, ServedModel
from vllm_console.control.sleepers import judge_sleep
from vllm_console.control.stalls import judge_progress
from vllm_console.devices.mounts import remote_filesystem
from vllm_console.devices.nvml import Nvml
from vllm_console.errors import ConsoleError, InvalidInput, NotFound
from vllm_console.fleet.find import Place
from vllm_console.fleet.load import load_fleet
from vllm_console.fleet.model import Fleet, ModelConfig
from vllm_console.history.base import SERIES
from vllm_console.history.database import Database
from vllm_console.history.graphs import Series, series
from vllm_console.history.memory import KEEP_S, MemoryHistory
from vllm_console.history.questions import answer
from vllm_console.history.store import Store
from vllm_console.history.subjects import known
from vllm_console.http1 import Pool
from vllm_console.launchers.local import LocalLauncher
from vllm_console.snapshot import Daemon as DaemonFacts
from vllm_console.snapshot import Snapshot, to_json
from vllm_console.snapshot import Worker as WorkerView
from vllm_console.workers.launch import Handle, Launcher
from vllm_console.workers.passage import passage
from vllm_console.workers.states import ENDED, State
from vllm_console.workers.worker import Worker

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
        gateway: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`gateway`: keep one in front of the fleet, if its file says so."""
        self.place = place
        self.fleet = fleet
        self.rollout = Rollout(self, lambda: load_fleet(place.fleet_file, sets=sets))
        self._database = Database(place.history)
        self.events = EventLog(self._database, place.state_dir / "events.jsonl")
        self.audit = AuditLog(self._database)
        self.stopped = asyncio.Event()
        """Set once the fleet has been taken down and the daemon may end."""
        self._clock = clock
        self._started = clock()
        self._node = platform.node() or "localhost"
        self._pool = Pool()
        self.store = Store(self._database, budget=fleet.history.max_size, clock=clock)
        self._observation = Observation(
            self._pool,
            MemoryHistory(),
            clock,
            on_sample=self._judge_progress,
            store=self.store,
        )
        self._launcher: Launcher = launcher or LocalLauncher(place.workers)
        self._analysis = Analysis(self._observation.history, clock, self._launcher.expected_s)
        self._health = HealthCount(self.events)
        self._machine = Machine(self._node, nvml, self.tell, clock)
        self._insights = Insights(self._observation.history)
        self._log_watch = LogWatch(self._launcher.log_path, clock)
        self._orphans = OrphanWatch(place.state_dir, lambda: self._machine.devices, self.tell)
        self.revisions = Revisions(self._database, place.state_dir / "revisions.json")
        self._wanted = WantedModels(place.state_dir / "wanted.json")
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticked = asyncio.Event()
        self._line = b""
        self._begun = asyncio.Event()
        self.going_down = False
        self._watchers = 0
        self._looked = float("-inf")
        self.models = Roster()
        count, info = GatewayNumbers(self.store, clock).take, self._observation.info
        self.front = Front(self, place, serve=gateway, info=info, count=count, clock=clock)
        self._changes = Changes(self._observation, self._machine, self.events.add, clock)
        self._factory = WorkerFactory(
            place.fleet_file,
            self.models,
            node=self._node,
            launcher=self._launcher,
            machine=self._machine,
            http=self._pool,
            reserved_port=lambda: self.fleet.gateway.port,
            on_change=self._heard,
            tell=self.tell,
            drain=self.front.drain,
            clock=clock,
        )
        self.looking = Looking(
            place.fleet_file, self.rollout, self._factory, self._machine, self._launcher.expected_s
        )
        self.canaries = Canaries(
            self,
            CanaryFile(place.state_dir / "canaries.json"),
            has_room=self._factory.has_room_beside,
            promoted=self._factory.describe,
            reroute=self.front.changed,
        )
        self._reigning = Reigning(self.tell)
        self.pins = Pins(place.state_dir / "pins.json", self.models, self.tell)
        self._commands = Commands(self)
        self.models.update((name, self._served(config)) for name, config in fleet.models.items())

    # -- life ------------------------------------------------------------------------------

    async def start(self, *, autostart: bool = True) -> None:
        """Adopt what runs, then start what is wanted."""
        began, place = self._clock(), self.place.state_dir
        wanted = self._wanted.read()
        self.pins.restore()
        await asyncio.to_thread(self._reigning.recall, self._database, time.time())
        self.canaries.restore(wanted)
        adopted = await self._adopt()
        served = {found.spec.worker_id for found in adopted if found.served is not None}
        tell_losses(self._launcher.losses(), self.tell)
        took_ms = (self._clock() - began) * 1e3
        for model in self.models.values():
            count = model.config.workers if model.config.autostart else 0
            if wanted is not None:  # a model that is new in the file is not in it
                count = wanted.get(model.name, count)
            surplus: list[Actor] = []
            if wanted is not None and model.name in wanted:
                surplus = model.surplus(wanted[model.name], served)
            stay = [w for w in model.own if w.state is not State.STOPPING]
            model.wanted = max(model.wanted, sum(worker not in surplus for worker in stay))
            if autostart and count:
                self.load(model, count)
            for worker in surplus:  # the last of a model may be loaded again meanwhile
                self.tell("info", worker.id, "is one more than wanted, and goes")
                retire = self.retire if worker.id in model.leaving else self._unload
                self.spawn(retire(model, worker))
        self.canaries.resume(autostart)
        text = f"daemon {__version__} started"
        if adopted:
            text += f", {len(adopted)} adopted in {took_ms:.0f} ms"
        self.events.add("info", "fleet", text)
        for found in locality(place, remote_filesystem(place.resolve())):
            self.events.add("warn", "fleet", f"{found.text}; {found.remedy}")
        self._database.start(self.events.from_thread(asyncio.get_running_loop()))
        self.spawn(self._tick_for_ever())
        self.spawn(self._read_machine_for_ever())
        self.spawn(self._orphans.look_for_ever())
        self.front.start()
        self._begun.set()

    async def close(self) -> None:
        """End the daemon; workers and gateway serve on, and the next daemon adopts them."""
        await self.front.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _, worker in self.models.workers():
            await worker.close()
        await self._observation.close()
        await self._pool.close()
        await self._machine.close()
        await asyncio.to_thread(self.store.close)
        await asyncio.to_thread(self._database.close)

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
        self.front.changed()
        while left := [w for m in self.models.values() for w in m.unload() if w.state not in ENDED]:
            await asyncio.gather(*(worker.unload() for worker in left))
        await self.front.stop()
        self._wanted.clear()
        self.canaries.forget()
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
        models = self._insights.complete(
            self._clock(), models, machine.devices.gpus, machine.host,
            self.fleet.gpu_hour_cost, self._log_watch.told(),
        )  # fmt: skip
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
            models=self._analysis.complete(self.front.complete(models)),
            load=self._observation.fleet_load(slots_of(models)),
            health=self._health.read(),
            gpus=machine.devices.gpus,
            gpus_reason=machine.devices.reason,
            host=machine.host,
            gateway=self.front.picture(),
            alerts=(
                *self.front.alerts,
                *alerts(models, trouble, machine.devices.gpus),
                *self._orphans.alerts,
            ),
            events=self.events.shown(_EVENTS_SHOWN),
            interval_s=TICK_S,
        )

    def snapshot_json(self) -> bytes:
        """The whole fleet as it is now, as JSON; who asks is taken to look for a while."""
        self._looked = self._clock()
        return _dumped(self.snapshot())

    async def snapshot_at(self, moment: str) -> bytes:
        """The fleet as it was at a time that a person wrote, as JSON; a thread looks it up."""
        now = time.time()
        at = moment_of(moment, now)
        name, gpus = self.fleet.name, self._machine.devices.gpus
        asked = self.store.ask(lambda past: snapshot_at(past, at, now, fleet=name, gpus=gpus))
        return _dumped(await asyncio.wrap_future(asked))

    def metrics(self) -> bytes:
        """The fleet as Prometheus text; who asks is taken to look for a while."""
        self._looked = self._clock()
        known = self._observation.history.latest
        totals = {name: total for name in self.models if (total := known(f"model/{name}"))}
        started_at = time.time() - (self._clock() - self._started)
        return exposition(self.snapshot(), totals, started_at=started_at)

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

    async def series(
        self,
        subjects: Sequence[str],
        metrics: Sequence[str],
        seconds: float,
        step: float,
        until: float | None = None,
    ) -> dict[str, Series]:
        """Graph series of "model/NAME", "worker/ID" or "fleet", by subject and metric.

        They end `until`, in seconds since the epoch, or now. What happened since this daemon
        began, and is not long ago, comes from memory.
        """
        for metric in metrics:
            if metric not in SERIES:
                raise InvalidInput(f"no metric {metric}; there are {', '.join(SERIES)}")
        if until is not None or seconds > min(KEEP_S, self._clock() - self._started):
            end = time.time() if until is None else until
            asked = self.store.ask(lambda past: series(past, subjects, metrics, end, seconds, step))
            if until is not None:
                return await asyncio.wrap_future(asked)
            with suppress(ConsoleError):  # its trouble is an alert; memory knows a little
                return await asyncio.wrap_future(asked)
        known = self._observation.history.series
        return {s: {m: known(s, m, seconds, step) for m in metrics} for s in subjects}

    async def answer(self, question: Question) -> Answer:
        """What the stored past says of a model, worker, GPU or the fleet; a thread looks it up."""
        gpus = {gpu.index: gpu.uuid for gpu in self._machine.devices.gpus}
        here = known((model.config for model in self.models.values()), gpus, alive=True)
        asked = self.store.ask(lambda past: answer(past, question, here, time.time()))
        return await asyncio.wrap_future(asked)

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
        canary, workers = model.canary, model.unload()
        self._note_wanted()
        if canary is not None:
            self.canaries.gone(model, canary)
        for worker in workers:
            retire = self.retire if worker.id in model.leaving else self._unload
            self.spawn(retire(model, worker))
        return workers

    def scale(self, model: ServedModel, number: int) -> tuple[list[Actor], list[Actor]]:
        """Want exactly so many workers of a model; returns those that start and those that go."""
        canary = model.canary
        started, surplus = model.scale(number)
        self._note_wanted()
        if canary is not None and model.canary is None:
            self.canaries.gone(model, canary)
        for worker in surplus:
            self.spawn(self.retire(model, worker))
        return started, surplus

    def restart(self, model: ServedModel) -> None:
        """Give each worker of a model a new process; a model that has none is loaded."""
        if not model.workers:
            self.load(model)
            return
        for worker in model.workers.values():
            self.spawn(worker.restart())
        model.put_off.clear()
        model.wanted = model.wanted or len(model.own)
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
            self.canaries.note()
            self.pins.settle()
            self.front.configured()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside; an error of it becomes an event."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    # -- what a rollout and canaries ask of the daemon (control.rollout.Fleetwide) --------------

    def tell(self, level: str, subject: str, text: str) -> None:
        """Record an event."""
        self.events.add(level, subject, text)
        self._reigning.heard(subject, text)

    def admit(self, config: ModelConfig) -> None:
        """Take in a model that is new in the file, and load it if it starts by itself."""
        model = self.models[config.name] = self._served(config)
        if config.autostart and not self.going_down:
            self.load(model, None)

    def revise(self, model: ServedModel, config: ModelConfig) -> None:
        """Give a model a configuration and the revision that goes with it."""
        model.config = config
        model.revision = self.revisions.number(config)

    def has_room_beside(self, model: ServedModel) -> bool:
        """Whether a worker of this model can start while its others still run."""
        return self._factory.has_room_beside(model.config)

    async def retire(self, model: ServedModel, worker: Actor) -> None:
        """Unload one worker, whoever loads it meanwhile, and forget it."""
        while worker.state not in ENDED:
            await worker.unload()
        model.workers.pop(worker.id, None)
        model.leaving.discard(worker.id)
        await self._forget(worker)

    # -- models and workers ----------------------------------------------------------------

    def _heard(self, worker: Actor, view: WorkerView) -> None:
        self._changes.heard(worker, view)
        self.canaries.heard(worker, view)
        model = self.models.get(worker.model)
        slept = isinstance(worker, Worker) and worker.ended_asleep
        if model is not None and slept and worker in model.own:
            model.put_off.add(worker.id)
            self._note_wanted()
        self.front.changed()

    def _served(self, config: ModelConfig) -> ServedModel:
        return ServedModel(config, self.revisions.number(config), self._factory.make)

    async def _adopt(self) -> Sequence[Handle]:
        handles = await self._launcher.adopt()
        for found in handles:
            model = self.models.get(found.spec.model)
            if model is None:
                model = self.models[found.spec.model] = self._factory.stray(found)
            worker = self._factory.adopt(model, found)
            self._changes.adopting(worker.id)
            worker.adopt(found)
            self.events.add("ok", worker.id, f"adopted, pid {worker.view.pid}, not touched")
            _, revision = model.config_of(worker.id)
            if found.spec.revision != revision:
                text = f"runs revision {found.spec.revision}; restart applies {revision}"
                self.events.add("warn", worker.id, text)
        return handles

    async def _unload(self, model: ServedModel, worker: Actor) -> None:
        await worker.unload()
        for gone in model.drop_stopped():
            await self._forget(gone)

    async def _forget(self, worker: Actor) -> None:
        self._changes.forget(worker.id)
        self._factory.forget(worker.id)
        await worker.close()

    def _note_wanted(self) -> None:
        self._wanted.write({m.name: m.wanted_next for m in self.models.values()})

    # -- the clockwork ---------------------------------------------------------------------

    async def _tick_for_ever(self) -> None:
        due = self._clock()
        while True:
            self._observation.looked_at = self._clock() - self._looked < _LOOKS_FOR_S
            self._observation.tick()
            self._analysis.tick({name: tuple(m.workers) for name, m in self.models.items()})
            machine = self._machine
            self._insights.tick(self._clock(), self.models, machine.devices.gpus, machine.host)
            if not self.rollout.busy:  # which tells it itself
                for model in self.models.values():
                    self._reigning.look(model)
            if self._watchers:
                self._line = self.snapshot_json()
                ticked, self._ticked = self._ticked, asyncio.Event()
                ticked.set()
            due = max(due + TICK_S, self._clock())
            await asyncio.sleep(due - self._clock())

    def _judge_progress(self, worker_id: str) -> None:
        frozen_s = self._observation.frozen_s(worker_id)
        judge_progress(self.models, worker_id, frozen_s, lambda w: self.spawn(w.restart()))
        newest = self._observation.history.latest(f"worker/{worker_id}")
        judge_sleep(self.models, worker_id, newest)

    async def _read_machine_for_ever(self) -> None:
        while True:
            workers = [worker for _, worker in self.models.workers()]
            await self._machine.read(await asyncio.to_thread(_trees, workers))
            await asyncio.to_thread(self._log_watch.look, [worker.id for worker in workers])
            self._observation.record_gpus(self._machine.devices.gpus)
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


def _dumped(snapshot: Snapshot) -> bytes:
    plain = to_json(snapshot)
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _trees(workers: Sequence[Actor]) -> dict[str, list[int]]:
    """The pids of each worker; asked in a thread, as an engine has hundreds to look at."""
    return {worker.id: worker.tree() for worker in workers}
