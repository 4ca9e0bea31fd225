"""What it costs to fetch, parse, remember and store 1 to 256 workers once a second."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import uvloop

from benchmarks.common import ROOT, table
from benchmarks.history.prometheus import Scraping
from vllm_console.control.observe import Observation
from vllm_console.control.process import collect_rarely
from vllm_console.history.database import Database
from vllm_console.history.memory import MemoryHistory
from vllm_console.history.store import Store
from vllm_console.http1 import Pool

WARM_UP_S = 5.0
MODELS = 4


def costs(targets: list[int], seconds: float, prometheus: Path | None) -> None:
    """Prints the table."""
    rows: list[list[object]] = []
    for count in targets:
        with _served(count, seconds + 3 * WARM_UP_S) as ports:
            ours = _measured(ports, seconds)
            theirs: list[object] = ["not run", "not run"]
            if prometheus is not None:
                with Scraping(prometheus, ports) as other:
                    theirs = list(other.cost(WARM_UP_S, seconds))
        names = ("cpu", "store", "rss_mb", "rows", "dropped", "ms")
        rows.append([count, *(ours[name] for name in names), *theirs])
    header = ["workers", "CPU % of a core", "the store's share", "RSS MB", "ticks", "dropped"]
    table(rows, [*header, "ms a tick", "Prometheus CPU %", "RSS MB"])
    print("fetch + parse + last 15 min + store, one process; Prometheus keeps all vllm: names")


@contextmanager
def _served(count: int, seconds: float) -> Iterator[list[int]]:
    """Ports of a process that answers with recorded texts that grow."""
    server = str(ROOT / "benchmarks" / "scrape_cost.py")
    words = [sys.executable, server, "--serve", str(count), "--seconds", str(2 * seconds)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


def _measured(ports: list[int], seconds: float) -> dict[str, float]:
    words = [sys.executable, "-m", "benchmarks.history.costs", json.dumps(ports), str(seconds)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    return dict(json.loads(done.stdout))


async def _observed(ports: list[int], seconds: float) -> dict[str, float]:
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as directory:
        database = Database(Path(directory) / "history.sqlite")
        store = TimedStore(database)
        database.start()
        pool = Pool()
        observation = Observation(pool, MemoryHistory(), store=store)
        observation.looked_at = True
        for number, port in enumerate(ports):
            model = f"m-{number % MODELS}"
            observation.watch(f"w-{number}", model, f"http://127.0.0.1:{port}", fresh=False)
        due = time.monotonic()
        begun = due + WARM_UP_S
        spent = process.cpu_times()
        measuring = False
        while due < begun + seconds:
            if due >= begun and not measuring:
                measuring, spent = True, process.cpu_times()
                store.ticks, store.spent_s = 0, 0.0
            observation.tick()
            due += 1.0
            await asyncio.sleep(due - time.monotonic())
        now = process.cpu_times()
        cpu = now.user + now.system - spent.user - spent.system
        rss = process.memory_info().rss
        await observation.close()
        await pool.close()
        store.close()
        database.close()
    return {
        "cpu": 100 * cpu / seconds,
        "store": 100 * store.spent_s / seconds,
        "rss_mb": rss / 1e6,
        "rows": store.ticks,
        "dropped": store.dropped,
        "ms": 1e3 * store.spent_s / max(1, store.ticks),
    }


class TimedStore(Store):
    """A store that says what CPU time its writer has taken."""

    ticks = 0
    spent_s = 0.0

    def _write(self, connection: object) -> None:
        begun = time.thread_time()
        super()._write(connection)  # type: ignore[arg-type]
        self.spent_s += time.thread_time() - begun
        self.ticks += 1


if __name__ == "__main__":
    made = argparse.ArgumentParser()
    made.add_argument("ports", type=json.loads)
    made.add_argument("seconds", type=float)
    args = made.parse_args()
    collect_rarely()  # as the daemon does
    print(json.dumps(uvloop.run(_observed(args.ports, args.seconds))))
