"""What the whole fleet gives those who ask: requests a second, and how long they wait."""

from __future__ import annotations

from vllm_console.snapshot import Quantiles
from vllm_console.ui.format import NONE, figure, rate
from vllm_console.ui.percentile import percentile
from vllm_console.ui.rows import Row, Span, left, right
from vllm_console.ui.view import View

_ROWS = (("TTFT", "ttft_s", "ms", 1e3), ("ITL", "itl_s", "ms", 1e3), ("E2E", "e2e_s", "s", 1.0))


def ask(view: View, width: int, height: int) -> int:
    """A header and a row a phase; nothing without models."""
    return 1 + len(_ROWS) if view.snapshot and view.snapshot.models else 0


def draw(view: View, width: int, height: int) -> list[Row]:
    """Requests a second, then P50, P95 and P99 over all models."""
    if view.snapshot is None or not view.snapshot.models:
        return []
    load = view.snapshot.load
    column = min(12, max(6, (width - 13) // 3))
    first = width - 3 * column
    per_s = rate(load.requests_per_s)
    label, unit = ("requests ", " /s") if first >= 18 else ("req/s ", "")
    title: list[Span] = [(label, "text"), (per_s, "dim" if per_s == NONE else "value")]
    title.append((left(unit, first - len(label) - len(per_s)), "dim"))
    rows: list[Row] = [[*title, *((right(t, column), "dim") for t in ("p50", "p95", "p99"))]]
    for phase, field, unit, scale in _ROWS:
        quantiles: Quantiles = getattr(load.latency, field)
        row: Row = [(left(phase, 8), "label"), (left(unit, first - 8), "dim")]
        row += [_percentile(quantiles, q, scale, column) for q in ("p50", "p95", "p99")]
        rows.append(row)
    return rows[:height]


def _percentile(quantiles: Quantiles, name: str, scale: float, width: int) -> Span:
    shown = percentile(quantiles, name)
    if shown is None:
        return right(NONE, width), "dim"
    ink = "text" if name == "p50" else "dim" if shown.thin else "value"
    return right(shown.mark + figure(shown.value * scale), width), ink
