"""What held the selected model back, as shares of the last minutes, and what that means."""

from __future__ import annotations

from vllm_console.insight.definitions import DEFINITIONS
from vllm_console.snapshot import Limits, Model
from vllm_console.ui.format import age, percent
from vllm_console.ui.rows import Row, Span, head, meter, quiet, wrap
from vllm_console.ui.view import NOT_RECORDED, View

LABELS = {
    "kv-memory": "KV memory",
    "sequence-slots": "sequence slots",
    "token-budget": "token budget",
    "power": "power, heat",
    "compute": "compute",
    "network": "network",
    "none": "no limit",
    "idle": "idle",
}
_LABEL = 15
_FREE = ("none", "idle")
_MEANING = {d.name: d.meaning for d in DEFINITIONS["bottlenecks"]}
_TELLS = 5
"""Rows from which on it says what the greatest limit asks for."""
_OFTEN = 0.1
"""Share from which on a limit is worth a word."""


def ask(view: View, width: int, height: int) -> int:
    """A title, a row a limit that was met, and what the first of them asks for."""
    model = view.model
    if model is None:
        return 0
    return len(draw(view, width, 99)) if model.limits.shares else 3


def draw(view: View, width: int, height: int) -> list[Row]:
    """The limit that binds now, a meter a limit, the greatest first, and what to do about it."""
    model = view.model
    if model is None:
        return []
    limits = model.limits
    title = head("bottlenecks", width, *_now(limits))
    if not limits.shares:
        why = ("no sample in the last 5 min", "") if view.sampled else view.idle
        why = (NOT_RECORDED, "") if view.sampled and view.stored else why
        return [title, *quiet(width, max(0, min(height, 3) - 1), *why)]
    meaning = _meaning(model, width) if height >= _TELLS else []
    room = max(1, height - 1 - len(meaning))
    found = sorted(limits.shares.items(), key=lambda item: (item[0] in _FREE, -item[1]))
    rows = [_row(name, share, width) for name, share in found[:room]]
    return [title, *rows, *meaning][:height]


def _now(limits: Limits) -> list[Span]:
    if limits.now is None:
        return [("–", "dim")]
    glyph, ink = {"none": ("● ", "ok"), "idle": ("○ ", "dim")}.get(limits.now, ("▲ ", "warn!"))
    label = LABELS.get(limits.now, limits.now)
    now = (label, "label" if limits.now in _FREE else "value")
    return [(glyph, ink), now, (f"  {age(limits.seen_s)}", "dim")]


def _row(name: str, share: float, width: int) -> Row:
    free = name in _FREE
    text = "<1" if 0 < share < 0.005 else percent(share)
    return [
        (LABELS.get(name, name).ljust(_LABEL), "label"),
        *meter(share, width - _LABEL - 6, "dim" if free else "performance"),
        (f"{text:>5}", "label" if free else "value"),
        ("%", "dim"),
    ]


def _meaning(model: Model, width: int) -> list[Row]:
    """What the most frequent limit asks for; nothing where none is worth a word."""
    shares = {k: v for k, v in (model.limits.shares or {}).items() if k not in _FREE}
    name = max(shares, key=lambda key: shares[key], default=None)
    if name is None or shares[name] < _OFTEN:
        return []
    rows = wrap(_MEANING.get(LABELS.get(name, name), ""), width - 2, "label", 2)
    return [[("→ " if i == 0 else "  ", "label"), *row] for i, row in enumerate(rows)]
