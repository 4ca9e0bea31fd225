"""What a worker's change of state sets off: an event, scraping, and who holds which GPU."""

from __future__ import annotations

import time
from collections.abc import Callable

from vllm_console.control.machine import Machine
from vllm_console.control.observe import Observation
from vllm_console.control.served import Actor
from vllm_console.snapshot import Failure
from vllm_console.snapshot import Worker as WorkerView
from vllm_console.workers.states import SERVING, State
from vllm_console.workers.worker import Worker


class Changes:
    """Hears of every change of every worker and passes on what others need of it."""

    def __init__(
        self,
        observation: Observation,
        machine: Machine,
        tell: Callable[[str, str, str, Failure | None], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tell` takes level, subject, text and failure of an event."""
        self._observation = observation
        self._machine = machine
        self._tell = tell
        self._clock = clock
        self._seen: dict[str, WorkerView] = {}
        self._starting: dict[str, float] = {}
        self._adopting: set[str] = set()
        self._woken: set[str] = set()
        """Those whose newest start is out of sleep: their engine counts on from before."""

    def adopting(self, worker_id: str) -> None:
        """This worker runs already: that it starts and becomes ready is no news."""
        self._adopting.add(worker_id)

    def forget(self, worker_id: str) -> None:
        """That worker will not come back."""
        self._seen.pop(worker_id, None)
        self._woken.discard(worker_id)
        self._observation.forget_worker(worker_id)

    def heard(self, worker: Actor, new: WorkerView) -> None:
        """Note a change of a worker."""
        if new.state in SERVING and new.url is not None:
            fresh = new.id in self._starting and new.id not in self._woken
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
            if isinstance(worker, Worker) and worker.wakes:
                self._woken.add(new.id)
            else:
                self._woken.discard(new.id)
        level, text = _told(new)
        if new.state == State.READY and new.id in self._starting:
            text += f" in {self._clock() - self._starting.pop(new.id):.1f} s"
            text += " after sleep" if new.id in self._woken else ""
        self._tell(level, new.id, text, new.failure if new.state in _FAILED else None)


_FAILED = (State.FAILED, State.CRASH_LOOP, State.BACKOFF)
"""States whose event keeps the failure."""


def _told(new: WorkerView) -> tuple[str, str]:
    """Level and text of the event for a worker's change of state."""
    reason = f": {new.reason}" if new.reason else ""
    match new.state:
        case State.READY if new.reason:
            return "warn", f"ready{reason}"
        case State.READY:
            return "ok", "ready"
        case State.FAILED | State.CRASH_LOOP if new.failure:
            return "crit", f"{new.state}, {new.failure.cause}: {new.failure.line}"
        case State.BACKOFF if new.failure:
            return "warn", f"ended, {new.failure.cause}: {new.failure.line}; {new.reason}"
        case State.STALLED | State.ASLEEP if new.reason:
            return "warn", f"{new.state}{reason}"
        case _:
            return "info", f"{new.state}{reason}"
