"""The stored past of a fleet: takes every sample, answers for any window, is never waited for."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

from vllm_console.errors import ConsoleError
from vllm_console.history import chunks, file
from vllm_console.history.codec import NotAChunk
from vllm_console.history.database import Database
from vllm_console.history.ingest import Ingest, Taken, Tick, Work
from vllm_console.history.reading import Reader
from vllm_console.history.tiers import TIERS
from vllm_console.telemetry.sample import Sample

Answer = TypeVar("Answer")

BUDGET_BYTES = 2 << 30
_TICKS = 60
"""Ticks that wait at most; each holds a sample of every worker."""
_ROOM = 0.05
"""Share of the budget that is kept free."""
_PAGES = 64
"""Pages given back to the disk in one transaction, when many are free."""
_OVERDUE_S = 30.0
"""After so long the writer is asked again: what waits in its queue may have been given up."""

_log = logging.getLogger(__name__)


class Store:
    """Writes through the fleet's one `Database`, reads by a connection of its own.

        store.record("worker/qwen-1", sample)     # at each sample, from the event loop
        store.tick()                              # once a second
        await asyncio.wrap_future(store.ask(lambda reader: reader.window("fleet", t0, t1)))

    `record` and `tick` return at once; ticks that the disk does not take in time are dropped, and
    `dropped` counts them. What they counted is not lost, as samples are cumulative. Over `budget`
    bytes the oldest rows of the finest tier go first.
    """

    def __init__(
        self,
        database: Database,
        *,
        budget: int = BUDGET_BYTES,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`clock` is the clock of the samples, `wall` says seconds since the epoch."""
        self.dropped = 0
        """Ticks that were not kept."""
        self._dropped_before = 0
        self._database = database
        self._budget = budget
        self._clock = clock
        self._wall = wall
        self._taken: list[Taken] = []
        self._ticks: deque[Tick] = deque()
        self._lock = threading.Lock()
        self._asked_at: float | None = None
        """When the writer was asked to write, until it has."""
        self._ingest: Ingest | None = None
        self._work: list[Work] = []
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="history-reader")
        self._reading = ExitStack()
        self._reader: Reader | None = None
        self._reads: tuple[tuple[int, int] | None, Ingest | None] = (None, None)
        database.seed(self._seed)

    def record(self, subject: str, sample: Sample, joins: tuple[str, ...] = ()) -> None:
        """Keep one sample, as it was scraped, of "worker/ID", "model/NAME", "fleet", "gpu/UUID", …

        `joins` are the totals that did not count what is new in it: for the first sample of a
        worker that had been out of sight, its model and the fleet.
        """
        self._taken.append(Taken(subject, sample, joins))

    def begin(self, subject: str, sample: Sample) -> None:
        """Keep what a subject was before it counted anything, if nothing was ever recorded of it.

        The next sample has that to grow from.
        """
        self._taken.append(Taken(subject, sample, opening=True))

    def tick(self) -> None:
        """Hand over what was recorded since the last call."""
        now = self._clock()
        with self._lock:
            if self._taken:
                if len(self._ticks) >= _TICKS:
                    self._ticks.popleft()
                    self.dropped += 1
                self._ticks.append(Tick(now, self._wall(), self._taken))
                self._taken = []
            late = self._asked_at is not None and now - self._asked_at > _OVERDUE_S
            if self._ticks and (self._asked_at is None or late):
                self._asked_at = now
                self._database.write(self._write, self._written)

    def ask(self, question: Callable[[Reader], Answer]) -> Future[Answer]:
        """Put a question to the past, in a thread; raises `ConsoleError` if it cannot be read."""
        return self._readers.submit(self._answer, question)

    def close(self) -> None:
        """Hand over what is left and end the reading; the database is closed by its owner."""
        self.tick()
        self._readers.submit(self._close_reader).result()
        self._readers.shutdown()

    # -- the writer's thread -----------------------------------------------------------------

    def _write(self, connection: sqlite3.Connection) -> None:
        """One transaction: what the last one could not write, else the ticks that wait."""
        if self._ingest is None:
            ingest = Ingest()
            ingest.load(connection, self._clock())
            self._ingest = ingest
        if not self._work:
            with self._lock:
                ticks = list(self._ticks)
                self._ticks.clear()
            self._work = [self._ingest.take(tick, connection) for tick in ticks]
        self._make_room(connection)
        for work in self._work:
            for statement, values in work.statements:
                connection.execute(statement, values)

    def _written(self) -> None:
        work, self._work = self._work, []
        if self.dropped > self._dropped_before:
            _log.warning("%d ticks were not kept", self.dropped - self._dropped_before)
            self._dropped_before = self.dropped
        for each in work:
            each.done()
        with self._lock:
            self._asked_at = None
            if self._ticks:
                self._asked_at = self._clock()
                self._database.write(self._write, self._written)

    def _seed(self, connection: sqlite3.Connection) -> None:
        if self._ingest is not None:
            self._ingest.seed(connection)

    def _make_room(self, connection: sqlite3.Connection) -> None:
        """Drop the oldest rows, of the finest tier first, while the file is nearly full."""
        limit = int(self._budget * (1 - _ROOM)) // _pragma(connection, "page_size")
        if _pragma(connection, "freelist_count") > max(limit // 10, _PAGES):
            for _ in range(_PAGES):  # each call gives back one, as the pragma's rows are empty
                connection.execute("PRAGMA incremental_vacuum(1)")
        for tier in range(len(TIERS)):
            if _used(connection) <= limit:
                return
            oldest = chunks.oldest_chunks(connection, tier)
            portion = max(1, len(oldest) // 20)
            while oldest and _used(connection) > limit:
                gone = [(k,) for k in oldest[:portion]]
                connection.executemany("DELETE FROM chunk WHERE k = ?", gone)
                del oldest[:portion]

    # -- the reader's thread -------------------------------------------------------------------

    def _answer(self, question: Callable[[Reader], Answer]) -> Answer:
        try:
            return question(self._current_reader())
        except FileNotFoundError:
            raise ConsoleError(f"{self._database.path}: nothing is recorded yet") from None
        except (sqlite3.Error, NotAChunk) as error:
            self._close_reader()
            raise ConsoleError(f"{self._database.path}: cannot be read: {error}") from None

    def _current_reader(self) -> Reader:
        """A reader of the file that lies there now, and of what the writer has in memory."""
        reads = (file.identity(self._database.path), self._ingest)
        if self._reader is None or reads != self._reads:
            self._close_reader()
            connection = self._reading.enter_context(self._database.reading())
            connection.row_factory = None
            self._reader, self._reads = reader(connection, self._ingest), reads
        return self._reader

    def _close_reader(self) -> None:
        self._reader = None
        self._reading.close()


def reader(connection: sqlite3.Connection, ingest: Ingest | None = None) -> Reader:
    """A reader of a file; without the `ingest` of who writes it, of the file alone."""
    if ingest is None:
        ingest = Ingest()
        ingest.load(connection, 0.0)
    return Reader(ingest, connection)


def _used(connection: sqlite3.Connection) -> int:
    """Pages that hold something."""
    return _pragma(connection, "page_count") - _pragma(connection, "freelist_count")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
