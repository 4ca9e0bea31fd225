"""What became of the selected model's requests: how many, how long, how they ended."""

from __future__ import annotations

from vllm_console.snapshot import Load, Quantiles
from vllm_console.ui.format import NONE, count, figure, percent, rate, si
from vllm_console.ui.percentile import percentile
from vllm_console.ui.rows import (
    Row,
    Span,
    cell,
    clip,
    half_widths,
    head,
    known,
    left,
    length,
    pair,
    right,
    stack,
)
from vllm_console.ui.view import View

_ENDS = {"stop": "performance", "length": "engines5", "abort": "dim", "error": "crit"}
"""Finish reasons and their inks; any other is drawn like an abort."""


def ask(view: View, width: int, height: int) -> int:
    """A title, a row of rates, the latency of whole requests, and how they ended."""
    return 6


def draw(view: View, width: int, height: int) -> list[Row]:
    """Requests of the window, rate and errors, mean and percentiles of E2E, finish reasons."""
    load = view.load
    if load is None:
        return []
    total = None if load.finish_reasons is None else sum(load.finish_reasons.values())
    total = load.latency.e2e_s.count if total is None and view.sampled else total
    window = f" in {load.latency.window_s:.0f} s" if total is not None else ""
    one, two = half_widths(width)
    return [
        head("requests", width, known(count(total)), (window, "dim"), *_all(load)),
        pair(
            cell("a second", rate(load.requests_per_s), "", "value", one),
            cell("errors", count(load.errors), "", "crit!" if load.errors else "value", two),
            width,
        ),
        *_latency(load.latency.e2e_s, width),
        *_ends(load, view.entry is not None and view.entry.worker is not None, width),
    ][:height]


def _all(load: Load) -> list[Span]:
    """How many there were since the counting began."""
    return (
        []
        if load.requests_total is None
        else [("  all ", "dim"), (si(load.requests_total), "label")]
    )


def _latency(e2e: Quantiles, width: int) -> list[Row]:
    """Mean and percentiles of the whole request, in seconds."""
    column = min(12, max(6, (width - 5) // 4))
    first = width - 4 * column
    title: Row = [(left("E2E s", first), "label")]
    title += [(right(name, column), "dim") for name in ("mean", "p50", "p95", "p99")]
    mean = NONE if e2e.mean is None else figure(e2e.mean)
    row: Row = [(" " * first, ""), known(right(mean, column), "text")]
    if e2e.mean is None:
        row[-1] = (right(NONE, column), "dim")
    for name in ("p50", "p95", "p99"):
        shown = percentile(e2e, name)
        text = NONE if shown is None else shown.mark + figure(shown.value)
        ink = "dim" if shown is None or shown.thin else "text" if name == "p50" else "value"
        row.append((right(text, column), ink))
    return [title, row]


def _ends(load: Load, worker: bool, width: int) -> list[Row]:
    """A bar of the finish reasons and their shares; a dashed line while none finished."""
    reasons = {k: v for k, v in (load.finish_reasons or {}).items() if v > 0}
    total = sum(reasons.values())
    if not total:
        why = "no request finished yet" if load.finish_reasons is not None else ""
        if worker:
            why = "told for the whole model: select its row"
        return [stack([], width), clip([(why, "dim")], width)]
    found = sorted(reasons.items(), key=lambda item: -item[1])
    parts: list[Row] = []
    for name, number in found:
        share = number / total
        text = "<1" if 0 < share < 0.005 else percent(share)
        mark = ("■ ", _ENDS.get(name, "dim"))
        parts.append([mark, (f"{name} ", "label"), (text, "value"), ("%", "dim")])
    gap = "  " if sum(length(part) + 2 for part in parts) - 2 <= width else " "
    legend = [span for part in parts for span in ((gap, ""), *part)][1:]
    return [
        stack([(number, _ENDS.get(name, "dim")) for name, number in found], width),
        clip(legend, width),
    ]
