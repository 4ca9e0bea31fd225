"""The widget that shows a log: follows its end, or stands where one scrolled to."""

from __future__ import annotations

from textual import events

from vllm_console.ui.lines import Lines
from vllm_console.ui.log_buffer import LogBuffer, inked
from vllm_console.ui.rows import Row, clip, ground, quiet, shifted
from vllm_console.ui.view import View

LEVELS = ("all lines", "warnings and failures", "failures")


class LogView(Lines, can_focus=True):
    """A scrolling view of a `LogBuffer`: all of it, or the lines that a filter leaves."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.buffer = LogBuffer()
        self.problem = ""
        """Why there is no log."""
        self.top: int | None = None
        """The first row shown; `None` while it follows the end."""
        self.shift = 0
        """Cells cut at the left of each line."""
        self.words = ""
        """Only lines that hold all of these are shown."""
        self.least = 0
        """Only lines at least so bad are shown, as `LogBuffer.levels` has it."""
        self.errors_first = False
        """Failures stand before warnings, warnings before the rest."""
        self.mark: int | None = None
        """The line of the buffer that was jumped to or clicked."""
        self._shown: list[int] | None = None

    @property
    def shown(self) -> list[int]:
        """The buffer's lines that are shown, in their order."""
        if self._shown is None:
            words, levels = self.words.casefold().split(), self.buffer.levels
            every = enumerate(self.buffer.lines)
            found = [i for i, line in every if all(word in line.casefold() for word in words)]
            found = [i for i in found if levels[i] >= self.least] if self.least else found
            if self.errors_first:
                found.sort(key=lambda i: -levels[i])
            self._shown = found
        return self._shown

    def draw(self, view: View, width: int, height: int) -> list[Row]:
        """As many lines as fit."""
        lines = self.buffer.lines
        if not lines:
            why = self.problem or ("nothing written yet" if self.buffer.offset is not None else "…")
            return quiet(width, height, why)
        shown = self.shown
        if not shown:
            return quiet(width, height, "no line is left", "esc clears the filter, v the level")
        last = max(0, len(shown) - height)
        start = min(self.top, last) if self.top is not None else 0 if self.errors_first else last
        rows = []
        for index in shown[start : start + height]:
            row = clip(shifted(inked(lines[index]), self.shift), width)
            rows.append(ground(row, width) if index == self.mark else row)
        return rows

    def take(self, text: str, offset: int, *, fresh: bool) -> None:
        """Add what was read; while scrolled, what is shown stays in place."""
        before = len(self.buffer.lines)
        added = self.buffer.add(text, offset, fresh=fresh)
        self.problem = ""
        gone = before + added - len(self.buffer.lines)
        if fresh:
            self.top = self.mark = None
        elif gone:
            self.top = None if self.top is None else max(0, self.top - gone)
            self.mark = None if self.mark is None or self.mark < gone else self.mark - gone
        self.again()

    def narrow(
        self,
        *,
        words: str | None = None,
        least: int | None = None,
        errors_first: bool | None = None,
    ) -> None:
        """Show other lines, and follow the end of these."""
        self.words = self.words if words is None else words
        self.least = self.least if least is None else least
        self.errors_first = self.errors_first if errors_first is None else errors_first
        self.top = None
        self.again()

    def jump(self, step: int) -> bool:
        """Go to the next failure, or the one before; whether there is one."""
        place = {index: row for row, index in enumerate(self.shown)}
        starts = [index for index in self.buffer.failures() if index in place]
        if not starts:
            return False
        if self.mark is None:
            goal = starts[0] if step > 0 else starts[-1]
        elif step > 0:
            goal = next((i for i in starts if i > self.mark), starts[0])
        else:
            goal = next((i for i in reversed(starts) if i < self.mark), starts[-1])
        self.mark = goal
        self.top = max(0, place[goal] - self.size.height // 4)
        self.again()
        return True

    @property
    def marked(self) -> str | None:
        """The line that was jumped to or clicked, else the newest that is shown."""
        if self.mark is not None and self.mark < len(self.buffer.lines):
            return self.buffer.lines[self.mark]
        return self.buffer.lines[self.shown[-1]] if self.shown else None

    def scroll_lines(self, lines: int) -> None:
        """Scroll down by so many lines; reaching the end follows it again."""
        last = max(0, len(self.shown) - self.size.height)
        start = (0 if self.errors_first else last) if self.top is None else self.top
        start = max(0, min(last, start + lines))
        self.top = None if start >= last and not self.errors_first else start
        self._draw_again()

    def scroll_cells(self, cells: int) -> None:
        """Scroll to the side."""
        self.shift = max(0, self.shift + cells)
        self._draw_again()

    def again(self) -> None:
        """Choose the lines anew, and draw."""
        self._shown = None
        self._draw_again()

    def _draw_again(self) -> None:
        self.show(self._view)
        self._frame()

    def _frame(self) -> None:
        total, left = len(self.buffer.lines), len(self.shown)
        how = [f"/{self.words}"] if self.words else []
        how += [LEVELS[self.least]] if self.least else []
        how += ["failures first"] if self.errors_first else []
        many = f"{left:,} of {total:,} lines" if how else f"{total:,} lines"
        if self.errors_first:
            where = many
        elif self.top is None:
            where = f"following · {many}" if total else ""
        else:
            where = f"{self.top + 1:,} of {left:,} · f follows"
        self.border_subtitle = " · ".join([*how, where] if where else how).replace("[", "\\[")

    def on_click(self, event: events.Click) -> None:
        """A click marks a line."""
        offset = event.get_content_offset(self)
        if offset is None:
            return
        last = max(0, len(self.shown) - self.size.height)
        start = min(self.top, last) if self.top is not None else 0 if self.errors_first else last
        if 0 <= start + offset.y < len(self.shown):
            self.mark = self.shown[start + offset.y]
            self._draw_again()
