"""The last lines: what happened to the fleet, newest first."""

from __future__ import annotations

from vllm_console.ui.format import clock
from vllm_console.ui.rows import Row, clip, left
from vllm_console.ui.states import LEVELS
from vllm_console.ui.view import View

_SUBJECT = 18


def draw(view: View, width: int, height: int) -> list[Row]:
    """One row an event: time, level, subject, text."""
    events = view.snapshot.events if view.snapshot else ()
    rows: list[Row] = []
    for event in events[:height]:
        glyph, ink = LEVELS.get(event.level, LEVELS["info"])
        loud = event.level in ("warn", "crit")
        rows.append(
            clip(
                [
                    (clock(event.at, view.zone) + "  ", "dim"),
                    (glyph + " ", ink),
                    (left(event.subject, _SUBJECT), ink if event.level == "crit" else "text"),
                    ("  ", ""),
                    (event.text, "text" if loud else "label"),
                ],
                width,
            )
        )
    return rows or [[("no events yet", "dim")]]
