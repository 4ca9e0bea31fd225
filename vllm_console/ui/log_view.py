"""The widget that shows a log: follows its end, or stands where one scrolled to."""

from __future__ import annotations

from vllm_console.ui.lines import Lines
from vllm_console.ui.log_buffer import LogBuffer, inked
from vllm_console.ui.rows import Row, clip, quiet
from vllm_console.ui.view import View


class LogView(Lines, can_focus=True):
    """A scrolling view of a `LogBuffer`."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.buffer = LogBuffer()
        self.problem = ""
        """Why there is no log."""
        self.top: int | None = None
        """The first line shown; `None` while it follows the end."""
        self.shift = 0
        """Cells cut at the left of each line."""

    def draw(self, view: View, width: int, height: int) -> list[Row]:
        """As many lines as fit."""
        lines = self.buffer.lines
        if not lines:
            why = self.problem or ("nothing written yet" if self.buffer.offset is not None else "…")
            return quiet(width, height, why)
        start = max(0, len(lines) - height) if self.top is None else self.top
        return [
            clip(_shifted(inked(lines[y]), self.shift), width)
            for y in range(start, min(len(lines), start + height))
        ]

    def take(self, text: str, offset: int, *, fresh: bool) -> None:
        """Add what was read; while scrolled, what is shown stays in place."""
        before = len(self.buffer.lines)
        added = self.buffer.add(text, offset, fresh=fresh)
        self.problem = ""
        if fresh:
            self.top = None
        elif self.top is not None:
            self.top = max(0, self.top - (before + added - len(self.buffer.lines)))
        self.show(self._view)
        self._frame()

    def scroll_lines(self, lines: int) -> None:
        """Scroll down by so many lines; reaching the end follows it again."""
        last = max(0, len(self.buffer.lines) - self.size.height)
        start = last if self.top is None else self.top
        start = max(0, min(last, start + lines))
        self.top = None if start >= last else start
        self.show(self._view)
        self._frame()

    def scroll_cells(self, cells: int) -> None:
        """Scroll to the side."""
        self.shift = max(0, self.shift + cells)
        self.show(self._view)

    def _frame(self) -> None:
        total = len(self.buffer.lines)
        if self.top is None:
            self.border_subtitle = f"following · {total:,} lines" if total else ""
        else:
            self.border_subtitle = f"{self.top + 1:,} of {total:,} · f follows"


def _shifted(row: Row, cells: int) -> Row:
    """A row without its first characters."""
    out: Row = []
    for text, ink in row:
        out.append((text[cells:], ink))
        cells = max(0, cells - len(text))
    return out
