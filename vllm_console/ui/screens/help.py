"""All keys that act on the screen below, from its live bindings."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding
from textual.screen import Screen

from vllm_console.ui.application import application
from vllm_console.ui.key_line import live_keys
from vllm_console.ui.lines import Lines
from vllm_console.ui.panel import Panel
from vllm_console.ui.rows import Row, beside, clip, length
from vllm_console.ui.screens.modal import Modal
from vllm_console.ui.states import GROUPS
from vllm_console.ui.view import View

_TWO_COLUMNS = 112
_GUTTER = 4
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
    """A row a key, then what the signs mean; in two columns where there is room for them."""
    if width >= _TWO_COLUMNS:
        half = (width - _GUTTER) // 2
        many = (len(keys) + len(_signs(0)) + 2) // 2
        left, right = keys[:many], keys[many:]
        column = _column(right)
        second = [*_rows(right, half, column), *([[]] if right else []), *_signs(column)]
        return beside(_rows(left, half, _column(left)), second, (half, half), _GUTTER)
    column = _column(keys)
    return [*_rows(keys, width, column), [], *_signs(column)]


def _column(keys: list[tuple[str, str]]) -> int:
    return max((length([(key, "")]) for key, _ in keys), default=5)


def _rows(keys: list[tuple[str, str]], width: int, column: int) -> list[Row]:
    return [
        clip([(key.rjust(column), "engines!"), ("  ", ""), (text, "text")], width)
        for key, text in keys
    ]


def _signs(column: int) -> list[Row]:
    rows: list[Row] = [
        [
            (look.glyph.rjust(column), look.ink),
            ("  ", ""),
            (look.group.ljust(9), "text"),
            (SIGNS[look.group], "label"),
        ]
        for look in GROUPS
    ]
    dim: Row = [("dim".rjust(column), "dim"), ("  ", "")]
    return [*rows, [], [*dim, ("too few requests for a steady P95 or P99", "label")]]


class Help(Modal):
    """The help box: as tall as what it holds, or scrolled."""

    BINDINGS: ClassVar = [
        Binding("escape,q,enter", "dismiss", "close"),
        Binding("down,j", "scroll(1)", "down"),
        Binding("up,k", "scroll(-1)", "up"),
        Binding("pagedown,space", "scroll(12)", "a page down"),
        Binding("pageup", "scroll(-12)", "a page up"),
        Binding("question_mark", "definitions", "what the numbers mean"),
    ]

    def __init__(self, below: Screen[None]) -> None:
        super().__init__()
        self._top = 0
        self._keys = live_keys(below, hidden=True)  # type: ignore[arg-type]
        focused = below.focused
        self._panel = focused.spec if isinstance(focused, Panel) else None

    def compose(self) -> ComposeResult:
        """One box as tall as its rows."""
        box = Lines(self._draw, classes="box")
        box.border_title = "keys"
        box.border_subtitle = "esc closes"
        if self._panel is not None:
            box.border_subtitle = f"? what {self._panel.title} shows · esc closes"
        yield box

    def _draw(self, view: View, width: int, height: int) -> list[Row]:
        rows = draw(self._keys, width)
        self._top = max(0, min(self._top, len(rows) - height))
        return rows[self._top :]

    def on_mount(self) -> None:
        """The box is as tall as what it holds, and wider where that would be too tall."""
        box = self.query_one(Lines)
        width, rows = 60, len(draw(self._keys, 60))
        if rows + 2 > self.size.height * 0.9 and self.size.width >= _TWO_COLUMNS + 8:
            width = _TWO_COLUMNS + 4
            rows = len(draw(self._keys, width))
            box.styles.width = width + 6
            box.styles.max_width = self.size.width - 2
        box.styles.height = rows + 2
        if rows + 2 > self.size.height * 0.9:
            box.border_subtitle = f"↓ more · {box.border_subtitle}"

    def action_scroll(self, rows: int) -> None:
        """See the rest where not all fits."""
        self._top = max(0, self._top + rows)
        box = self.query_one(Lines)
        box.show(application(self).view)

    def on_mouse_scroll_down(self) -> None:
        """The wheel scrolls."""
        self.action_scroll(3)

    def on_mouse_scroll_up(self) -> None:
        """The wheel scrolls."""
        self.action_scroll(-3)

    def action_definitions(self) -> None:
        """Go on to what the panel that has the focus shows, by its formulas; or close."""
        panel = self._panel
        app = self.app
        self.dismiss()
        if panel is not None:
            from vllm_console.ui.screens.definitions import Definitions

            app.push_screen(Definitions(panel.title, [placed.block for placed in panel.blocks]))
