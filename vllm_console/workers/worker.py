"""One worker as an actor: carries out what the lifecycle decides, and reports what happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from vllm_console import http1, snapshot
from vllm_console.errors import ConsoleError, NotFound, TimedOut
from vllm_console.workers import life, lifecycle, logs, sleeping, sockets
from vllm_console.workers.diagnosis import TAIL_LINES, diagnose
from vllm_console.workers.launch import (
    Exit,
    Handle,
    Launcher,
    LaunchFailed,
    LaunchSpec,
    Served,
    iso,
)
from vllm_console.workers.life import Action, Life, Rest, Tree
from vllm_console.workers.redaction import redact
from vllm_console.workers.startup import STAGES, Startup
from vllm_console.workers.states import ENDED, SERVING, Cause, State

LOOK_S = 0.05
"""Between two looks at the log of a starting worker, and two probes once vLLM says it serves."""
PROBE_RARELY_S = 1.0
"""Between two probes before that: a quieter log level may never say it."""
SETTLED_S = 3.0
"""What metrics say of sleep may be older than a wake that has just ended."""
PROBE_TIMEOUT_S = 2.0

Prepare = Callable[[], Awaitable[tuple[LaunchSpec, dict[str, str]]]]


class Bed(Protocol):
    """Looks after what a worker has on its GPUs while it sleeps."""

    async def lies_down(self, worker: Worker) -> None:
        """It is about to sleep."""

    async def sleeps(self, worker: Worker) -> None:
        """Its engine says that it sleeps."""

    def gets_up(self, worker: Worker) -> AbstractAsyncContextManager[Any]:
        """Held while it wakes up; raises `ConsoleError` where there is no room for it."""


_log = logging.getLogger(__name__)


class Worker:
    """Wants one `vllm serve` tree to run, or not, and makes it so. Lives in one event loop."""

    def __init__(
        self,
        worker_id: str,
        model: str,
        *,
        prepare: Prepare,
        launcher: Launcher,
        http: http1.Pool,
        on_change: Callable[[Worker, snapshot.Worker], None],
        node: str,
        expected_s: float | None = None,
        start_gate: Callable[[], AbstractAsyncContextManager[Any]] | None = None,
        drain: Callable[[], Awaitable[None]] | None = None,
        bed: Bed | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`prepare` gives spec and environment, fresh before every launch.

        `start_gate()` is held from before a launch until the worker is ready or gone. `drain()`
        returns when no request is in flight. `bed` looks after GPU memory while it sleeps.
        `on_change` hears of every change of state or stage.
        """
        self.id = worker_id
        self.model = model
        self._prepare = prepare
        self._launcher = launcher
        self._http = http
        self._on_change = on_change
        self._node = node
        self._expected_s = expected_s
        self._start_gate = start_gate
        self._drain = drain
        self._bed = bed
        self._clock = clock
        self._life = Life(since=clock())
        self._spec: LaunchSpec | None = None
        self._handle: Handle | None = None
        self._startup = Startup()
        self._events: deque[life.Event] = deque()
        self._stepping = False
        self._closed = False
        self._alarm: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn: asyncio.Task[None] | None = None
        self._start_watch: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._waiting: list[tuple[Callable[[Life], bool], asyncio.Future[None]]] = []

    # --- what it is ---------------------------------------------------------------------------

    @property
    def view(self) -> snapshot.Worker:
        """The lifecycle part of the snapshot; telemetry is filled in elsewhere."""
        life, now = self._life, self._clock()
        waking = life.rest is Rest.WAKES
        starting = life.state is State.STARTING and not waking
        elapsed = progress = None
        if waking:
            elapsed = now - life.since
        elif starting and life.started is not None:
            elapsed = now - life.started
            if life.ready is None:
                progress = self._startup.progress(elapsed, self._expected_s)
        elif life.ready is not None and life.tree is Tree.ALIVE:
            elapsed = now - life.ready
        handle, spec = self._handle, self._spec
        return snapshot.Worker(
            id=self.id,
            state=life.state,
            reason=self._reason(now),
            stage=self._startup.stage if starting else None,
            progress=progress,
            elapsed_s=elapsed,
            expected_s=None if waking else self._expected_s,
            pid=handle.pid if handle else None,
            url=_url(spec) if handle and spec else None,
            gpus=spec.gpus if spec else (),
            node=self._node,
            started_at=iso(handle.started_at) if handle else None,
            restarts=life.restarts,
            failure=life.failure,
        )

    @property
    def state(self) -> State:
        """Where it is in its life."""
        return self._life.state

    @property
    def serves(self) -> bool:
        """It can be asked now: it is ready, or was when it was found and is looked at again."""
        return self._life.state in SERVING or (self._was_found_ready and not self.can_sleep)

    @property
    def can_sleep(self) -> bool:
        """Whether the tree that runs was started so that it can be put to sleep."""
        return self._handle is not None and self._handle.spec.sleep_level > 0

    @property
    def rests(self) -> bool:
        """It sleeps, or is about to."""
        return self._handle is not None and self._life.rest not in (Rest.NONE, Rest.WAKES)

    @property
    def ended_asleep(self) -> bool:
        """It is stopped because it ended while it slept."""
        return self._life.state is State.STOPPED and self._life.rest is Rest.ASLEEP

    @property
    def wakes(self) -> bool:
        """It is on its way from sleep to serving."""
        return self._life.rest is Rest.WAKES

    @property
    def engine(self) -> snapshot.Engine:
        """Facts from the startup log of the tree that runs; all `None` when none does."""
        return self._startup.engine if self._handle else snapshot.Engine()

    @property
    def spec(self) -> LaunchSpec | None:
        """The spec of the newest launch; `None` before the first."""
        return self._spec

    def tree(self) -> list[int]:
        """Pids of the process tree, main process first; empty when there is none. Any thread."""
        handle = self._handle
        return handle.tree() if handle else []

    # --- what one can ask of it ---------------------------------------------------------------

    def load(self) -> None:
        """Want it running. Idempotent; gives a failed or crash-looping worker a fresh chance."""
        self._dispatch(life.Load())

    async def unload(self) -> None:
        """Want it gone; returns when nothing of it is left, or when somebody loads it again."""
        self._dispatch(life.Unload())
        await self._until(lambda life: life.state in ENDED or life.wanted)

    async def restart(self) -> None:
        """Want a new process; returns when nothing of the old one is left."""
        old = self._handle
        self._dispatch(life.Restart())
        await self._until(lambda _: old is None or self._handle is not old)

    def sleep(self) -> None:
        """Want its weights off the GPU once no request is in flight; only a ready one can."""
        if self.can_sleep:
            self._dispatch(life.Sleep())

    def wake(self) -> None:
        """Want it to serve again, if it sleeps or is about to."""
        self._dispatch(life.Wake())

    def seems_asleep(self) -> None:
        """Have its engine asked whether it sleeps, as its metrics say; nobody here told it to."""
        handle, settled = self._handle, self._clock() - self._life.since >= SETTLED_S
        if handle is None or not (self.can_sleep and self.state is State.READY and settled):
            return
        if self._asking is None or self._asking.done():
            self._asking = self._spawn(self._ask_whether_asleep(handle))

    def stalled(self, reason: str) -> None:
        """Hear that requests run and no iteration finishes; only a ready worker can stall."""
        self._dispatch(life.Stalled(reason))

    def resumed(self) -> None:
        """Hear that iterations finish again."""
        self._dispatch(life.Resumed())

    def adopt(self, handle: Handle) -> None:
        """Take over a tree that already runs, without touching it.

        Raises `ValueError` when this worker has, or is about to have, a tree of its own.
        """
        if self._life.state is not State.STOPPED or self._life.tree is not Tree.NONE:
            raise ValueError(f"{self.id} is {self._life.state} and cannot adopt a second tree")
        self._took(handle, handle.spec)
        served = handle.served
        if served is not None:
            self._startup.engine = served.engine
            self._startup.stage = STAGES[-1]
        age_s = handle.age_s
        self._dispatch(
            life.Launched(
                timeout_s=handle.spec.start_timeout_s,
                grace_s=handle.spec.stop_grace_s,
                ago_s=age_s,
                served_ago_s=_served_ago_s(served, age_s) if served else None,
                dying=not handle.alive(),
                asked=handle.asked,
            )
        )

    async def close(self) -> None:
        """End the actor; the process tree runs on for the next one to adopt."""
        self._closed = True
        if self._alarm is not None:
            self._alarm.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(ConsoleError(f"{self.id}: the daemon ends; it runs on"))

    async def wait(self, states: Collection[State], timeout: float) -> None:  # noqa: ASYNC109
        """Return once it is, if only for an instant, in one of `states`.

        Raises `TimedOut` after `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._until(lambda life: life.state in states)
        except TimeoutError:
            reason = f" ({why})" if (why := self.view.reason) else ""
            raise TimedOut(
                f"{self.id} is still {self.state}{reason} after {timeout:g} s:"
                f" `vllm-console logs {self.id}` tells more"
            ) from None

    async def left(self, states: Collection[State]) -> None:
        """Return once it is in none of `states`."""
        await self._until(lambda life: life.state not in states)

    # --- the machine --------------------------------------------------------------------------

    def _dispatch(self, event: life.Event) -> None:
        self._events.append(event)
        if self._stepping or self._closed:
            return
        self._stepping = True
        try:
            while self._events:
                before, event = self._life, self._events.popleft()
                self._life, actions = lifecycle.step(before, event, self._clock())
                for action in actions:
                    self._do(action)
                if self._life != before or isinstance(event, life.Tick):
                    self._set_alarm()
                if self._life != before:
                    self._changed()
        finally:
            self._stepping = False

    def _do(self, action: Action) -> None:
        match action:
            case Action.QUEUE:
                self._turn = self._spawn(self._take_turn())
            case Action.UNQUEUE:
                if self._turn is not None:
                    self._turn.cancel()
                self._turn = None
            case Action.LAUNCH:
                self._spawn(self._launch())
            case Action.WATCH:
                assert self._handle is not None
                self._start_watch = self._spawn(self._watch_start(self._handle))
                self._spawn(self._watch_end(self._handle))
            case Action.DRAIN:
                self._spawn(self._drained())
            case Action.SLEEP:
                if self._handle is not None:
                    self._spawn(self._fall_asleep(self._handle))
            case Action.WAKE:
                if self._handle is not None:
                    self._spawn(self._wake_up(self._handle))
            case Action.STOP:
                if self._handle is not None:
                    self._handle.stop()
            case Action.KILL:
                if self._handle is not None:
                    self._handle.kill()

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._life.alarm is not None:
            delay = max(0.0, self._life.alarm - self._clock())
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(delay, self._dispatch, life.Tick())

    def _changed(self) -> None:
        still: list[tuple[Callable[[Life], bool], asyncio.Future[None]]] = []
        for holds, future in self._waiting:
            if future.done():
                continue
            if holds(self._life):
                future.set_result(None)
            else:
                still.append((holds, future))
        self._waiting = still
        self._on_change(self, self.view)

    async def _until(self, holds: Callable[[Life], bool]) -> None:
        if not holds(self._life):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((holds, future))
            await future

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"worker {self.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._note_bug)
        return task

    def _note_bug(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s failed", task.get_name(), exc_info=error)

    # --- what the actions do ------------------------------------------------------------------

    async def _take_turn(self) -> None:
        gate = self._start_gate() if self._start_gate else contextlib.nullcontext()
        async with gate:
            self._dispatch(life.TurnCame())
            await asyncio.Event().wait()

    async def _launch(self) -> None:
        self._startup = Startup()
        try:
            spec, environment = await self._prepare()
            if self._life.asked:
                self._dispatch(life.Abandoned())
                return
            handle = await self._launcher.launch(spec, environment)
        except LaunchFailed as error:
            self._dispatch(life.LaunchFailed(error.failure))
        except ConsoleError as error:
            cause = Cause.ENGINE_MISSING if isinstance(error, NotFound) else Cause.BAD_OPTION
            remedy = "mend that, then load it again"
            self._dispatch(life.LaunchFailed(_failure(cause, str(error), remedy)))
        except Exception as error:
            _log.exception("%s could not be launched", self.id)
            line = f"a bug of the console: {error!r}"
            remedy = "the daemon's log has the traceback; report it, please"
            self._dispatch(life.LaunchFailed(_failure(Cause.UNKNOWN, line, remedy)))
        else:
            self._took(handle, spec)
            self._dispatch(life.Launched(spec.start_timeout_s, spec.stop_grace_s))

    def _took(self, handle: Handle, spec: LaunchSpec) -> None:
        self._handle, self._spec = handle, spec
        self._startup = Startup()
        expected = self._launcher.expected_s(spec.model, spec.revision)
        self._expected_s = self._expected_s if expected is None else expected

    async def _drained(self) -> None:
        if self._drain is not None:
            await self._drain()
        self._dispatch(life.Drained())

    async def _fall_asleep(self, handle: Handle) -> None:
        spec = handle.spec
        try:
            if self._bed is not None:
                await self._bed.lies_down(self)
            await sleeping.fall_asleep(self._http, _url(spec), spec.sleep_level, spec.stop_grace_s)
        except sleeping.NotDone as error:
            self._report(handle, life.StayedAwake(f"did not go to sleep: {error}"))
            return
        self._report(handle, life.FellAsleep())
        if self._bed is not None:
            await self._bed.sleeps(self)

    async def _ask_whether_asleep(self, handle: Handle) -> None:
        if await sleeping.is_asleep(self._http, _url(handle.spec)):
            self._report(handle, life.FellAsleep())

    async def _wake_up(self, handle: Handle) -> None:
        spec = handle.spec
        bed = contextlib.nullcontext() if self._bed is None else self._bed.gets_up(self)
        try:
            async with bed:
                within_s = spec.start_timeout_s
                await sleeping.wake_up(self._http, _url(spec), spec.sleep_level, within_s)
                self._report(handle, life.WokeUp())
        except (sleeping.NotDone, ConsoleError) as error:
            self._report(handle, life.SleptOn(f"cannot wake: {error}"))

    def _report(self, handle: Handle, event: life.Event) -> None:
        """Report what became of a tree, unless it is no longer there."""
        if self._handle is handle:
            self._dispatch(event)

    async def _watch_start(self, handle: Handle) -> None:
        """Follow the log stage by stage; report readiness."""
        offset = handle.log_start
        told = handle.served is not None
        seen_unready = False
        probe_at = self._clock()
        while self._life.state is State.STARTING:
            moved = False
            if not told:
                chunk = logs.read(handle.log, offset)
                offset = chunk.end
                moved = self._startup.feed(chunk.data)
            if moved:
                self._changed()
                probe_at = self._clock() if self._startup.serving else probe_at
            if self._clock() >= probe_at:
                if await self._ready(handle):
                    may_sleep = self._was_found_ready and self.can_sleep
                    if may_sleep and await sleeping.is_asleep(self._http, _url(handle.spec)):
                        return self._dispatch(life.FellAsleep())
                    return self._became_ready(handle, told, seen_unready)
                seen_unready = True
                pause = LOOK_S if self._startup.serving else PROBE_RARELY_S
                probe_at = self._clock() + pause
            await asyncio.sleep(LOOK_S)

    def _became_ready(self, handle: Handle, before: bool, seen_unready: bool) -> None:
        """A tree found ready tells nothing of how long its start took."""
        now = self._life
        if not before and now.started is not None and now.state is State.STARTING:
            took_s = self._clock() - now.started if seen_unready else None
            handle.mark_served(Served(time.time(), took_s, self._startup.engine))
        self._dispatch(life.BecameReady())

    async def _ready(self, handle: Handle) -> bool:
        """The socket is ours, /health says 200, and the model list has every name.

        The socket comes first: nothing is ever sent to a stranger. A list that wants an API key
        (401) counts as given: the key is the model's secret and not ours to know.
        """
        spec = handle.spec
        ours = sockets.belongs(spec.port, handle.tree())
        stranger = f"port {spec.port} is held by another process" if ours is False else None
        self._dispatch(life.Blocked(stranger))
        if not ours:
            return False
        try:
            health = await self._http.request(
                "GET", f"{_url(spec)}/health", timeout=PROBE_TIMEOUT_S
            )
            if health.status != 200:
                return False
            models = await self._http.request(
                "GET", f"{_url(spec)}/v1/models", timeout=PROBE_TIMEOUT_S
            )
        except http1.HttpError:
            return False
        return models.status == 401 or (
            models.status == 200 and set(spec.served_names) <= _listed(models.body)
        )

    async def _watch_end(self, handle: Handle) -> None:
        await handle.died()
        if self._start_watch is not None:
            self._start_watch.cancel()
        self._dispatch(life.MainDied())
        end = await handle.gone()
        failure = self._diagnosed(handle, end)
        self._handle = None
        self._dispatch(life.Gone(failure, end.asked))

    def _diagnosed(self, handle: Handle, end: Exit) -> snapshot.Failure:
        tail = logs.tail(handle.log, TAIL_LINES, handle.log_start)
        return diagnose(tail, end, served=self._life.ready is not None)

    @property
    def _was_found_ready(self) -> bool:
        """It runs since before this daemon, was ready then, and is looked at again."""
        known = self._life
        found = known.state is State.STARTING and known.rest is Rest.NONE
        return found and known.ready is not None and known.tree is Tree.ALIVE

    def _reason(self, now: float) -> str | None:
        known = self._life
        if known.state is State.BACKOFF and known.alarm is not None:
            return f"starts again in {max(0.0, known.alarm - now):.0f} s"
        if self._was_found_ready:
            return "was found running"
        if known.state is State.STARTING:
            return known.reason or self._startup.detail
        return known.reason


def _served_ago_s(served: Served, age_s: float) -> float:
    """Seconds since a tree of this age became ready; the wall clock counts only for want of else.

    It may have been changed since.
    """
    if served.took_s is not None:
        return max(0.0, age_s - served.took_s)
    return min(age_s, max(0.0, time.time() - served.at))


def _url(spec: LaunchSpec) -> str:
    return f"http://127.0.0.1:{spec.port}"


def _failure(cause: Cause, line: str, remedy: str) -> snapshot.Failure:
    return snapshot.Failure(cause, redact(line), remedy, iso(time.time()))


def _listed(body: bytes) -> set[str]:
    """The model names of a /v1/models answer; empty for one that is not of that shape."""
    try:
        return {str(model["id"]) for model in json.loads(body)["data"]}
    except (ValueError, KeyError, TypeError):
        return set()
