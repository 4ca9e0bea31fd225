"""The goals of the gateway, held against what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common import median, table

RIVALS = ("vllm-router", "smg")
STREAMED_RATIO = 1.5
ADDED_P50_US = 300.0
BURST_P99_US = 500_000.0
LOST = ("failed", "refused", "incomplete")


class Figures:
    """All samples of a run, and the median of any of their values."""

    def __init__(self, samples: Sequence[Mapping[str, Any]]) -> None:
        self.samples = samples
        self.targets = list(dict.fromkeys(str(sample["target"]) for sample in samples))

    def of(self, target: str) -> list[Mapping[str, Any]]:
        """The samples of one target."""
        return [sample for sample in self.samples if sample["target"] == target]

    def value(self, target: str, cell: str, key: str) -> float | None:
        """The median over the rounds; `None` where that was not measured."""
        seen = [sample[key] for sample in self.of(target) if sample["cell"] == cell]
        return float(median(seen)) if seen else None

    def ratio(self, cell: str, key: str, other: str) -> float | None:
        """Ours as a multiple of another's."""
        mine, theirs = self.value("ours", cell, key), self.value(other, cell, key)
        return mine / theirs if mine is not None and theirs else None


def verdicts(figures: Figures) -> int:
    """Print each goal with its figure; 1 when our gateway lost an answer, otherwise 0."""
    rows: list[list[object]] = []
    for count in (16, 64, 256):
        for rival in RIVALS:
            more = figures.ratio(f"unary {count}", "rps", rival)
            less = figures.ratio(f"unary {count}", "cpu_s_per_1000", rival)
            rows.append(_row(f"requests/s, {count} connections, over {rival}", more, 1.0, True))
            rows.append(_row(f"CPU a request, {count} connections, of {rival}", less, 1.0, False))
        streamed = figures.ratio(f"burst {count}", "chunks_s", "vllm-router")
        name = f"streamed chunks/s, {count} connections, over vllm-router"
        rows.append(_row(name, streamed, STREAMED_RATIO, True))
    mine = figures.value("ours", "unary 1", "latency_p50")
    alone = figures.value("direct", "unary 1", "latency_p50")
    added = mine - alone if mine is not None and alone is not None else None
    rows.append(_row("added p50 at 1 connection (µs)", added, ADDED_P50_US, False))
    burst = figures.value("ours", "connect 256", "first_p99")
    rows.append(_row("first p99 of a burst of 256 (µs)", burst, BURST_P99_US, False))
    lost = {
        name: sum(sample[kind] for sample in figures.of(name) for kind in LOST)
        for name in figures.targets
    }
    print("\ngoals")
    table([row for row in rows if row[1] is not None], ["", "measured", "goal", ""])
    for name, count in lost.items():
        if count:
            said = {sample["refusal"] for sample in figures.of(name)} - {""}
            print(f"{name}: {count} requests without a whole answer {min(said, default='')[:200]}")
    return 1 if lost.get("ours") else 0


def _row(name: str, value: float | None, goal: float, more: bool) -> list[object]:
    if value is None:
        return [name, None, goal, ""]
    met = value >= goal if more else value <= goal
    return [name, value, f"{'≥' if more else '≤'} {goal:g}", "met" if met else "MISSED"]
