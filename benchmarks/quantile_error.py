"""How far percentiles of histograms are from exact ones: vLLM's own buckets and those we ask for.

python benchmarks/quantile_error.py [--requests 20000] [--windows 12]
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import table

from vllm_console.fleet.command import HISTOGRAM_BUCKETS
from vllm_console.telemetry.window import bracket, quantile

Load = Callable[[random.Random], float]
LEVELS = (0.50, 0.95, 0.99)
GOAL = 0.035

DEFAULT = {
    "time_to_first_token": (
        0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
        1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
    ),
    "inter_token_latency": (
        0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75,
        1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    ),
    "request_latency": (
        0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
        120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
    ),
}  # fmt: skip
"""vllm/v1/metrics/buckets.py of vLLM 0.32."""


def lognormal(middle: float, spread: float) -> Load:
    """Seconds around a median; `spread` is the deviation of their logarithm."""
    return lambda rng: rng.lognormvariate(math.log(middle), spread)


def mixed(share: float, one: Load, other: Load) -> Load:
    """`share` of the requests like `one`, the rest like `other`."""
    return lambda rng: one(rng) if rng.random() < share else other(rng)


LOADS: tuple[tuple[str, str, Load], ...] = (
    ("time_to_first_token", "TTFT chat, 180 ms", lognormal(0.18, 0.7)),
    ("time_to_first_token", "TTFT small model, 25 ms", lognormal(0.025, 0.5)),
    (
        "time_to_first_token",
        "TTFT 60 % prefix hits, 40 / 700 ms",
        mixed(0.6, lognormal(0.04, 0.25), lognormal(0.7, 0.35)),
    ),
    ("time_to_first_token", "TTFT overload, 1.6 s", lognormal(1.6, 1.2)),
    (
        "inter_token_latency",
        "ITL 8 ms, 1 % stalls",
        mixed(0.99, lognormal(0.008, 0.15), lognormal(0.2, 0.4)),
    ),
    (
        "inter_token_latency",
        "ITL 22 ms, 2 % stalls",
        mixed(0.98, lognormal(0.022, 0.2), lognormal(0.15, 0.5)),
    ),
    ("inter_token_latency", "ITL full batch, 45 ms", lognormal(0.045, 0.35)),
    ("request_latency", "E2E chat, 6 s", lognormal(6.0, 0.8)),
    ("request_latency", "E2E short answers, 120 ms", lognormal(0.12, 0.4)),
    ("request_latency", "E2E agents, 25 s", lognormal(25.0, 1.0)),
    ("request_latency", "queue, idle fleet, 2 ms", lognormal(0.002, 0.8)),
    (
        "request_latency",
        "queue, 10 % wait 1.5 s",
        mixed(0.9, lognormal(0.002, 0.8), lognormal(1.5, 0.8)),
    ),
)


def exact(values: Sequence[float], q: float) -> float:
    """The `q`-quantile of sorted values, between neighbours by the line through them."""
    place = q * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def cumulative(values: Sequence[float], bounds: Sequence[float]) -> list[float]:
    """The buckets a histogram with these bounds has after these values."""
    each = [0] * (len(bounds) + 1)
    for value in values:
        each[bisect_left(bounds, value)] += 1
    return [float(count) for count in accumulate(each)]


def main() -> None:
    """Prints the table; exit 1 where our buckets miss the goal."""
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--requests", type=int, default=20_000, help="in a window")
    made.add_argument("--windows", type=int, default=12)
    args = made.parse_args()
    rng = random.Random(7)
    rows: list[list[object]] = []
    worst = 0.0
    for family, name, load in LOADS:
        kinds = (DEFAULT[family], tuple(HISTOGRAM_BUCKETS[family]))
        errors: list[list[list[float]]] = [[[] for _ in LEVELS] for _ in kinds]
        brackets = 0
        for _ in range(args.windows):
            values = sorted(load(rng) for _ in range(args.requests))
            for kind, bounds in enumerate(kinds):
                counts = cumulative(values, bounds)
                for level, q in enumerate(LEVELS):
                    guess = quantile(q, bounds, counts)
                    assert guess is not None
                    errors[kind][level].append(guess / exact(values, q) - 1)
                    brackets += kind == 0 and bracket(q, bounds, counts) is not None
        middle = [[median(one) for one in per] for per in errors]
        worst = max(worst, *(abs(error) for error in middle[1]))
        share = brackets / (len(LEVELS) * args.windows)
        rows.append([name, *(f"{error:+.1%}" for per in middle for error in per), f"{share:.0%}"])
    header = ["load", *(f"{whose} p{q * 100:.0f}" for whose in ("vLLM", "ours") for q in LEVELS)]
    table(rows, [*header, "vLLM drawn as a bracket"])
    print(
        f"median signed error of {args.windows} windows of {args.requests} requests; "
        f"ours at worst {worst:.1%} (goal {GOAL:.1%})"
    )
    sys.exit(worst > GOAL)


if __name__ == "__main__":
    main()
