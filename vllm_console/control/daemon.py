"""The daemon: reconciles what is wanted with what runs, and publishes what it sees."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import platform
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from vllm_console import __version__
from vllm_console.control.attached import AttachedWorker
from vllm_console.control.events import EventLog, now_iso
from vllm_console.control.launching import prepare, weights_bytes
from vllm_console.control.observe import Observation
from vllm_console.control.picture import Usage, alerts, model_picture
from vllm_console.control.revisions import Revisions, WantedModels
from vllm_console.control.served import Actor, ServedModel, find_worker
from vllm_console.devices.host import HostReader
from vllm_console.devices.nvml import Nvml, NvmlReading
from vllm_console.errors import ConsoleError, InvalidInput, NotFound
from vllm_console.fleet.find import Place
from vllm_console.fleet.model import Fleet, ModelConfig
from vllm_console.fleet.revision import fingerprint
from vllm_console.history.base import SERIES
from vllm_console.history.memory import MemoryHistory
from vllm_console.http1 import Pool
from vllm_console.launchers.local import LocalLauncher
from vllm_console.snapshot import Daemon as DaemonFacts
from vllm_console.snapshot import Event, Host, Snapshot, to_json
from vllm_console.snapshot import Worker as WorkerView
from vllm_console.workers.launch import Handle, LaunchSpec
from vllm_console.workers.passage import passage
from vllm_console.workers.states import RUNNING, SERVING, State
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
        nvml: Nvml | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.place = place
        self.fleet = fleet
        self.events = EventLog(place.state_dir / "events.jsonl")
        self.stopped = asyncio.Event()
        """Set once the fleet has been taken down and the daemon may end."""
        self._clock = clock
        self._started = clock()
        self._node = platform.node() or "localhost"
        self._pool = Pool()
        self._observation = Observation(self._pool, MemoryHistory(), clock)
        self._launcher = LocalLauncher(place.workers)
        self._nvml = nvml or Nvml(self._node)
        self._host_reader = HostReader(self._node)
        self._devices = NvmlReading((), "not read yet", {})
        self._host: Host | None = None
        self._usage: dict[str, Usage] = {}
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
        self._watchers = 0
        self._looked = float("-inf")
        self.models: dict[str, ServedModel] = {
            name: self._served(config) for name, config in fleet.models.items()
        }

    # -- life ------------------------------------------------------------------------------

    async def start(self, *, autostart: bool = True) -> None:
        """Adopt what runs, then start what is wanted."""
        await self._read_devices()
        adopted = await self._adopt()
        wanted = self._wanted.read()
        for model in self.models.values():
            if wanted is not None:
                count = wanted.get(model.name, 0)
            else:
                count = model.config.workers if model.config.autostart and autostart else 0
            model.wanted = max(model.wanted, len(model.workers))
            if autostart and count:
                self._load(model, count)
        text = f"daemon {__version__} started"
        self.events.add("info", "fleet", f"{text}, {adopted} adopted" if adopted else text)
        self._spawn(self._tick_for_ever())
        self._spawn(self._read_devices_for_ever())

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
        self._nvml.close()

    async def take_down(self) -> None:
        """Stop every worker; `stopped` is set once nothing is left."""
        self.events.add("info", "fleet", "going down")
        workers = [worker for model in self.models.values() for worker in model.unload()]
        await asyncio.gather(*(worker.unload() for worker in workers))
        self._wanted.clear()
        self.events.add("ok", "fleet", "down")
        self.stopped.set()

    # -- the control API (control.server.Controlled) ------------------------------------------

    def snapshot(self) -> Snapshot:
        """The whole fleet as it is now."""
        models = tuple(
            model_picture(m, self._observation, self._usage, self._devices, self._host)
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
            gpus=self._devices.gpus,
            gpus_reason=self._devices.reason,
            host=self._host,
            alerts=alerts(models, trouble),
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
        worker_id = found[1].view.id if found else worker
        path = self._launcher.log_path(worker_id)
        if not path.is_file():
            raise NotFound(self._unknown(worker, "worker"))
        return passage(path, offset=offset, lines=lines)

    async def command(self, verb: str, args: Mapping[str, Any]) -> dict[str, Any]:
        """load, unload or restart a model; down. Returns once it is accepted, not once done."""
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
            case _:
                raise InvalidInput(f"no command {verb}; there are load, unload, restart, down")

    # -- models and workers ----------------------------------------------------------------

    def _served(self, config: ModelConfig) -> ServedModel:
        revision = self._revisions.number(config.name, fingerprint(config))
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
            prepared = await prepare(
                worker_id,
                model.config,
                model.revision,
                base=self._base(),
                gpus=self._devices.gpus,
                taken=self._gpus_taken(worker_id),
                ports_in_use=self._ports(worker_id),
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
        config = ModelConfig(
            name=found.spec.model, source="(no longer in fleet.toml)", autostart=False
        )
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
        return Counter(
            index
            for worker, spec in self._others(but)
            if worker.state in RUNNING | {State.QUEUED}
            for index in spec.gpus
        )

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
        self._wanted.write({m.name: m.wanted for m in self.models.values() if m.wanted})

    def _model(self, args: Mapping[str, Any]) -> ServedModel:
        name = args.get("model")
        if not isinstance(name, str):
            raise InvalidInput("the command needs a model")
        for model in self.models.values():
            if name == model.name or name in model.config.aliases:
                return model
        raise NotFound(self._unknown(name, "model"))

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

    async def _read_devices_for_ever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S if self._observation.looked_at else 5 * TICK_S)
            await self._read_devices()

    async def _read_devices(self) -> None:
        trees = {w.view.id: w.tree() for m in self.models.values() for w in m.workers.values()}
        read = await asyncio.to_thread(self._poll, trees)
        self._devices, self._host, self._usage = read

    def _poll(self, trees: Mapping[str, list[int]]) -> tuple[NvmlReading, Host, dict[str, Usage]]:
        """Ask NVML and /proc; runs in a thread, since a driver may take its time."""
        devices = self._nvml.poll()
        usage = {}
        for worker_id, pids in trees.items():
            rss, cpu = self._host_reader.tree_usage(pids)
            on_gpu = [
                size
                for pid in pids
                for size in devices.processes.get(pid, {}).values()
                if size is not None
            ]
            usage[worker_id] = Usage(rss, cpu, sum(on_gpu) if on_gpu else None)
        return devices, self._host_reader.poll(), usage

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
