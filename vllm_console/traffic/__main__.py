"""Traffic as a process of its own, steered through its pipes.

    python -m vllm_console.traffic --rate 4 < targets

Each line on stdin is the JSON list of targets from now on (`Target`: model, url, context). Traffic
starts with the first target, by one request to each, so that a fleet shows life at once. Each
second a line on stdout tells the `Summary` so far. The end of stdin, which the death of the parent
brings too, ends the traffic after the answers under way; SIGTERM ends it at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vllm_console.errors import ConsoleError
from vllm_console.http1 import Pool
from vllm_console.snapshot import from_json, to_json
from vllm_console.traffic.arrivals import varying_arrivals
from vllm_console.traffic.generate import Generator, Target
from vllm_console.traffic.lengths import Lengths, spread_lengths
from vllm_console.traffic.trace import read_trace

REPORT_S = 1.0
"""Seconds between two summaries."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs until stdin ends or a signal comes; the value is the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vllm_console.traffic")
    parser.add_argument("--rate", type=float, help="mean requests a second")
    parser.add_argument("--trace", type=Path, help="a CSV file of arrivals and lengths")
    parser.add_argument("--prompt", type=float, default=320.0, help="mean tokens of a prompt")
    parser.add_argument("--output", type=float, default=60.0, help="mean tokens of an answer")
    parser.add_argument("--max-in-flight", type=int, default=64)
    parser.add_argument("--drain", type=float, default=10.0, help="seconds to wait for answers")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        asyncio.run(_run(args))
    except ConsoleError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except BrokenPipeError:  # the parent is gone; nobody reads
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


async def _run(args: argparse.Namespace) -> None:
    arrivals: Iterable[float]
    lengths: Iterable[Lengths]
    if args.trace is not None:
        trace = read_trace(args.trace)
        arrivals, lengths = trace.arrivals(args.rate), trace.lengths()
    else:
        arrivals = varying_arrivals(args.rate or 1.0, seed=args.seed)
        lengths = spread_lengths(prompt=args.prompt, output=args.output, seed=args.seed)
    targets: list[Target] = []
    aimed = asyncio.Event()
    pool = Pool()
    generator = Generator(
        pool,
        lambda: targets,
        _with_greeting(targets, arrivals),
        lengths,
        max_in_flight=args.max_in_flight,
        seed=args.seed,
    )

    async def run() -> None:
        await aimed.wait()
        await generator.run(drain_s=args.drain)

    running = asyncio.create_task(run())
    steering = asyncio.create_task(_steer(targets, aimed))
    reporting = asyncio.create_task(_report(generator))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, running.cancel)
    try:
        await asyncio.wait({running, steering, reporting}, return_when=asyncio.FIRST_COMPLETED)
        if aimed.is_set():
            generator.stop()
        else:
            running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    finally:
        for task in (running, steering, reporting):
            task.cancel()
        await asyncio.gather(running, steering, reporting, return_exceptions=True)
        await pool.close()
        _tell(generator)


def _with_greeting(targets: list[Target], arrivals: Iterable[float]) -> Iterator[float]:
    yield from [0.0] * len(targets)
    yield from arrivals


async def _steer(targets: list[Target], aimed: asyncio.Event) -> None:
    """Takes new targets from stdin until it ends; `aimed` is set by the first."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        targets[:] = [from_json(Target, item) for item in json.loads(line)]
        if targets:
            aimed.set()


async def _report(generator: Generator) -> None:
    while True:
        _tell(generator)
        await asyncio.sleep(REPORT_S)


def _tell(generator: Generator) -> None:
    sys.stdout.write(json.dumps(to_json(generator.summary())) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
