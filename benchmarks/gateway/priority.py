"""What an overload by low-priority requests does to high-priority ones.

    python -m benchmarks.gateway.priority [--seconds 10] [--overload 3]

Two fake workers with real limits: 32 requests at a time each, a prefill before the first chunk, a
pace after it. High arrives at a fifth of what they can do, first alone, then beside low at three
times what they can do. Exit code 1 when high's first chunk takes longer than promised, or low
starves.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import threading
from pathlib import Path
from typing import Any

from benchmarks.common import table
from benchmarks.gateway.ours import standalone
from benchmarks.gateway.processes import TARGET_CORE, backends, free_ports, load, tools
from benchmarks.gateway.targets import MODEL
from vllm_console.history.account_rows import Terms

SLOTS = 32
WORKERS = 2
PREFILL_US = 100_000
PACE_US = 50_000
CHUNKS = 8
SERVICE_S = (PREFILL_US + (CHUNKS - 1) * PACE_US) / 1e6
CAPACITY = WORKERS * SLOTS / SERVICE_S
"""Requests a second that the workers can do."""
HIGH_SHARE = 0.2
GOAL = 1.5
"""P95 of high's first chunk under overload, as a multiple of it alone."""
LOW_SHARE = 0.4
"""Of the capacity, at least, that low still gets; high leaves 80 %."""


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m benchmarks.gateway.priority")
    options.description = (__doc__ or "").partition("\n")[0]
    options.add_argument("--seconds", type=float, default=10.0, help="of each of the two loads")
    options.add_argument("--overload", type=float, default=3.0, help="low, of the capacity")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="vllm-console-bench-") as root:
        made = tools(Path(root))
        ports = free_ports(WORKERS)
        limits = ("-s", str(SLOTS), "-f", str(PREFILL_US), "-m", MODEL)
        with (
            backends(made, ports, *limits),
            standalone(Path(root), {MODEL: ports}, core=TARGET_CORE, slots=SLOTS) as gateway,
        ):
            low_key = gateway.key("low", Terms(max_class=2))
            shared: tuple[object, ...] = ("-s", "-k", CHUNKS, "-D", PACE_US, "-m", MODEL)
            shared += ("-d", given.seconds)

            def high() -> dict[str, Any]:
                rate = ("-c", 256, "-r", HIGH_SHARE * CAPACITY, "-H", "X-Priority: high", "-w", 2)
                return load(made, gateway.port, *shared, *rate, "-K", gateway.secret)

            alone = high()
            low: dict[str, Any] = {}

            def flood() -> None:
                rate = ("-c", 4096, "-r", given.overload * CAPACITY, "-w", 3)
                low.update(load(made, gateway.port, *shared, *rate, "-K", low_key))

            flooding = threading.Thread(target=flood)
            flooding.start()
            beside = high()
            flooding.join()
    ratio = beside["first_byte_p95"] / max(1.0, alone["first_byte_p95"])
    header = ["", "high alone", "high under overload", "low"]
    all_three = (alone, beside, low)
    rows: list[list[object]] = [
        ["offered (requests/s)", *_offered(given.overload)],
        ["served (requests/s)", *(seen["rps"] for seen in all_three)],
        ["refused", *(seen["refused"] for seen in all_three)],
        ["lost", *(seen["failed"] + seen["incomplete"] for seen in all_three)],
        ["first chunk p50 (ms)", *(seen["first_byte_p50"] / 1e3 for seen in all_three)],
        ["first chunk p95 (ms)", *(seen["first_byte_p95"] / 1e3 for seen in all_three)],
        ["first chunk p99 (ms)", *(seen["first_byte_p99"] / 1e3 for seen in all_three)],
    ]
    table(rows, header)
    used = (low["rps"] + beside["rps"]) / CAPACITY
    print(f"high's first chunk, p95: {ratio:.2f} of alone (goal ≤ {GOAL:g})")
    print(f"low is served {low['rps'] / CAPACITY:.0%} of the capacity (goal ≥ {LOW_SHARE:.0%})")
    print(f"capacity {CAPACITY:.0f} requests/s, {used:.0%} of it used")
    return 0 if ratio <= GOAL and low["rps"] >= LOW_SHARE * CAPACITY else 1


def _offered(overload: float) -> tuple[float, float, float]:
    return HIGH_SHARE * CAPACITY, HIGH_SHARE * CAPACITY, overload * CAPACITY


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        raise SystemExit(main())
