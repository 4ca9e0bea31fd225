"""The line that takes a time to go to: type it, enter goes there, esc stays."""

from __future__ import annotations

from dataclasses import dataclass

from textual.message import Message

from vllm_console.ui.filter_line import FilterLine
from vllm_console.ui.rows import Row, cut_left, spread
from vllm_console.ui.view import View

EXAMPLES = "-2h   14:00   yesterday 14:00   2026-11-20 14:02:10"


class TimeLine(FilterLine):
    """The filter's editor for a time; what it means is for the daemon to say."""

    OPEN = "-timing"

    @dataclass
    class Chosen(Message):
        """A time was entered."""

        moment: str

    def draw(self, view: View, width: int, height: int) -> list[Row]:
        """What was typed, ways to write a time, and the keys that end it."""
        keys: Row = [
            ("enter", "engines!"), (" go  ", "label"), ("esc", "engines!"), (" stay", "label")
        ]  # fmt: skip
        left: Row = [
            ("time ", "label"),
            (cut_left(self.words, max(8, width - 40)), "value"),
            ("▏", "engines!"),
        ]
        if not self.words:
            left.append((f"  {EXAMPLES}", "dim"))
        return [spread(left, keys, width)]

    def _type(self, words: str) -> None:
        self.words = words
        self.show(self._view)

    def _finish(self) -> None:
        self._close()
        if words := self.words.strip():
            self.post_message(self.Chosen(words))
