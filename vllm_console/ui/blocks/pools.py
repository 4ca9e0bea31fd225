"""How many workers each model has and wants, and how loaded they are."""

from __future__ import annotations

from vllm_console.snapshot import Model
from vllm_console.ui.format import NONE, duration, percent
from vllm_console.ui.rows import Row, left, level, right
from vllm_console.ui.states import look
from vllm_console.ui.view import View

_NUMBERS = 6 + 8 + 6
_TARGET, _COLD = 8, 10
_MORE_FROM = 50
"""Cells from which the target a worker and the time of a cold start are shown too."""


def ask(view: View, width: int, height: int) -> int:
    """A header and a row a model; nothing without models."""
    models = view.snapshot.models if view.snapshot else ()
    return 1 + len(models) if models else 0


def draw(view: View, width: int, height: int) -> list[Row]:
    """Ready of wanted with the direction, load, and the range; the selected model is always in.

    Where there is room, also requests a worker to scale by, and how long a cold start takes.
    """
    models = list(view.snapshot.models) if view.snapshot else []
    if not models:
        return []
    more = width >= _MORE_FROM
    name_width = width - _NUMBERS - (_TARGET + _COLD if more else 0)
    rows: list[Row] = [
        [
            (left("pools", name_width), "text"),
            (right("ready", 6), "dim"),
            (right("load", 8), "dim"),
            (right("range", 6), "dim"),
            *([(right("target", _TARGET) + right("cold", _COLD), "dim")] if more else []),
        ]
    ]
    room = max(1, height - 1)
    selected = view.model
    at = next((i for i, m in enumerate(models) if selected and m.name == selected.name), 0)
    start = max(0, min(at - room // 2, len(models) - room))
    limit = view.limit("load")
    for model in models[start : start + room]:
        share = load_of(model)
        arrow, arrow_ink = _direction(model)
        alive = model.wanted > 0 or model.ready > 0
        rows.append(
            [
                (left(model.name, name_width - 1) + " ", "text" if alive else "label"),
                (right(f"{model.ready}/{model.wanted}", 5), "value" if alive else "dim"),
                (arrow, arrow_ink),
                (right(percent(share), 7), level(share, limit.warn, limit.crit)),
                ("%" if share is not None else " ", "dim"),
                (right(f"{model.scale.min}–{model.scale.max}", 6), "label"),
                *(_scaling(model) if more else []),
            ]
        )
    return rows


def _scaling(model: Model) -> Row:
    target = model.scale.target
    number, unit = duration(model.autoscale.cold_start_s)
    return [
        (right(NONE if target is None else f"{target:g}", _TARGET), "label" if target else "dim"),
        (right(number, _COLD - len(unit) - 1 if unit else _COLD), "label" if unit else "dim"),
        (f" {unit}" if unit else "", "dim"),
    ]


def load_of(model: Model) -> float | None:
    """Requests running and waiting over what the ready workers are meant to hold.

    That is `scale.target` a worker, or max_num_seqs where the fleet file sets no target.
    """
    each = model.scale.target or model.engine.max_num_seqs
    if not each or not model.ready or model.load.running is None:
        return None
    return (model.load.running + (model.load.waiting or 0)) / (each * model.ready)


def _direction(model: Model) -> tuple[str, str]:
    group = look(model.state).group
    if group == "failed":
        return "✖", "crit"
    if group == "asleep":
        return look(model.state).glyph, look(model.state).ink
    if model.wanted > model.ready:
        return "↑", "warn!"
    return ("↓", "label") if model.wanted < model.ready else (" ", "")
