"""Tokens generated a second by the whole fleet, over time."""

from __future__ import annotations

from vllm_console.ui.format import si, tokens
from vllm_console.ui.graphs import area, nice
from vllm_console.ui.rows import Row, head, known, quiet
from vllm_console.ui.trends import total
from vllm_console.ui.view import View


def draw(view: View, width: int, height: int) -> list[Row]:
    """The rate now, its maximum in the graph, and the graph."""
    if view.snapshot is None or not view.snapshot.models:
        return []
    now = total(view.snapshot.models).generation_tokens_per_s
    values = view.trends.tail("fleet", "generation_tokens_per_s", width * 2)
    present = [v for v in values if v is not None]
    top = max(present, default=None)
    title = head(
        "fleet",
        width,
        known(tokens(now)),
        (" tok/s", "dim"),
        ("  max ", "dim"),
        known(si(top), "label"),
    )
    if not present:
        return [title, *quiet(width, height - 1, "no worker serves yet")]
    return [title, *area(values, width, height - 1, nice(top or 0), "scaling")]
