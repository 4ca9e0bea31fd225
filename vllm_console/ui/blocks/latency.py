"""The latency table: P50, P95, P99 and the target of each phase of a request."""

from __future__ import annotations

from vllm_console.snapshot import Latency, Quantiles
from vllm_console.ui.format import NONE, figure
from vllm_console.ui.percentile import percentile
from vllm_console.ui.rows import Row, left, right
from vllm_console.ui.view import View

_ROWS = (
    ("TTFT", "ttft_s", "ttft_p95_s", 1e3),
    ("ITL", "itl_s", "itl_p95_s", 1e3),
    ("E2E", "e2e_s", "e2e_p95_s", 1.0),
    ("queue", "queue_s", "", 1e3),
    ("TPOT", "tpot_s", "", 1e3),
    ("prefill", "prefill_s", "", 1e3),
    ("decode", "decode_s", "", 1.0),
)
"""Label, field of Latency, field of Slo, and units a second; the most telling rows first."""


def ask(view: View, width: int, height: int) -> int:
    """A header and a row a phase."""
    return 1 + len(_ROWS)


def draw(view: View, width: int, height: int) -> list[Row]:
    """A header with the window's length and as many rows as the height allows."""
    load, model = view.load, view.model
    if load is None or model is None:
        return []
    column = min(12, max(6, (width - 11) // 4))
    first = width - 4 * column
    window = f"{load.latency.window_s:.0f} s" if _told(load.latency) else ""
    title = left(f"last {window}" if window and first >= 20 else window, first + column - 12)
    rows: list[Row] = [
        [
            ("latency  ", "text"),
            (title, "dim"),
            ("p50", "dim"),
            *((right(t, column), "dim") for t in ("p95", "p99", "SLO")),
        ]
    ]
    for label, field, aim, scale in _ROWS[: max(0, height - 1)]:
        quantiles: Quantiles = getattr(load.latency, field)
        slo = getattr(model.slo, aim) if aim else None
        row: Row = [(left(label, 8), "label"), (left("ms" if scale > 1 else "s", first - 8), "dim")]
        for name in ("p50", "p95", "p99"):
            row.append(_percentile(quantiles, name, scale, slo, column))
        target = (NONE, "dim") if slo is None else (figure(slo * scale), "label")
        row.append((right(target[0], column), target[1]))
        rows.append(row)
    return rows


def _told(latency: Latency) -> bool:
    return latency.ttft_s.p50 is not None or latency.itl_s.p50 is not None


def _percentile(
    quantiles: Quantiles, name: str, scale: float, slo: float | None, width: int
) -> tuple[str, str]:
    """One percentile: a bracket where its bucket is wide, dim where it comes of few events."""
    shown = percentile(quantiles, name)
    if shown is None:
        return right(NONE, width), "dim"
    ink = "text" if name == "p50" else "dim" if shown.thin else "value"
    if ink == "value" and shown.over(slo):
        ink = "crit!" if slo is not None and shown.over(1.5 * slo) else "warn!"
    return right(shown.mark + figure(shown.value * scale), width), ink
