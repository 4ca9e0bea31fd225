"""Requests finished a second, over time."""

from __future__ import annotations

from vllm_console.ui.format import rate, si
from vllm_console.ui.graphs import area, nice
from vllm_console.ui.rows import Row, head, known
from vllm_console.ui.view import View


def draw(view: View, width: int, height: int) -> list[Row]:
    """The rate now, its maximum in the graph, and the graph."""
    load = view.load
    if load is None:
        return []
    values = view.trend("requests_per_s", width)
    present = [v for v in values if v is not None]
    top = max(present, default=None)
    title = head(
        "requests",
        width,
        known(rate(load.requests_per_s)),
        (" /s", "dim"),
        ("  max ", "dim"),
        known(si(top), "label"),
    )
    if not present:
        return [title]
    return [title, *area(values, width, height - 1, nice(top or 0), "engines")]
