"""What the gateway costs, beside the workers alone and other gateways, in one alternating run.

    python -m benchmarks.gateway [--quick] [--targets ours,vllm-router] [--rounds 3] [--seconds 1.5]
                                 [--loads unary,burst] [--connections 16,64]

Two fake C workers and the load generator share one core, the target has another for itself. Every
round visits all targets, the next one in the opposite order; a figure is the median of the rounds.
The last lines hold the goals against the figures; exit code 1 when an answer was lost.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import median, table
from benchmarks.gateway.processes import (
    Missing,
    Tools,
    backends,
    cpu_s,
    free_ports,
    load,
    rss_kb,
    tools,
    tree,
)
from benchmarks.gateway.targets import MODEL, TARGETS, Target
from benchmarks.gateway.verdicts import Figures, verdicts

LOADS = ("unary", "burst", "paced", "open", "connect")
CHUNKS = 64
CHUNK_US = 10_000
WARM_S = 0.5


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of load."""

    kind: str
    """One of `LOADS`."""
    connections: int
    options: tuple[object, ...]
    extra_s: float = 0.0
    """Beyond the seconds of every cell."""

    @property
    def name(self) -> str:
        """As in the results, such as "unary 16"."""
        return f"{self.kind} {self.connections}"


def cells(connections: Sequence[int], loads: Sequence[str] = LOADS) -> list[Cell]:
    """These kinds of load at every number of connections, and what stands once."""
    streamed = ("-s", "-k", CHUNKS)
    made = [Cell("unary", count, ()) for count in connections]
    made += [Cell("burst", count, streamed) for count in connections]
    made += [Cell("paced", c, (*streamed, "-D", CHUNK_US), extra_s=1.0) for c in connections]
    made.append(Cell("open", 64, ("-r", 200), extra_s=0.5))
    made.append(Cell("connect", 256, ("-w", 0)))
    return [cell for cell in made if cell.kind in loads]


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m benchmarks.gateway")
    options.description = (__doc__ or "").partition("\n")[0]
    options.add_argument("--targets", default=",".join(TARGETS), help="of " + ", ".join(TARGETS))
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=1.5, help="of each cell")
    options.add_argument("--connections", default="1,16,64,256")
    options.add_argument("--loads", default=",".join(LOADS), help="of " + ", ".join(LOADS))
    options.add_argument("--quick", action="store_true", help="one round of short cells")
    options.add_argument("--json", type=Path, metavar="FILE", help="write every sample as a line")
    given = options.parse_args()
    names = [name for name in given.targets.split(",") if name]
    if unknown := [name for name in names if name not in TARGETS]:
        options.error(f"no such target: {unknown[0]}; there are {', '.join(TARGETS)}")
    rounds, seconds = (1, 0.5) if given.quick else (given.rounds, given.seconds)
    counts = [int(count) for count in given.connections.split(",")]
    loads = [kind for kind in given.loads.split(",") if kind]
    if unknown := [kind for kind in loads if kind not in LOADS]:
        options.error(f"no such load: {unknown[0]}; there are {', '.join(LOADS)}")
    wanted = cells(counts, loads)
    samples: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="vllm-console-bench-") as root:
        made = tools(Path(root))
        ports = free_ports(2)
        with backends(made, ports, "-m", MODEL):
            for number in range(rounds):
                for name in list(names) if number % 2 == 0 else names[::-1]:
                    try:
                        directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root))
                        samples += visit(made, name, directory, ports, wanted, seconds)
                    except Missing as reason:
                        print(f"{name} left out: {reason}", file=sys.stderr)
                        names.remove(name)
    if given.json is not None:
        given.json.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    figures = Figures(samples)
    show(figures, counts)
    return verdicts(figures)


def visit(
    made: Tools,
    name: str,
    directory: Path,
    workers: Sequence[int],
    wanted: Sequence[Cell],
    seconds: float,
) -> list[dict[str, Any]]:
    """One round of one target: a sample a cell."""
    samples = []
    with TARGETS[name](directory, workers) as target:
        idle = rss_kb(_pids(target))
        for cell in wanted:
            print(f"{name} {cell.name} …", end=" ", file=sys.stderr, flush=True)
            sample = dict(measure(made, target, cell, seconds))
            sample |= {"target": name, "cell": cell.name}
            sample |= {"idle_kb": idle, "start_s": target.start_s}
            print(
                f"{sample['rps']:.0f} requests/s, {sample['chunks_s']:.0f} chunks/s, "
                f"{sample['latency_p50'] / 1e3:.2f} ms",
                file=sys.stderr,
            )
            samples.append(sample)
    return samples


