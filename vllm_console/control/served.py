"""A model of the fleet as the daemon runs it: what is wanted, and the workers that serve it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from vllm_console.control.attached import AttachedWorker
from vllm_console.fleet.model import ModelConfig
from vllm_console.workers.states import ENDED, SERVING, State
from vllm_console.workers.worker import Worker

Actor = Worker | AttachedWorker
"""What serves a model: a worker of ours, or one that is only watched."""

_TELLING = (
    State.READY,
    State.STALLED,
    State.DRAINING,
    State.STARTING,
    State.QUEUED,
    State.BACKOFF,
    State.ASLEEP,
    State.STOPPING,
    State.CRASH_LOOP,
    State.FAILED,
    State.STOPPED,
)
"""A model's state is the first of these that one of its workers is in."""
_NEED_A_LOAD = ENDED | {State.BACKOFF, State.DRAINING, State.STOPPING}
"""A worker in one of these becomes ready only if it is told to; one on its way down, after that."""


@dataclass(slots=True)
class ServedModel:
    """One model: its configuration, how many workers are wanted, and those there are."""

    config: ModelConfig
    revision: int
    make_worker: Callable[[ServedModel, str], Actor]
    wanted: int = 0
    workers: dict[str, Actor] = field(default_factory=dict)
    engine_environment: str | None = None
    command: tuple[str, ...] = ()
    weights_bytes: int | None = None

    @property
    def name(self) -> str:
        """Its name in fleet.toml, which is the name clients ask for."""
        return self.config.name

    @property
    def state(self) -> State:
        """The most telling state among its workers."""
        states = {State(worker.view.state) for worker in self.workers.values()}
        return next((state for state in _TELLING if state in states), State.STOPPED)

    @property
    def ready(self) -> int:
        """Workers that take requests."""
        return sum(worker.view.state in SERVING for worker in self.workers.values())

    def load(self, number: int | None = None) -> list[Actor]:
        """Want `number` workers (default: as fleet.toml says) and start those that are missing."""
        self.wanted = max(self.wanted, self.config.workers if number is None else number, 1)
        while len(self.workers) < self.wanted:
            self.add_worker()
        due = [worker for worker in self.workers.values() if worker.state in _NEED_A_LOAD]
        for worker in due:
            worker.load()
        return due

    def add_worker(self) -> Actor:
        """One more worker, not started yet, under the lowest number that is free."""
        numbers = (number for number in count(1) if f"{self.name}-{number}" not in self.workers)
        worker_id = f"{self.name}-{next(numbers)}"
        worker = self.workers[worker_id] = self.make_worker(self, worker_id)
        return worker

    def unload(self) -> list[Actor]:
        """Want none; returns the workers to unload."""
        self.wanted = 0
        return list(self.workers.values())

    def drop_stopped(self) -> list[Actor]:
        """Forget workers beyond those wanted that have stopped; returns them."""
        gone = [
            worker
            for worker in list(self.workers.values())[self.wanted :]
            if worker.view.state == State.STOPPED
        ]
        for worker in gone:
            del self.workers[worker.view.id]
        return gone
