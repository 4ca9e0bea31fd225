"""Tokens generated a second upwards, prompt tokens a second downwards."""

from __future__ import annotations

from vllm_console.ui.blocks.mirrored import Side, mirrored
from vllm_console.ui.format import si, tokens
from vllm_console.ui.graphs import nice
from vllm_console.ui.rows import Row, known, quiet
from vllm_console.ui.view import View

_ROOMY = 50
"""From this width on there is room for the rate a GPU."""


def draw(view: View, width: int, height: int) -> list[Row]:
    """Both rates now, their maxima in the graph, and the graphs."""
    load = view.load
    if load is None:
        return quiet(width, height, *view.idle)
    entry = view.entry
    workers = [] if entry is None else [entry.worker] if entry.worker else entry.model.workers
    gpus = len({(w.node, g) for w in workers for g in w.gpus})

    def side(label: str, hue: str, metric: str) -> Side:
        values = view.trend(metric, width)
        top = max((v for v in values if v is not None), default=None)
        now = getattr(load, metric)
        each: Row = []
        if width >= _ROOMY and gpus and now is not None:
            each = [("  a GPU ", "dim"), (tokens(now / gpus), "label")]
        return Side(
            label,
            hue,
            (
                known(tokens(now), "value" if now else "label"),
                (" tok/s", "dim"),
                *each,
                ("  max ", "dim"),
                known(si(top), "label"),
            ),
            values,
            nice(top or 0),
        )

    return mirrored(
        side("generated", "performance", "generation_tokens_per_s"),
        side("prompt", "engines", "prompt_tokens_per_s"),
        width,
        height,
        None if view.sampled else view.idle,
    )
