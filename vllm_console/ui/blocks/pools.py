"""How many workers each model has and wants, and how loaded they are."""

from __future__ import annotations

from vllm_console.snapshot import Model
from vllm_console.ui.format import percent
from vllm_console.ui.rows import Row, left, level, right
from vllm_console.ui.states import look
from vllm_console.ui.view import View

_NUMBERS = 6 + 8 + 6


def ask(view: View, width: int, height: int) -> int:
    """A header and a row a model; nothing without models."""
    models = view.snapshot.models if view.snapshot else ()
    return 1 + len(models) if models else 0


def draw(view: View, width: int, height: int) -> list[Row]:
    """Ready of wanted with the direction, load, and the range; the selected model is always in."""
    models = list(view.snapshot.models) if view.snapshot else []
    if not models:
        return []
    name_width = width - _NUMBERS
    rows: list[Row] = [
        [
            (left("pools", name_width), "text"),
            (right("ready", 6), "dim"),
            (right("load", 8), "dim"),
            (right("range", 6), "dim"),
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
            ]
        )
    return rows


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
    if model.wanted > model.ready:
        return "↑", "warn!"
    return ("↓", "label") if model.wanted < model.ready else (" ", "")
