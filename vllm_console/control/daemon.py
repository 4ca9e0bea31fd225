"""The daemon: reconciles what is wanted with what runs, and publishes what it sees."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import platform
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vllm_console import __version__
from vllm_console.control.attached import AttachedWorker
from vllm_console.control.events import EventLog, now_iso
from vllm_console.control.launching import choose_gpus, prepare, weights_bytes
from vllm_console.control.machine import Machine
from vllm_console.control.observe import Observation
from vllm_console.control.picture import alerts, model_picture
from vllm_console.control.revisions import Revisions, WantedModels
from vllm_console.control.rollout import Rollout, stored
from vllm_console.control.served import Actor, ServedModel, find_worker
from vllm_console.devices.nvml import Nvml
from vllm_console.engines.environment import resolve
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
from vllm_console.snapshot import Worker as WorkerView
from vllm_console.workers.launch import Handle, LaunchSpec
from vllm_console.workers.passage import passage
from vllm_console.workers.states import ENDED, RUNNING, SERVING, State
from vllm_console.workers.worker import Worker

TICK_S = 1.0
"""Seconds between two snapshots."""
_EVENTS_SHOWN = 50
_NOT_IN_FILE = "(no longer in fleet.toml)"
"""The source of a model that still runs and that the fleet file lists no more."""
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
        self._launcher = LocalLauncher(place.workers)
        self._machine = Machine(self._node, nvml, self.tell, clock)
        self._revisions = Revisions(place.state_dir / "revisions.json")
        self._wanted = WantedModels(place.state_dir / "wanted.json")
        self._gates: dict[int, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticked = asyncio.Event()
        self._line = b""
        self._seen: dict[str, WorkerView] = {}
        self._specs: dict[str, LaunchSpec] = {}
        self._starting: dict[str, float] = {}
        self._adopting: set[str] = set()
        self._begun = asyncio.Event()
        self._going_down = False
        self._watchers = 0
        self._looked = float("-inf")
        self.models: dict[str, ServedModel] = {
            name: self._served(config) for name, config in fleet.models.items()
        }

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
                self._load(model, count)
        text = f"daemon {__version__} started"
        self.events.add("info", "fleet", f"{text}, {adopted} adopted" if adopted else text)
        self._spawn(self._tick_for_ever())
        self._spawn(self._read_machine_for_ever())
        self._begun.set()

    async def close(self) -> None:
        """End the daemon; workers keep serving and the next daemon adopts them."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for model in self.models.values():
            for worker in model.workers.values():
                await worker.close()
        await self._observation.close()
        await self._pool.close()
        await self._machine.close()

    async def take_down(self) -> None:
        """Stop every worker; `stopped` is set once nothing is left.

        Asked for while the daemon still starts, it waits for that; asked for twice, it is done
        once.
        """
        if self._going_down:
            return
        self._going_down = True
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
        found = find_worker(self.models.values(), worker)
        model = self._named(worker)
        if found is not None:
            path = self._launcher.log_path(found[1].id)
        else:  # a model that is unloaded: what its first worker wrote last
            path = self._launcher.log_path(f"{model.name}-1" if model else worker)
        if path.is_file():
            return passage(path, offset=offset, lines=lines)
        if found is None and model is None:
            raise NotFound(self._unknown(worker, "worker"))
        raise NotFound(f"{worker} has no log: none of its workers was started here yet")

    async def command(self, verb: str, args: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one command; its answer is what the client gets as JSON.

        load, unload, restart and down return once they are accepted, apply and rollback once they
        are done. Raises `ConsoleError` with the one line that says why not.
        """
        if self._going_down and verb != "down":
            raise ConsoleError(f"{self.fleet.name} is going down; `vllm-console up -d` starts it")
        match verb:
            case "down":
                self._spawn(self.take_down())
                return {"ok": True}
            case "load":
                model = self._model(args)
                started = self._load(model, None)
                return {"ok": True, "model": model.name, "workers": [w.view.id for w in started]}
            case "unload":
                model = self._model(args)
                workers = model.unload()
                self._note_wanted()
                for worker in workers:
                    self._spawn(self._unload(model, worker))
                return {"ok": True, "model": model.name, "workers": [w.view.id for w in workers]}
            case "restart":
                model = self._model(args)
                if model.config.attached:
                    raise InvalidInput(
                        f"{model.name} is attached ({model.config.url}): restart it where it runs"
                    )
                if not model.workers:
                    self._load(model, None)
                else:
                    for worker in model.workers.values():
                        self._spawn(worker.restart())
                    model.wanted = max(model.wanted, len(model.workers))
                    self._note_wanted()
                return {"ok": True, "model": model.name, "workers": list(model.workers)}
            case "revisions":
                model = self._model(args)
                kept = [asdict(revision) for revision in self._revisions.of(model.name)]
                return {"model": model.name, "revision": model.revision, "revisions": kept}
            case "rollback":
                model = self._model(args)
                config = stored(self._revisions.of(model.name), model, args.get("revision"))
                await self.rollout.replace(model, config)
                return {"ok": True, "model": model.name, "revision": model.revision}
            case "plan":
                return self.rollout.plan()
            case "apply":
                try:
                    self.fleet = await self.rollout.apply(args.get("digest"))
                finally:  # what was carried out before a failure stays
                    self._note_wanted()
                return {"ok": True}
            case _:
                known = "load, unload, restart, plan, apply, revisions, rollback, down"
                raise InvalidInput(f"no command {verb}; there are {known}")

    # -- what a rollout asks of the daemon (control.rollout.Fleetwide) --------------------------

    def tell(self, level: str, subject: str, text: str) -> None:
        """Record an event."""
        self.events.add(level, subject, text)

    def admit(self, config: ModelConfig) -> None:
        """Take in a model that is new in the file, and load it if it starts by itself."""
        model = self.models[config.name] = self._served(config)
        if config.autostart:
            self._load(model, None)

    def revise(self, model: ServedModel, config: ModelConfig) -> None:
        """Give a model a configuration and the revision that goes with it."""
        model.config = config
        model.revision = self._revisions.number(config)

    def has_room_beside(self, model: ServedModel) -> bool:
        """Whether a worker of this model can start while its others still run."""
        if model.config.devices:
            return False
        try:
            engine = resolve(model.config.engine)
            choose_gpus(model.config, engine, self._machine.devices.gpus, self._gpus_taken(""))
        except ConsoleError:
            return False
        return True

    async def retire(self, model: ServedModel, worker: Actor) -> None:
        """Unload one worker and forget it."""
        await worker.unload()
        model.workers.pop(worker.id, None)
        self._observation.forget_worker(worker.id)
        self._specs.pop(worker.id, None)
        self._seen.pop(worker.id, None)
        await worker.close()

    # -- models and workers ----------------------------------------------------------------

    def _served(self, config: ModelConfig) -> ServedModel:
        revision = self._revisions.number(config)
        return ServedModel(config, revision, self._make_worker)

    def _make_worker(self, model: ServedModel, worker_id: str) -> Actor:
        if model.config.attached:
            return self._attached(model, worker_id)
        return self._launched(model, worker_id)

    def _attached(self, model: ServedModel, worker_id: str) -> AttachedWorker:
        url = model.config.url or ""  # the fleet file was refused without one
        model.engine_environment = "attached: started by somebody else"
        return AttachedWorker(
            worker_id,
            model.name,
            url,
            http=self._pool,
            on_change=self._changed,
            clock=self._clock,
        )

    def _launched(self, model: ServedModel, worker_id: str) -> Worker:
        async def prepare_launch() -> tuple[LaunchSpec, dict[str, str]]:
            if model.config.source == _NOT_IN_FILE:
                raise InvalidInput(f"{model.name} is no longer in {self.place.fleet_file}")
            await self._machine.settled()
            prepared = await prepare(
                worker_id,
                model.config,
                model.revision,
                base=self._base(),
                gpus=self._machine.devices.gpus,
                taken=lambda: self._gpus_taken(worker_id),
                ports_in_use=lambda: self._ports(worker_id),
            )
            version = f", vLLM {prepared.engine.version}" if prepared.engine.version else ""
            model.engine_environment = f"{prepared.engine.found}{version}"
            model.command = prepared.spec.argv
            model.weights_bytes = weights_bytes(prepared.source)
            self._specs[worker_id] = prepared.spec
            return prepared.spec, prepared.environ

        def gate() -> AbstractAsyncContextManager[object]:
            return self._start_gate(model.config)

        return Worker(
            worker_id,
            model.name,
            prepare=prepare_launch,
            launcher=self._launcher,
            http=self._pool,
            on_change=self._changed,
            node=self._node,
            start_gate=gate,
            expected_s=self._launcher.expected_s(model.name, model.revision),
            clock=self._clock,
        )

    def _load(self, model: ServedModel, count: int | None) -> list[Actor]:
        started = model.load(count)
        self._note_wanted()
        return started

    async def _unload(self, model: ServedModel, worker: Actor) -> None:
        await worker.unload()
        for gone in model.drop_stopped():
            self._observation.forget_worker(gone.view.id)
            await gone.close()

    async def _adopt(self) -> int:
        count = 0
        for found in await self._launcher.adopt():
            model = self.models.get(found.spec.model)
            if model is None:
                model = self.models[found.spec.model] = self._stray(found)
            worker_id = found.spec.worker_id
            worker = self._launched(model, worker_id)
            model.workers[worker_id] = worker
            model.command = found.spec.argv
            self._specs[worker_id] = found.spec
            self._adopting.add(worker_id)
            worker.adopt(found)
            count += 1
            self.events.add("ok", worker_id, f"adopted, pid {worker.view.pid}, not touched")
            if found.spec.revision != model.revision:
                text = f"runs revision {found.spec.revision}; restart applies {model.revision}"
                self.events.add("warn", worker_id, text)
        return count

    def _stray(self, found: Handle) -> ServedModel:
        """A model that is served but no longer in fleet.toml: shown, so that it can be unloaded."""
        config = ModelConfig(name=found.spec.model, source=_NOT_IN_FILE, autostart=False)
        return ServedModel(config, found.spec.revision, self._make_worker)

    def _changed(self, worker: Actor, new: WorkerView) -> None:
        """Note a change of a worker: events, and whether it is scraped."""
        if new.state in SERVING and new.url is not None:
            fresh = new.id in self._starting
            self._observation.watch(new.id, worker.model, new.url, fresh=fresh)
        elif new.state not in SERVING:
            self._observation.unwatch(new.id)
        old = self._seen.get(new.id)
        self._seen[new.id] = new
        if new.pid is not None and new.gpus:
            self._machine.note(new.id, worker.tree())
        elif old is not None and old.pid is not None:
            self._machine.ended(new.id, old.gpus)
        if old is not None and new.state == old.state:
            return
        if new.id in self._adopting:
            self._adopting -= {new.id} if new.state != State.STARTING else set()
            if new.state in (State.STARTING, State.READY):
                return
        if new.state == State.STARTING:
            self._starting[new.id] = self._clock()
        level, text = _told(new)
        if new.state == State.READY and new.id in self._starting:
            text += f" in {self._clock() - self._starting.pop(new.id):.1f} s"
        self.events.add(level, new.id, text)

    @asynccontextmanager
    async def _start_gate(self, config: ModelConfig) -> AsyncIterator[None]:
        """Starts on a shared GPU wait for each other: vLLM profiles free memory at start."""
        async with AsyncExitStack() as held:
            for index in sorted(config.devices or ()):
                await held.enter_async_context(self._gates.setdefault(index, asyncio.Lock()))
            yield

    def _gpus_taken(self, but: str) -> Mapping[int, int]:
        used = [
            index
            for worker, spec in self._others(but)
            if worker.state in RUNNING | {State.QUEUED}
            for index in spec.gpus
        ]
        return Counter([*used, *self._machine.held])

    def _ports(self, but: str) -> set[int]:
        return {spec.port for _, spec in self._others(but)} | {self.fleet.gateway.port}

    def _others(self, but: str) -> list[tuple[Actor, LaunchSpec]]:
        """The other workers with the specs that were made for them."""
        return [
            (worker, self._specs[worker_id])
            for model in self.models.values()
            for worker_id, worker in model.workers.items()
            if worker_id != but and worker_id in self._specs
        ]

    def _base(self) -> Path:
        return self.place.fleet_file.parent

    def _note_wanted(self) -> None:
        self._wanted.write({m.name: m.wanted for m in self.models.values()})

    def _model(self, args: Mapping[str, Any]) -> ServedModel:
        name = args.get("model")
        if not isinstance(name, str):
            raise InvalidInput("the command needs a model")
        model = self._named(name)
        if model is None:
            raise NotFound(self._unknown(name, "model"))
        return model

    def _named(self, name: str) -> ServedModel | None:
        """The model of that name or alias."""
        for model in self.models.values():
            if name == model.name or name in model.config.aliases:
                return model
        return None

    def _unknown(self, name: str, kind: str) -> str:
        import difflib

        known = list(self.models)
        if kind == "worker":
            known += [worker for model in self.models.values() for worker in model.workers]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(known) or 'none'}"
        return f'no {kind} "{name}"; {hint}'

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
        for model in self.models.values():
            for worker in list(model.workers.values()):
                frozen = self._observation.frozen_s(worker.id)
                if worker.state == State.STALLED and frozen == 0.0:
                    worker.resumed()
                elif worker.state == State.READY and frozen >= model.config.stall_after_s:
                    worker.stalled(f"requests run, no iteration has finished for {frozen:.0f} s")
                    if model.config.on_stall == "restart":
                        self._spawn(worker.restart())

    async def _read_machine_for_ever(self) -> None:
        while True:
            workers = [w for model in self.models.values() for w in model.workers.values()]
            await self._machine.read({worker.id: worker.tree() for worker in workers})
            await asyncio.sleep(TICK_S if self._observation.looked_at else 5 * TICK_S)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, ConsoleError):
            self.events.add("warn", "fleet", str(error))
        else:
            _log.error("a task of the daemon failed", exc_info=error)
            self.events.add("crit", "daemon", f"internal error, see daemon.log: {error!r}")


def _told(new: WorkerView) -> tuple[str, str]:
    """Level and text of the event for a worker's change of state."""
    reason = f": {new.reason}" if new.reason else ""
    match new.state:
        case State.READY:
            return "ok", "ready"
        case State.FAILED | State.CRASH_LOOP if new.failure:
            return "crit", f"{new.state}, {new.failure.cause}: {new.failure.line}"
        case State.BACKOFF if new.failure:
            return "warn", f"ended, {new.failure.cause}: {new.failure.line}; {new.reason}"
        case State.STALLED:
            return "warn", f"stalled{reason}"
        case _:
            return "info", f"{new.state}{reason}"
