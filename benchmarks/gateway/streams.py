"""A thousand slow streams at once: what each costs in memory, and that none waits for another.

    python -m benchmarks.gateway.streams [--streams 1000] [--chunks 60] [--idle-readers 100]

All streams begin at the same moment and are paced by the fake workers, so that without a gateway
each takes the same time. After them, clients that ask for long streams and read nothing: what is
held for them has to stay bounded. Exit code 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.common import table
from benchmarks.gateway.client import Connection
from benchmarks.gateway.ours import Standalone, standalone
from benchmarks.gateway.processes import (
    TARGET_CORE,
    Tools,
    backends,
    free_ports,
    load,
    settled,
    tools,
)
from benchmarks.gateway.targets import KEY, MODEL

STREAM_KB = 40.0
"""Most memory of one slow stream."""
SLOWEST_RATIO = 1.1
"""The slowest stream against the fastest."""
UNREAD_KB = 2048.0
"""Most memory of one client that does not read."""
UNREAD_CHUNKS = 100_000


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m benchmarks.gateway.streams")
    options.description = (__doc__ or "").partition("\n")[0]
    options.add_argument("--streams", type=int, default=1000)
    options.add_argument("--chunks", type=int, default=60)
    options.add_argument("--pace-ms", type=int, default=100, help="between two chunks")
    options.add_argument("--idle-readers", type=int, default=100, help="clients that do not read")
    given = options.parse_args()
    slow = ("-o", "-c", given.streams, "-s", "-k", given.chunks, "-D", given.pace_ms * 1000)
    with tempfile.TemporaryDirectory(prefix="vllm-console-bench-") as root:
        made = tools(Path(root))
        ports = free_ports(2)
        with backends(made, ports, "-m", MODEL):
            alone = load(made, ports[0], *_options(slow, given, KEY))
            with standalone(Path(root), {MODEL: ports}, core=TARGET_CORE) as gateway:
                rows, met = _streams(made, gateway, _options(slow, given, gateway.secret))
                unread, bounded = _unread(gateway, given.idle_readers)
    header = ["", "alone", "through the gateway", "goal"]
    paced: list[list[object]] = [
        [name, alone[key] / scale if key else None, value, goal]
        for name, key, scale, value, goal in rows
    ]
    table([*paced, *unread], header)
    return 0 if met and bounded else 1


def _options(slow: tuple[object, ...], given: argparse.Namespace, key: str) -> list[object]:
    seconds = given.chunks * given.pace_ms / 1000
    return [*slow, "-d", seconds + 20, "-m", MODEL, "-K", key]


def _streams(
    made: Tools, gateway: Standalone, options: list[object]
) -> tuple[list[tuple[str, str, float, float, str]], bool]:
    load(made, gateway.port, "-c", 16, "-d", 0.5, "-m", MODEL, "-K", gateway.secret)
    before, spent = settled(gateway.rss_kb), gateway.cpu_s()
    with _most(gateway.rss_kb) as most:
        seen = load(made, gateway.port, *options)
    spent = gateway.cpu_s() - spent
    each = (most() - before) / seen["started"]
    ratio = seen["latency_max"] / max(1.0, seen["latency_min"])
    lost = seen["failed"] + seen["refused"] + seen["incomplete"]
    rows = [
        ("streams complete", "done", 1.0, float(seen["done"]), ""),
        ("fastest stream (s)", "latency_min", 1e6, seen["latency_min"] / 1e6, ""),
        ("slowest stream (s)", "latency_max", 1e6, seen["latency_max"] / 1e6, ""),
        ("slowest / fastest", "", 1.0, ratio, f"≤ {SLOWEST_RATIO:g}"),
        ("first byte, p50 (ms)", "first_byte_p50", 1e3, seen["first_byte_p50"] / 1e3, ""),
        ("first byte, slowest (ms)", "first_byte_max", 1e3, seen["first_byte_max"] / 1e3, ""),
        ("way of a chunk, p50 (ms)", "transit_p50", 1e3, seen["transit_p50"] / 1e3, ""),
        ("way of a chunk, p99 (ms)", "transit_p99", 1e3, seen["transit_p99"] / 1e3, ""),
        ("memory before (MB)", "", 1.0, before / 1024, ""),
        ("memory of a stream (kB)", "", 1.0, each, f"≤ {STREAM_KB:g}"),
        ("CPU of a chunk (µs)", "", 1.0, spent / max(1, seen["chunks"]) * 1e6, ""),
    ]
    return rows, lost == 0 and ratio <= SLOWEST_RATIO and each <= STREAM_KB


def _unread(gateway: Standalone, clients: int) -> tuple[list[list[object]], bool]:
    """Clients ask for very long answers and read nothing of them."""
    before = settled(gateway.rss_kb)

    async def ask() -> float:
        body = {"model": MODEL, "messages": [], "stream": True, "max_tokens": UNREAD_CHUNKS}
        headers = {"authorization": f"Bearer {gateway.secret}", "content-type": "application/json"}
        open_ = [await Connection.open(gateway.port) for _ in range(clients)]
        await asyncio.gather(*(c.ask(body, headers, "/v1/chat/completions") for c in open_))
        held = await asyncio.to_thread(settled, gateway.rss_kb, 10.0, 1.0)
        for connection in open_:
            connection.abort()
        return held

    each = (asyncio.run(ask()) - before) / max(1, clients)
    row: list[object] = [
        "memory of a client that does not read (kB)",
        None,
        each,
        f"≤ {UNREAD_KB:g}",
    ]
    return [row], each <= UNREAD_KB


@contextmanager
def _most(value: Callable[[], float]) -> Iterator[Callable[[], float]]:
    """The largest of a value while the block runs."""
    seen = [value()]
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            seen.append(value())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield lambda: max(seen)
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        raise SystemExit(main())
