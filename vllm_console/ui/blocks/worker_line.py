"""The first line of the worker screen: who it is and how it is."""

from __future__ import annotations

from vllm_console.ui.blocks.fleet_line import time_of
from vllm_console.ui.format import NONE, percent, tokens
from vllm_console.ui.rows import Row, known, spread
from vllm_console.ui.states import look
from vllm_console.ui.view import View


def draw(view: View, width: int, height: int) -> list[Row]:
    """Name, state, source, and what it does now."""
    model, worker, load = view.model, view.worker, view.load
    if model is None or view.snapshot is None:
        return [[("vllm-console", "value")]]
    state = worker.state if worker else model.state
    shown = look(state)
    left: Row = [
        (worker.id if worker else model.name, "engines!"),
        ("   " + shown.glyph + " ", shown.ink),
        (state, "label" if shown.ink == "ok" else shown.ink),
        ("   ", ""),
        (model.source, "label"),
    ]
    right: Row = []
    if load is not None and load.running is not None and width >= 100:
        right += [known(str(load.running)), (" running   ", "dim")]
        right += [
            known(str(NONE if load.waiting is None else load.waiting)),
            (" waiting   ", "dim"),
        ]
        right += [known(percent(load.kv_cache_usage)), ("% KV   ", "dim")]
        right += [known(tokens(load.generation_tokens_per_s)), (" tok/s   ", "dim")]
    return [spread(left, [*right, *time_of(view)], width)]
