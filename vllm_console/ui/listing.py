"""The widget of every list that has a cursor: it scrolls, follows its end, and tells its line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from textual import events
from textual.message import Message

from vllm_console.ui.lines import Lines
from vllm_console.ui.rows import Row, clip, ground, length, quiet, shifted
from vllm_console.ui.view import View

DrawOne = Callable[[Any, int], Row]
"""The row of one item, in so many cells."""


class Listing(Lines, can_focus=True):
    """A list of items, a row each; the cursor's row stands on the selection's background."""

    @dataclass
    class Opened(Message):
        """A row was clicked twice."""

        item: Any

    def __init__(self, draw_one: DrawOne, *, id: str = "list", follow: bool = False) -> None:
        super().__init__(id=id)
        self.draw_one = draw_one
        self.items: Sequence[Any] = ()
        self.cursor = 0
        self.top = 0
        self.follow = follow
        """Whether the cursor stays on the newest item."""
        self.shift = 0
        """Cells cut at the left of each row."""
        self.empty: tuple[str, str] = ("…", "")
        """Why there is no item, and what to do about it."""
        self._can_follow = follow

    @property
    def item(self) -> Any:
        """What the cursor stands on; `None` in an empty list."""
        return self.items[self.cursor] if 0 <= self.cursor < len(self.items) else None

    def draw(self, view: View, width: int, height: int) -> list[Row]:
        """As many rows as fit, those around the cursor."""
        if not self.items:
            return quiet(width, height, *self.empty)
        self._keep_in_sight(height)
        rows = []
        for index in range(self.top, min(len(self.items), self.top + height)):
            row = self.draw_one(self.items[index], width + self.shift)
            row = clip(shifted(row, self.shift), width)
            rows.append(ground(row, width) if index == self.cursor and length(row) else row)
        return rows

    def fill(self, items: Sequence[Any], *, at: int | None = None) -> None:
        """Show other items; the cursor goes to `at`, follows the end, or stays where it is."""
        self.items = items
        last = max(0, len(items) - 1)
        if at is not None:
            self.cursor, self.follow = max(0, min(last, at)), False
        elif self.follow:
            self.cursor = last
        else:
            self.cursor = min(self.cursor, last)
        self._again()

    def move(self, items: int) -> None:
        """Move the cursor; reaching the end follows it where the list grows."""
        last = max(0, len(self.items) - 1)
        self.cursor = max(0, min(last, self.cursor + items))
        self.follow = self._can_follow and self.cursor >= last
        self._again()

    def page(self, pages: int) -> None:
        """Move the cursor by what is on the screen."""
        self.move(pages * max(1, self.size.height - 1))

    def slide(self, cells: int) -> None:
        """See the rest of long rows."""
        self.shift = max(0, self.shift + cells)
        self._again()

    def go(self, index: int) -> None:
        """Put the cursor on an item, with a few before it in sight."""
        self.follow = False
        self.cursor = index
        self.top = max(0, index - 3)
        self._again()

    def _keep_in_sight(self, height: int) -> None:
        last_top = max(0, len(self.items) - height)
        self.top = max(0, min(self.top, self.cursor, last_top))
        if self.cursor >= self.top + height:
            self.top = self.cursor - height + 1

    def _again(self) -> None:
        self.show(self._view)
        total = len(self.items)
        if not total:
            subtitle = ""
        elif self.follow:
            subtitle = f"following · {total:,}"
        else:
            subtitle = f"{self.cursor + 1:,} of {total:,}" + (
                " · f follows" if self._can_follow else ""
            )
        if subtitle != self.border_subtitle:
            self.border_subtitle = subtitle

    def on_click(self, event: events.Click) -> None:
        """A click puts the cursor there, a second one opens what is there."""
        offset = event.get_content_offset(self)
        if offset is None or not 0 <= self.top + offset.y < len(self.items):
            return
        self.cursor = self.top + offset.y
        self.follow = False
        self._again()
        if event.chain == 2:
            self.post_message(self.Opened(self.item))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """The wheel moves the cursor."""
        event.stop()
        self.move(3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """The wheel moves the cursor."""
        event.stop()
        self.move(-3)
