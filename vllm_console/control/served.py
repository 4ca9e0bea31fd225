"""A model of the fleet as the daemon runs it: what is wanted, and the workers that serve it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import count

from vllm_console.control.attached import AttachedWorker
from vllm_console.control.canary import Canary
from vllm_console.fleet.model import ModelConfig
from vllm_console.workers.states import ENDED, SERVING, State
from vllm_console.workers.worker import Worker

Actor = Worker | AttachedWorker
"""What serves a model: a worker of ours, or one that is only watched."""

TELLING = (
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
_NEED_A_LOAD = ENDED | {State.BACKOFF, State.DRAINING, State.STOPPING, State.ASLEEP}
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
    leaving: set[str] = field(default_factory=set)
    """Workers that are unloaded for good, whoever loads the model meanwhile."""
    put_off: set[str] = field(default_factory=set)
    """Workers that slept and have ended: wanted, but started only when somebody asks for them."""
    canary: Canary | None = None
    """A worker of another revision beside those that are wanted."""
    pin: bool | None = None
    """Whether a person pinned it, where that is not what fleet.toml says."""

    @property
    def name(self) -> str:
        """Its name in fleet.toml, which is the name clients ask for."""
        return self.config.name

    @property
    def pinned(self) -> bool:
        """Whether nothing may evict it."""
        return self.config.pinned if self.pin is None else self.pin

    @property
    def state(self) -> State:
        """The most telling state among its workers."""
        states = {State(worker.view.state) for worker in self.workers.values()}
        return next((state for state in TELLING if state in states), State.STOPPED)

    @property
    def own(self) -> list[Actor]:
        """Its workers, the canary left out: those that count towards what is wanted."""
        tried = self.canary.worker if self.canary is not None else None
        return [worker for worker in self.workers.values() if worker.id != tried]

    @property
    def ready(self) -> int:
        """Workers of its own that take requests."""
        return sum(worker.view.state in SERVING for worker in self.own)

    def config_of(self, worker_id: str) -> tuple[ModelConfig, int]:
        """Configuration and revision that a worker is started with."""
        canary = self.canary
        if canary is not None and canary.worker == worker_id:
            return canary.config, canary.revision
        return self.config, self.revision

    def load(self, number: int | None = None) -> list[Actor]:
        """Want `number` workers (default: as fleet.toml says) and start those that are missing.

        A canary that sleeps or has stopped is started too.
        """
        self.wanted = max(self.wanted, self.config.workers if number is None else number, 1)
        self.put_off.clear()
        here = [worker for worker in self.own if worker.id not in self.leaving]
        while len(here) < self.wanted:
            here.append(self.add_worker())
        if self.canary is not None and self.canary.worker in self.workers:
            here.append(self.workers[self.canary.worker])
        due = [worker for worker in here if worker.state in _NEED_A_LOAD]
        for worker in due:
            worker.load()
        return due

    @property
    def wanted_next(self) -> int:
        """How many workers another daemon shall start or keep: not those that are put off."""
        return max(0, self.wanted - len(self.put_off))

    @property
    def can_sleep(self) -> bool:
        """Whether its workers were started so that they can be put to sleep."""
        return any(isinstance(w, Worker) and w.can_sleep for w in self.workers.values())

    def sleep(self) -> list[Actor]:
        """Have every worker sleep that is ready, or called back on its way; returns them."""
        ours = [worker for worker in self.workers.values() if isinstance(worker, Worker)]
        able = [w for w in ours if w.can_sleep and (w.state is State.READY or w.rests)]
        for worker in able:
            worker.sleep()
        return list[Actor](able)

    def wake(self) -> list[Actor]:
        """Have every worker serve that sleeps or is about to; returns them."""
        ours = [worker for worker in self.workers.values() if isinstance(worker, Worker)]
        resting = [worker for worker in ours if worker.rests]
        for worker in resting:
            worker.wake()
        return list[Actor](resting)

    def call(self) -> None:
        """Have those workers serve that were found running, even if they turn out to sleep."""
        for worker in self.workers.values():
            if isinstance(worker, Worker) and worker.state is State.STARTING:
                worker.wake()

    def scale(self, number: int) -> tuple[list[Actor], list[Actor]]:
        """Want exactly `number` workers; returns those that start and those to retire.

        Those that serve stay first, among them the ones that were there first.
        """
        self.wanted = number
        self.put_off.clear()
        here = [worker for worker in self.own if worker.id not in self.leaving]
        here.sort(key=lambda worker: worker.view.state not in SERVING)
        surplus, stay = here[number:], here[:number]
        if not number and (tried := self.end_canary()) is not None:
            surplus.append(tried)
        self.leaving |= {worker.view.id for worker in surplus}
        while len(stay) < number:
            stay.append(self.add_worker())
        due = [worker for worker in stay if worker.state in _NEED_A_LOAD]
        for worker in due:
            worker.load()
        return due, surplus

    def surplus(self, wanted: int, served: Collection[str]) -> list[Actor]:
        """The adopted workers beyond those wanted; unless none is, they leave for good.

        There are some after a daemon was killed between a command and its end, such as in a
        replacement whose old worker had not gone yet. Those that are on their way out go first,
        then those that have not `served`, then those of another revision.
        """

        def rank(worker: Actor) -> tuple[bool, bool, bool]:
            revision = worker.spec.revision if worker.spec else None
            leaving = worker.state is State.STOPPING
            return leaving, worker.id not in served, revision != self.revision

        found = sorted(self.own, key=rank)[wanted:]
        if wanted:
            self.leaving |= {worker.id for worker in found}
        return found

    def add_worker(self, worker_id: str | None = None) -> Actor:
        """One more worker, not started yet, by default under the lowest number that is free."""
        worker_id = worker_id or self.free_id()
        worker = self.workers[worker_id] = self.make_worker(self, worker_id)
        return worker

    def free_id(self) -> str:
        """The id of the next worker: the lowest number that is free."""
        taken = {*self.workers, self.canary.worker if self.canary is not None else ""}
        numbers = (number for number in count(1) if f"{self.name}-{number}" not in taken)
        return f"{self.name}-{next(numbers)}"

    def end_canary(self) -> Actor | None:
        """Have no canary any more; returns its worker, which leaves for good, if there is one."""
        canary, self.canary = self.canary, None
        worker = self.workers.get(canary.worker) if canary is not None else None
        if worker is not None:
            self.leaving.add(worker.id)
        return worker

    def unload(self) -> list[Actor]:
        """Want none, no canary either; returns the workers to unload."""
        self.wanted = 0
        self.end_canary()
        return list(self.workers.values())

    def drop_stopped(self) -> list[Actor]:
        """Forget workers beyond those wanted that have stopped; returns them."""
        gone = [worker for worker in self.own[self.wanted :] if worker.view.state == State.STOPPED]
        for worker in gone:
            del self.workers[worker.view.id]
        return gone
