"""What the gateway knows while it serves: models with their queues, workers with their connections.

A table replaces a table in one step. What stays keeps its counts: a model its queue and balance, a
worker its connections; what goes is let go of when its last request is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate
from typing import final

from vllm_console.gateway.admission import Queue
from vllm_console.gateway.balancing import Balance
from vllm_console.gateway.client import Client
from vllm_console.gateway.keyring import Keyring
from vllm_console.gateway.measures import Measures, Record
from vllm_console.gateway.pace import Pace
from vllm_console.gateway.table import Model, Table, Worker
from vllm_console.http1 import Origin

DOWN = frozenset({"failed", "crash-loop"})
"""States that no wait ends: a person has to."""


@final
class Wire:
    """How a worker is reached, and how many requests it has from here."""

    __slots__ = ("host_line", "id", "in_flight", "origin", "worker")

    def __init__(self, worker: Worker) -> None:
        self.id = worker.id
        self.worker = worker
        self.origin = Origin(worker.host, worker.port)
        self.in_flight = 0
        host = f"[{worker.host}]" if ":" in worker.host else worker.host
        line = f"host: {host}:{worker.port}\r\n"
        if worker.api_key is not None:
            line += f"authorization: Bearer {worker.api_key}\r\n"
        self.host_line = line.encode("latin-1")


@final
class Live:
    """A model that is routed to, and what is going on with it."""

    __slots__ = ("balance", "model", "name", "queue", "wanted")

    def __init__(self, model: Model) -> None:
        self.name = model.name
        self.model = model
        self.queue = Queue()
        self.balance = Balance()
        self.wanted = False
        """Whether the daemon was asked to load it and has not said anything since."""

    @property
    def down(self) -> bool:
        """Whether no worker is to be expected without somebody's help."""
        return self.model.state in DOWN


@final
class Gateway:
    """The state of the endpoint; every method belongs to the event loop's thread."""

    def __init__(self, table: Table, keyring: Keyring, measures: Measures) -> None:
        """Routes by `table` from the start; `keyring` and `measures` are asked and told."""
        self.keyring = keyring
        self.measures = measures
        self.table = Table(version=0)
        self.models: dict[str, Live] = {}
        self.names: dict[str, Live] = {}
        """Models by every name that clients may use: their own, aliases and adapters."""
        self.wires: dict[str, Wire] = {}
        """Workers by id."""
        self._retired: list[Wire] = []
        """Workers that are gone from the table and may still have requests."""
        self.connections: set[Client] = set()
        self.demand: Callable[[str], object] | None = None
        """Called with the name of a cold model that somebody waits for, once until it changes."""
        self.sinks: list[Callable[[Record], object]] = []
        """Called with each request that is over, after the measures."""
        self.pace = Pace()
        """Told of streams that run fast."""
        self.draining = False
        self.drained_at = 0.0
        """When it began to drain."""
        self.body_limit = 0
        """Bytes of the largest body that any model takes."""
        self.in_requests = 0
        """Requests that have arrived and are not over yet."""
        self.reading = 0
        """Bytes of bodies that are not complete yet."""
        self.date = b""
        """The Date header line of answers."""
        self.configure(table)
        self.sweep(time.monotonic())

    def configure(self, table: Table) -> None:
        """Routes by another table from now on; what waits is let in as far as it allows."""
        now = time.monotonic()
        self.table = table
        self.keyring.allow_anonymous = table.anonymous
        limits = [model.limits.body for model in table.models]
        self.body_limit = max(limits, default=Model(name="").limits.body)
        self._rewire(table)
        old, self.models, self.names = self.models, {}, {}
        for model in table.models:
            live = old.pop(model.name, None)
            if live is None:
                live = Live(model)
            elif live.model != model:
                live.model = model
                live.wanted = False
            self.models[model.name] = live
        for live in self.models.values():
            for name in (live.name, *live.model.aliases, *live.model.adapters):
                self.names.setdefault(name, live)
        for live in self.models.values():
            live.balance.configure(live.model.workers, live.model.weights, now)
        for live in old.values():
            live.balance.configure((), {}, now)
        # Only now: whoever is let in or turned away may bring a request for any model.
        for live in self.models.values():
            self._configure(live, now)
        for live in old.values():
            live.queue.turn_away("no-worker")

    def ask_for(self, live: Live) -> None:
        """Tells the daemon that somebody waits for a model that no worker serves."""
        if not live.wanted and self.demand is not None:
            live.wanted = True
            self.demand(live.name)

    def in_flight(self, worker_id: str) -> int:
        """Requests that a worker has from here, 0 for one that is not known."""
        wires = [wire for wire in self._retired if wire.id == worker_id]
        return sum(wire.in_flight for wire in (*wires, *self._wired(worker_id)))

    def over(self, record: Record) -> None:
        """Counts a request that is over."""
        self.measures.record(record)
        for sink in self.sinks:
            sink(record)

    def sweep(self, now: float) -> None:
        """What time alone brings about, at `now` (`time.monotonic()`): call about twice a second.

        Deadlines of connections and queues, worker connections that were idle for too long, and
        workers that are gone and have finished what they had.
        """
        self.date = b"date: %b\r\n" % formatdate(usegmt=True).encode()
        for connection in tuple(self.connections):
            connection.look(now)
        for live in self.models.values():
            live.queue.expire(now)
        for wire in self.wires.values():
            wire.origin.sweep(now)
        for wire in tuple(self._retired):
            if not wire.in_flight:
                wire.origin.close()
                self._retired.remove(wire)

    def drain(self) -> None:
        """Ends every connection as soon as it has no request any more; new requests are served."""
        self.draining = True
        self.drained_at = time.monotonic()
        for connection in tuple(self.connections):
            connection.shutdown()

    def close(self) -> None:
        """Refuses who waits, breaks off what runs and closes all connections to workers."""
        self.draining = True
        for live in self.models.values():
            live.queue.close()
        for connection in tuple(self.connections):
            connection.break_off()
        for wire in (*self.wires.values(), *self._retired):
            wire.origin.close()

    def _wired(self, worker_id: str) -> tuple[Wire, ...]:
        wire = self.wires.get(worker_id)
        return () if wire is None else (wire,)

    def _rewire(self, table: Table) -> None:
        known = {worker.id for model in table.models for worker in model.workers}
        for gone in self.wires.keys() - known:
            self._retired.append(self.wires.pop(gone))
        for model in table.models:
            for worker in model.workers:
                wire = self.wires.get(worker.id)
                if wire is None:
                    self.wires[worker.id] = Wire(worker)
                elif (wire.worker.host, wire.worker.port, wire.worker.api_key) != (
                    worker.host,
                    worker.port,
                    worker.api_key,
                ):
                    self._retired.append(wire)
                    self.wires[worker.id] = Wire(worker)

    def _configure(self, live: Live, now: float) -> None:
        model = live.model
        capacity = live.balance.capacity
        if model.limits.concurrency is not None:
            capacity = min(capacity, model.limits.concurrency)
        live.queue.configure(capacity, model.limits, now)
        if not capacity and (live.down or not model.on_demand):
            live.queue.turn_away("no-worker")
        elif not capacity and any(live.queue.waiting):
            self.ask_for(live)  # its worker went while they waited
