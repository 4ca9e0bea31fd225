"""The widget that puts rows on the screen: it paints only the lines that changed."""

from __future__ import annotations

from collections.abc import Callable

from rich.segment import Segment
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from vllm_console.ui.application import application
from vllm_console.ui.rows import Row
from vllm_console.ui.theme import Inks
from vllm_console.ui.view import View

Draw = Callable[[View, int, int], list[Row]]
"""Rows from (view, width, height), both in cells; a pure function."""

_CONTROL = dict.fromkeys([*range(32), *range(127, 160), 0x2028, 0x2029], " ")
"""Control characters from a model's name or a log line never reach the terminal."""
_CONTROL |= dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], "")


def printable(text: str) -> str:
    """Text without anything that a terminal would obey."""
    return text if text.isprintable() else text.translate(_CONTROL)


class Lines(Widget):
    """Rows made in one go by `draw` and handed out by `render_line`."""

    DEFAULT_CSS = "Lines { height: 1; width: 1fr; }"
    ALLOW_SELECT = False

    def __init__(
        self,
        draw: Draw | None = None,
        *,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self._draw = draw
        self._view = View()
        self._rows: list[Row] | None = None
        self._strips: list[Strip | None] = []
        self._drawn_for: tuple[int, int, int] | None = None

    def draw(self, view: View, width: int, height: int) -> list[Row]:
        """The rows to show."""
        return [] if self._draw is None else self._draw(view, width, height)

    def show(self, view: View) -> None:
        """Take a new view and repaint the lines that differ; nothing while not displayed."""
        self._view = view
        width, height = self.size
        if not width or not height or not self.is_on_screen:
            self._rows = None
            return
        old, key = self._rows, self._key
        self._rows = rows = self.draw(view, width, height)[:height]
        if old is None or key != self._drawn_for:
            self._strips = [None] * len(rows)
            self._drawn_for = key
            self.refresh()
            return
        shown = max(len(old), len(rows))
        self._strips = [*self._strips[: len(rows)], *([None] * (len(rows) - len(self._strips)))]
        changed: list[Region] = []
        for y in range(shown):
            if y >= len(rows) or y >= len(old) or old[y] != rows[y]:
                if y < len(rows):
                    self._strips[y] = None
                changed.append(Region(0, y, width, 1))
        if changed:
            self.refresh(*changed)

    @property
    def is_on_screen(self) -> bool:
        """Whether anything of this widget can be seen now."""
        return self.screen.is_current and all(
            getattr(node, "display", True) for node in self.ancestors_with_self
        )

    @property
    def _key(self) -> tuple[int, int, int]:
        return (*self.size, id(self._inks))

    @property
    def _inks(self) -> Inks:
        return application(self).inks

    def render_line(self, y: int) -> Strip:
        """One line, made when it is first needed."""
        if self._rows is None or self._drawn_for != self._key:
            width, height = self.size
            self._rows = self.draw(self._view, width, height)[:height]
            self._strips = [None] * len(self._rows)
            self._drawn_for = self._key
        inks = self._inks
        width = self.size.width
        if y >= len(self._rows):
            return Strip.blank(width, self.rich_style)
        strip = self._strips[y]
        if strip is None:
            segments = [Segment(printable(text), inks[ink]) for text, ink in self._rows[y] if text]
            strip = Strip(segments).adjust_cell_length(width, inks[""])
            self._strips[y] = strip
        return strip
