"""The definitions of the numbers in the panel that has the focus; the arrows scroll them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll

from vllm_console.ui.blocks import definitions
from vllm_console.ui.lines import Lines
from vllm_console.ui.rows import Row
from vllm_console.ui.screens.modal import Modal
from vllm_console.ui.view import View


class Definitions(Modal):
    """One box, as wide as it may be read and as tall as there is room."""

    AUTO_FOCUS = "VerticalScroll"
    BINDINGS: ClassVar = [
        Binding("escape,question_mark,q,enter", "dismiss", "close"),
        Binding("j", "scroll(1)", "down"),
        Binding("k", "scroll(-1)", "up"),
    ]

    def __init__(self, title: str, blocks: Sequence[str]) -> None:
        super().__init__()
        self._title = title
        self._blocks = tuple(blocks)

    def compose(self) -> ComposeResult:
        """The rows inside a box that scrolls."""
        box = VerticalScroll(Lines(self._draw, classes="defined"), classes="box definitions")
        box.border_title = f"what {self._title} shows"
        box.border_subtitle = "↑↓ scroll · esc closes"
        yield box

    def _draw(self, view: View, width: int, height: int) -> list[Row]:
        return definitions.draw(self._blocks, width)

    def on_mount(self) -> None:
        """The rows are as many as their width makes them."""
        self._fit()

    def on_resize(self, event: events.Resize) -> None:
        """Another width breaks the lines elsewhere."""
        self.call_after_refresh(self._fit)

    def _fit(self) -> None:
        lines = self.query_one(Lines)
        rows = len(definitions.draw(self._blocks, lines.size.width or 60))
        lines.styles.height = rows

    def action_scroll(self, rows: int) -> None:
        """Scroll by so many rows."""
        self.query_one(VerticalScroll).scroll_relative(y=rows, animate=False)
