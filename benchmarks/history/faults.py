"""The writer killed again and again; a latency that turns ten times worse at one instant."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from benchmarks.common import ROOT, table
from benchmarks.history.simulated import Simulated
from vllm_console.history import file
from vllm_console.history.ingest import Ingest, Taken, Tick
from vllm_console.history.reading import Reader
from vllm_console.history.store import reader

_SUBJECT = "worker/w"
_EPOCH = 1_700_000_000.0


def kills(count: int) -> None:
    """Prints the row."""
    lost = ahead = broken = 0
    slowest = 0.0
    newest = 0
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "history.sqlite"
        words = [sys.executable, "-m", "tests.unit.history.writer", "ticks", directory]
        for _ in range(count):
            with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=ROOT) as writer:
                assert writer.stdout is not None
                said = [writer.stdout.readline()]  # it has begun
                time.sleep(random.uniform(0.02, 0.5))
                writer.send_signal(signal.SIGKILL)
                said += writer.stdout.read().split(b"\n")[:-1]
            acknowledged = max(int(line) for line in said if line)
            begun = time.perf_counter()
            with closing(sqlite3.connect(path)) as connection:
                past = reader(connection)
                slowest = max(slowest, time.perf_counter() - begun)
                window = past.window(_SUBJECT, 0.0, 2 * _EPOCH)
                assert window is not None
                newest = round(window.new.at - _EPOCH)
                lost += newest < acknowledged
                ahead += newest > acknowledged
                sound = connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                steps = past.steps(_SUBJECT, _EPOCH + max(1, newest - 6000), _EPOCH + newest, 1.0)
                whole = {step and step.delta("generation_tokens") for step in steps} == {3.0}
                broken += not (sound and whole)
    header = [
        "kill -9",
        "acknowledged ticks lost",
        "written, not yet said",
        "damaged or with holes",
    ]
    row: list[object] = [count, lost, ahead, broken, newest, slowest * 1e3]
    table([row], [*header, "ticks", "slowest opening ms"])


def regression() -> None:
    """Prints when the 60 s percentile is right after everything takes ten times as long."""
    worker = Simulated(3, busy=10.0)
    rows: list[list[float]]
    with tempfile.TemporaryDirectory() as directory:
        connection, _ = file.open_to_write(Path(directory) / "history.sqlite")
        with closing(connection):
            ingest = Ingest()
            past = Reader(ingest, connection)
            steady: dict[int, float] = {}
            for second in range(1, 901):
                worker.slower = 1.0 if second <= 600 else 10.0
                taken = [Taken(_SUBJECT, worker.step(second, 1.0))]
                work = ingest.take(Tick(second, _EPOCH + second, taken), connection)
                for statement, values in work.statements:
                    connection.execute(statement, values)
                work.done()
                window = past.window(_SUBJECT, _EPOCH + second - 60, _EPOCH + second)
                steady[second] = (window and window.quantiles("ttft_s").p95) or 0.0
            both = [past.window(_SUBJECT, _EPOCH + s, _EPOCH + s + 299) for s in (300, 600)]
            before, since = (w.quantiles("ttft_s").p95 for w in both if w is not None)
            moments = (-1, 5, 15, 30, 60, 120)
            rows = [[after, steady[600 + after], before, since] for after in moments]
    table(rows, ["s after", "P95 of 60 s", "P95 of 5 min before", "P95 of 5 min since"])
