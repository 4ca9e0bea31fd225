"""What scraping costs: parsing, one hung worker among 16, and 1 to 256 workers once a second.

python benchmarks/scrape_cost.py [--seconds 15] [--targets 1 16 64 256] [--part parse,hung,cost]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import cast

import psutil
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import table
from exposition import filtered, growing, recorded

from vllm_console.http1 import Pool
from vllm_console.telemetry.parse import Parser
from vllm_console.telemetry.sample import Miss, Sample
from vllm_console.telemetry.scrape import Scraper

WARM_UP_S = 3.0


def main() -> None:
    """Prints the tables asked for."""
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--seconds", type=float, default=15.0, help="length of each measurement")
    made.add_argument("--targets", type=int, nargs="+", default=[1, 16, 64, 256])
    made.add_argument("--part", default="parse,hung,cost")
    made.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    made.add_argument("--scrape", help=argparse.SUPPRESS)
    args = made.parse_args()
    if args.serve is not None:
        uvloop.run(_serve(args.serve, args.seconds))
    elif args.scrape is not None:
        print(json.dumps(uvloop.run(_measured(json.loads(args.scrape), args.seconds))))
    else:
        parts = {"parse": _parse, "hung": _hung, "cost": _cost}
        for part in args.part.split(","):
            parts[part](args)
            print()


# Parsing.


def _parse(args: argparse.Namespace) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    rows: list[list[object]] = []
    pair = [recorded("loaded_peak"), recorded("loaded")]
    for name, whole in (
        ("an idle second", [recorded("loaded")] * 40),
        ("recorded pair", pair * 20),
        ("a busy second", growing(recorded("loaded"), 40)),
        ("fine buckets", growing(recorded("fine_buckets"), 40)),
        ("two engines", growing(recorded("dp2"), 40)),
    ):
        ours = [filtered(text) for text in whole]
        words = whole[-1].decode()
        oracle = _best(lambda: [list(f.samples) for f in text_string_to_metric_families(words)], 5)  # noqa: B023
        for kind, texts in (("whole", whole), ("our names", ours)):
            cold = _best(lambda: Parser().parse(texts[0], 0.0), 10)  # noqa: B023
            parser = Parser()
            parser.parse(texts[0], 0.0)
            warm = median([_once(lambda: parser.parse(text, 0.0)) for text in texts[1:]])  # noqa: B023
            changed = median(
                [_changed(a, b) for a, b in pairwise([text.split(b"\n") for text in texts])]
            )
            rows.append(
                [
                    name, kind, round(len(texts[0]) / 1024, 1), f"{changed:.0%}",
                    cold * 1e3, warm * 1e3, oracle * 1e3, round(oracle / warm),
                ]
            )  # fmt: skip
    header = ["text", "asked for", "KiB", "changed", "cold ms", "warm ms", "prometheus_client ms"]
    table(rows, [*header, "ratio"])
    print("changed: lines that differ from one second to the next; ratio: to the whole text")


def _changed(old: list[bytes], new: list[bytes]) -> float:
    return sum(a != b for a, b in zip(old, new, strict=True)) / len(new)


def _best(call: Callable[[], object], runs: int) -> float:
    return min(_once(call) for _ in range(runs))


def _once(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


# Scraping a server process that holds its texts ready, from a process of its own.


def _hung(args: argparse.Namespace) -> None:
    rows: list[list[object]] = []
    for hung in (0, 1):
        with _server(16, args.seconds) as ports:
            found = _scraped([*ports[: 16 - hung], *[-1] * hung], args.seconds)
        rows.append(
            [
                f"{16 - hung} + {hung} hung",
                *(found[key] for key in ("samples", "misses")),
                *(found[f"jitter_{key}"] for key in ("p50", "p99", "max")),
            ]
        )
    table(rows, ["workers", "samples", "misses", "jitter p50 ms", "p99", "max"])
    print("jitter: how far the time between two samples of a worker is from 1 s")


def _cost(args: argparse.Namespace) -> None:
    rows: list[list[object]] = []
    for count in args.targets:
        with _server(count, args.seconds) as ports:
            found = _scraped(ports, args.seconds)
        rows.append(
            [
                *(count, found["samples"], found["misses"], 100 * found["cpu"]),
                *(found["us"], found["rss_mb"], found["jitter_p99"]),
            ]
        )
    header = ["workers", "samples", "misses", "CPU % of a core", "µs a scrape", "RSS MB"]
    table(rows, [*header, "jitter p99 ms"])


@contextmanager
def _server(count: int, seconds: float) -> Iterator[list[int]]:
    words = [sys.executable, __file__, "--serve", str(count), "--seconds", str(seconds)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


def _scraped(ports: list[int], seconds: float) -> dict[str, float]:
    words = [sys.executable, __file__, "--scrape", json.dumps(ports), "--seconds", str(seconds)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


class _Worker(asyncio.Protocol):
    """A port of the server: the next text at every request, whole or filtered as asked."""

    def __init__(self, whole: list[bytes], ours: list[bytes]) -> None:
        self._texts = (whole, ours)
        self._asked = 0
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        for _ in range(data.count(b"\r\n\r\n")):
            texts = self._texts[b"/metrics/?" in data]
            self._transport.write(texts[min(self._asked, len(texts) - 1)])
            self._asked += 1


async def _serve(count: int, seconds: float) -> None:
    whole = growing(recorded("loaded"), round(seconds + 3 * WARM_UP_S))
    ours = [filtered(text) for text in whole]
    answers = [[_response(text) for text in texts] for texts in (whole, ours)]
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(lambda: _Worker(*answers), "127.0.0.1", 0) for _ in range(count)
    ]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    await asyncio.Event().wait()


def _response(text: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text


async def _measured(ports: list[int], seconds: float) -> dict[str, float]:
    """Scrapes for a while: what it cost, and how steady it was. A port of -1 never answers."""
    mute = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    times: dict[str, list[float]] = {}
    misses: list[Miss] = []

    def keep(worker: str, sample: Sample) -> None:
        """Where a store would take the sample in."""
        times.setdefault(worker, []).append(sample.at)

    pool = Pool()
    scraper = Scraper(pool, on_sample=keep, on_miss=lambda _, miss: misses.append(miss))
    for i, port in enumerate(ports):
        port = mute.sockets[0].getsockname()[1] if port < 0 else port
        scraper.add(f"worker-{i}", f"http://127.0.0.1:{port}")
    await asyncio.sleep(WARM_UP_S)
    times.clear()
    misses.clear()
    cpu, begun = time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    cpu, took = time.process_time() - cpu, time.monotonic() - begun
    rss = psutil.Process().memory_info().rss
    await scraper.close()
    await pool.close()
    mute.close()
    jitter = [abs(b - a - 1.0) * 1e3 for one in times.values() for a, b in pairwise(one)]
    samples = sum(len(one) for one in times.values())
    return {
        "samples": samples,
        "misses": len(misses),
        "cpu": cpu / took,
        "us": round(cpu / max(1, samples) * 1e6),
        "rss_mb": round(rss / 2**20, 1),
        "jitter_p50": median(jitter),
        "jitter_p99": quantiles(jitter, n=100)[98],
        "jitter_max": max(jitter),
    }


if __name__ == "__main__":
    main()