def measure(made: Tools, target: Target, cell: Cell, seconds: float) -> Mapping[str, Any]:
    """What the load generator counted, with the target's CPU seconds and memory."""
    pids = _pids(target)
    before = cpu_s(pids)
    counted = load(
        made,
        target.port,
        *("-c", cell.connections, "-d", seconds + cell.extra_s, "-w", WARM_S),
        *("-m", MODEL, "-K", target.key),
        *cell.options,
    )
    spent = cpu_s(pids) - before
    counted["cpu_s_per_1000"] = spent / max(1, counted["started"]) * 1000
    counted["cpu_us_per_chunk"] = spent / max(1, counted["chunks"]) * 1e6
    counted["rss_kb"] = rss_kb(pids)
    return counted


def show(figures: Figures, counts: Sequence[int]) -> None:
    """The tables: one row a target, one column a number of connections."""
    for title, kind, key, scale in (
        ("unary: requests/s", "unary", "rps", 1.0),
        ("unary: CPU s per 1,000 requests", "unary", "cpu_s_per_1000", 1.0),
        ("unary: added p50 (ms)", "unary", "latency_p50", 1e-3),
        ("unary: added p99 (ms)", "unary", "latency_p99", 1e-3),
        ("burst of 64 chunks: chunks/s", "burst", "chunks_s", 1.0),
        ("burst of 64 chunks: CPU µs per chunk", "burst", "cpu_us_per_chunk", 1.0),
        ("paced, 10 ms a chunk: chunks/s", "paced", "chunks_s", 1.0),
        ("paced, 10 ms a chunk: CPU µs per chunk", "paced", "cpu_us_per_chunk", 1.0),
        ("paced, 10 ms a chunk: added first byte p50 (ms)", "paced", "first_byte_p50", 1e-3),
        (
            "paced: added on the way of a chunk, p50 (ms)",
            "paced",
            "transit_p50",
            1e-3,
        ),
        (
            "paced: added on the way of a chunk, p99 (ms)",
            "paced",
            "transit_p99",
            1e-3,
        ),
    ):
        if not any(sample["cell"].startswith(f"{kind} ") for sample in figures.samples):
            continue
        added = " added " in f" {title} "
        rows: list[list[object]] = []
        for name in figures.targets:
            if added and name == "direct":
                continue
            values = [figures.value(name, f"{kind} {count}", key) for count in counts]
            if added:
                base = [figures.value("direct", f"{kind} {count}", key) for count in counts]
                values = [
                    None if v is None or b is None else v - b
                    for v, b in zip(values, base, strict=True)
                ]
            rows.append([name, *(None if v is None else v * scale for v in values)])
        print(f"\n{title}")
        table(rows, ["", *(f"{count}" for count in counts)])
    print("\n200 requests/s on 64 connections, a burst of 256 connections, memory, start")
    header = ["", "p50 (ms)", "p99 (ms)", "first of 256 p99 (ms)", "idle MB", "most MB", "start s"]
    table([_once(figures, name) for name in figures.targets], header)


def _once(figures: Figures, name: str) -> list[object]:
    def at(cell: str, key: str, scale: float) -> float | None:
        value = figures.value(name, cell, key)
        return None if value is None else value * scale

    most = max((sample["rss_kb"] for sample in figures.of(name)), default=0)
    return [
        name,
        at("open 64", "latency_p50", 1e-3),
        at("open 64", "latency_p99", 1e-3),
        at("connect 256", "first_p99", 1e-3),
        median([sample["idle_kb"] for sample in figures.of(name)]) / 1024,
        most / 1024,
        median([sample["start_s"] for sample in figures.of(name)]),
    ]


def _pids(target: Target) -> list[int]:
    return [] if target.pid is None else tree(target.pid)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        raise SystemExit(main())
