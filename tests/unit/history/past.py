"""A fleet's past for tests: the writer's part run step by step, on a clock that the test turns."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vllm_console.history import file
from vllm_console.history.ingest import Ingest, Taken, Tick
from vllm_console.history.reading import Reader
from vllm_console.telemetry.sample import Histogram, Sample

EPOCH = 1_700_000_000.0
BOUNDS = (0.1, 0.2, 0.5, 1.0)


def sample(
    at: float,
    tokens: float,
    *,
    running: float = 0.0,
    started: float | None = 1.0,
    bounds: Sequence[float] = BOUNDS,
    **more: float,
) -> Sample:
    """A sample in which each token had a TTFT; they fill the buckets evenly, one after another."""
    size = len(bounds) + 1
    each = [tokens // size + (index < tokens % size) for index in range(size)]
    counts = tuple(float(sum(each[: index + 1])) for index in range(size))
    gauges = {"running": running} | ({} if started is None else {"process_start_time": started})
    ttft = Histogram(tuple(bounds), counts, tokens / 4)
    return Sample(at, {"generation_tokens": tokens, **more}, gauges, {"ttft_s": ttft})


class Past:
    """One daemon after another on one file. `at` is the clock of the samples, `ahead` what the
    wall clock is ahead of it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "history.sqlite"
        self.at = 0.0
        self.ahead = EPOCH
        self.connection, _ = file.open_to_write(self.path)
        self.ingest = Ingest()

    def tick(self, *taken: tuple[str, Sample] | Taken) -> None:
        """Write what was taken, in one transaction."""
        self.connection.execute("BEGIN IMMEDIATE")
        samples = [t if isinstance(t, Taken) else Taken(*t) for t in taken]
        work = self.ingest.take(Tick(self.at, self.at + self.ahead, samples), self.connection)
        for statement, values in work.statements:
            self.connection.execute(statement, values)
        self.connection.execute("COMMIT")
        work.done()

    def run(
        self,
        seconds: int,
        rate: float = 3.0,
        subject: str = "worker/w",
        started: float = 1.0,
        **more: float,
    ) -> None:
        """A worker that is asked each second and has counted `rate` times the clock."""
        for _ in range(seconds):
            self.at += 1
            made = sample(self.at, rate * self.at, running=self.at % 10, started=started)
            made = replace(made, counters={**made.counters, **more})
            self.tick((subject, made))

    def restart(self) -> None:
        """End the daemon, at any moment, and begin another."""
        self.connection.close()
        self.connection, _ = file.open_to_write(self.path)
        self.ingest = Ingest()
        self.ingest.load(self.connection, self.at)

    def reader(self) -> Reader:
        """Reads what the daemon has, in memory and in the file."""
        return Reader(self.ingest, self.connection)

    def alone(self) -> Reader:
        """Reads the file without the daemon."""
        ingest = Ingest()
        ingest.load(self.connection, 0.0)
        return Reader(ingest, self.connection)

    def chunks(self) -> dict[int, int]:
        """How many chunks there are, by tier."""
        found = self.connection.execute("SELECT k >> 60, count(*) FROM chunk GROUP BY 1")
        return dict(tuple(row) for row in found)

    def close(self) -> None:
        """End it."""
        self.connection.close()


def cell(connection: sqlite3.Connection, query: str) -> int:
    """The one number that a query gives."""
    return int(connection.execute(query).fetchone()[0])
