"""Which batching policy is active for each model, and the limits it holds to now."""

from __future__ import annotations

from vllm_console.snapshot import Model
from vllm_console.ui.format import count
from vllm_console.ui.rows import Row, cut, left, right
from vllm_console.ui.view import View

_POLICY, _BATCH, _QUEUE = 11, 6, 6
_LATER = ("adaptive", "predictive")


def ask(view: View, width: int, height: int) -> int:
    """A header, a row a model, and what this version lacks; nothing for the past: not recorded."""
    models = view.snapshot.models if view.snapshot and not view.stored else ()
    return 2 + len(models) if models else 0


def draw(view: View, width: int, height: int) -> list[Row]:
    """Policy, requests a worker's batch holds, requests that may wait; the selected one is in."""
    models = list(view.snapshot.models) if view.snapshot else []
    if not models:
        return []
    name = width - _POLICY - _BATCH - _QUEUE
    rows: list[Row] = [
        [
            (left("strategies", name + _POLICY), "text"),
            (right("batch", _BATCH) + right("queue", _QUEUE), "dim"),
        ]
    ]
    later = height > 3 and not any(model.batching.policy in _LATER for model in models)
    room = max(1, height - 1 - later)
    chosen = view.model
    at = next((i for i, m in enumerate(models) if chosen and m.name == chosen.name), 0)
    start = max(0, min(at - room // 2, len(models) - room))
    rows += [_row(model, name, model is chosen) for model in models[start : start + room]]
    if later:
        rows.append([(cut(f"not yet: {', '.join(_LATER)}", width), "dim")])
    return rows[:height]


def _row(model: Model, name: int, chosen: bool) -> Row:
    found = model.batching
    ink = "value" if chosen else "text" if model.ready else "label"
    queue = "any" if found.queue_limit is None else count(found.queue_limit)
    plain = found.policy == "continuous"
    return [
        (left(model.name, name - 1) + " ", ink),
        (left(found.policy, _POLICY), "label" if plain else "batching"),
        (right(count(found.limit), _BATCH), "dim" if found.limit is None else "value"),
        (right(queue, _QUEUE), "label"),
    ]
