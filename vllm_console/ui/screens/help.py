"""All keys that act on the screen below, from its live bindings."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding
from textual.screen import ModalScreen, Screen

from vllm_console.ui.key_line import live_keys
from vllm_console.ui.lines import Lines
from vllm_console.ui.rows import Row, length
from vllm_console.ui.states import GROUPS
from vllm_console.ui.view import View

SIGNS = {
    "ready": "serves requests",
    "loading": "queued, starting, or backing off",
    "ending": "draining or stopping",
    "stalled": "answers, but its engine does not move",
    "asleep": "alive, its weights off the GPU",
    "failed": "ended by a cause; enter shows it",
    "stopped": "not running and not wanted",
}


def draw(keys: list[tuple[str, str]], width: int) -> list[Row]:
    """A row a key, then what the signs mean."""
    column = max((length([(key, "")]) for key, _ in keys), default=0)
    rows: list[Row] = [
        [(key.rjust(column), "engines!"), ("  ", ""), (text, "text")] for key, text in keys
    ]
    rows.append([])
    rows += [
        [
            (look.glyph.rjust(column), look.ink),
            ("  ", ""),
            (look.group.ljust(9), "text"),
            (SIGNS[look.group], "label"),
        ]
        for look in GROUPS
    ]
    return [
        *rows,
        [],
        [
            ("dim".rjust(column), "dim"),
            ("  ", ""),
            ("too few requests for a steady P95 or P99", "label"),
        ],
    ]


class Help(ModalScreen[None]):
    """The help box; any key closes it."""

    CSS_PATH = "modal.tcss"
    BINDINGS: ClassVar = [
        Binding("escape,question_mark,q,enter", "dismiss", "close"),
    ]

    def __init__(self, below: Screen[None]) -> None:
        super().__init__()
        self._keys = live_keys(below, hidden=True)  # type: ignore[arg-type]

    def compose(self) -> ComposeResult:
        """One box as tall as its rows."""
        box = Lines(self._draw, classes="box")
        box.border_title = "keys"
        box.border_subtitle = "esc closes"
        yield box

    def _draw(self, view: View, width: int, height: int) -> list[Row]:
        return draw(self._keys, width)

    def on_mount(self) -> None:
        """The box is as tall as what it holds."""
        self.query_one(Lines).styles.height = len(draw(self._keys, 60)) + 2
