"""The second line, there only when something is wrong."""

from __future__ import annotations

from vllm_console.snapshot import Alert
from vllm_console.ui.rows import Row, clip, ground, length, spread
from vllm_console.ui.view import View, kind_of

_KEYS_FROM = 72
_WORDS_FROM = 96
"""Columns from which there is room for the keys beside the alerts, and for all their words."""


def ask(view: View) -> int:
    """One row when something is wrong, none otherwise."""
    return 1 if view.lost or alerts(view) else 0


def draw(view: View, width: int, height: int) -> list[Row]:
    """How many alerts, as many of them as fit, critical ones first, and what to press."""
    if view.lost:
        row: Row = [
            ("  ▲ no daemon  ", "warn!"),
            (view.lost, "text"),
            ("  · trying again", "label"),
        ]
        return [ground(row, width, "warn")]
    found = alerts(view)
    if not found:
        return []
    crit = found[0].level == "crit"
    glyph, ink = ("✖ ", "crit") if crit else ("▲ ", "warn")
    number = f"{len(found)} alert" + ("s" if len(found) > 1 else "")
    keys = _keys(view, " log" if width < _WORDS_FROM else " details and log")
    room = width - length(keys) - 5 if keys and width >= _KEYS_FROM else width
    row = [("  " + glyph, ink), (number, ink + "!"), ("   ", "")]
    for i, alert in enumerate(found):
        item: Row = [
            (alert.subject, "value"),
            ("  " if alert.subject else "", ""),
            (alert.text, "text"),
        ]
        rest = len(found) - i - 1
        more = len(f"   +{rest} more") if rest else 0
        if i and length(row) + length(item) + 5 + more > room:
            row.append((f"   +{rest + 1} more", "label"))
            break
        item = clip(item, max(8, room - length(row) - more))
        row += [("   " if i else "", ""), *item]
    if room < width:
        row = spread(row, [*keys, ("  ", "")], width)
    return [ground(row, width, ink)]


def _keys(view: View, details: str) -> Row:
    """What to press: go to the model of the next alert, or see more when one is there."""
    subjects = [key for alert in alerts(view) if (key := subject_key(view, alert)) is not None]
    keys: Row = []
    if view.selected in subjects:
        keys += [("↵", "engines!"), (details, "label")]
    if any(key != view.selected for key in subjects):
        go = " next" if keys else " goes there"
        keys += [("   " if keys else "", ""), ("!", "engines!"), (go, "label")]
    return keys


def subject_key(view: View, alert: Alert) -> str | None:
    """The key of the row that an alert is about: its worker's if that has one, else its model's."""
    for model in view.snapshot.models if view.snapshot else ():
        if alert.subject == model.name:
            return f"model/{model.name}"
        if any(worker.id == alert.subject for worker in model.workers):
            one = len(model.workers) == 1
            return f"model/{model.name}" if one else f"worker/{alert.subject}"
    return None


def next_subject(view: View) -> str | None:
    """The row to go to: of the alert after the selected one's, else of the first that has one."""
    keys = [key for alert in alerts(view) if (key := subject_key(view, alert)) is not None]
    keys = list(dict.fromkeys(keys))
    if view.selected in keys:
        return keys[(keys.index(view.selected) + 1) % len(keys)]
    return keys[0] if keys else None


def alerts(view: View) -> list[Alert]:
    """The snapshot's alerts that nobody has acknowledged, critical ones first."""
    every = view.snapshot.alerts if view.snapshot else ()
    found = [alert for alert in every if kind_of(alert) not in view.acknowledged]
    return sorted(found, key=lambda alert: alert.level != "crit")
