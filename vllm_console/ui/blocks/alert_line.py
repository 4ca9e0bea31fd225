"""The second line, there only when something is wrong."""

from __future__ import annotations

from vllm_console.snapshot import Alert
from vllm_console.ui.rows import Row, clip, ground, length
from vllm_console.ui.view import View


def ask(view: View) -> int:
    """One row when something is wrong, none otherwise."""
    return 1 if view.lost or alerts(view) else 0


def draw(view: View, width: int, height: int) -> list[Row]:
    """How many alerts, then as many of them as fit, critical ones first."""
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
    row = [("  " + glyph, ink), (number, ink + "!"), ("   ", "")]
    for i, alert in enumerate(found):
        item: Row = [
            (alert.subject, "value"),
            ("  " if alert.subject else "", ""),
            (alert.text, "text"),
        ]
        rest = len(found) - i - 1
        more = len(f"   +{rest} more") if rest else 0
        if i and length(row) + length(item) + 5 + more > width:
            row.append((f"   +{rest + 1} more", "label"))
            break
        item = clip(item, max(8, width - length(row) - more))
        row += [("   " if i else "", ""), *item]
    return [ground(row, width, ink)]


def alerts(view: View) -> list[Alert]:
    """The snapshot's alerts, critical ones first."""
    found = view.snapshot.alerts if view.snapshot else ()
    return sorted(found, key=lambda alert: alert.level != "crit")
