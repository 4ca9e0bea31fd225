"""The line that takes the filter's words: type, backspace, enter keeps them, esc drops them."""

from __future__ import annotations

from dataclasses import dataclass

from textual import events
from textual.message import Message

from vllm_console.ui.lines import Lines
from vllm_console.ui.rows import Row, cut_left, spread
from vllm_console.ui.view import View


class FilterLine(Lines, can_focus=True):
    """A one-line editor without a cursor to move: the words are short."""

    @dataclass
    class Typed(Message):
        """The words changed."""

        words: str

    OPEN = "-filtering"
    """The screen's class while words are typed."""
    words = ""

    def draw(self, view: View, width: int, height: int) -> list[Row]:
        """The words, what they leave, and the keys that end it."""
        found = sum(entry.worker is None for entry in view.entries)
        total = len(view.snapshot.models) if view.snapshot else 0
        keys: Row = [
            ("enter", "engines!"),
            (" keep  ", "label"),
            ("esc", "engines!"),
            (" clear", "label"),
        ]
        room = width - 40
        left: Row = [
            ("/ ", "engines!"),
            (cut_left(self.words, max(8, room)), "value"),
            ("▏", "engines!"),
        ]
        return [spread([*left, (f"  {found} of {total}", "dim")], keys, width)]

    def open(self, words: str) -> None:
        """Take the focus and the place of the keys."""
        self.words = words
        self.screen.add_class(self.OPEN)
        self.screen.set_focus(self)  # at once: what is typed on must not reach the panels
        self.show(self._view)

    def _close(self) -> None:
        self.screen.remove_class(self.OPEN)
        self.screen.query_one(".panel.-shown").focus()

    def _finish(self) -> None:
        """Enter: the words stay."""
        self._close()

    def _type(self, words: str) -> None:
        self.words = words
        self.post_message(self.Typed(words))

    def check_consume_key(self, key: str, character: str | None) -> bool:
        """Letters are words here, not commands."""
        return character is not None and character.isprintable()

    def on_key(self, event: events.Key) -> None:
        """One key of the editor; the list's own arrows still work."""
        if event.key == "enter":
            self._finish()
        elif event.key == "escape":
            self._type("")
            self._close()
        elif event.key == "backspace":
            self._type(self.words[:-1])
        elif event.key == "ctrl+u":
            self._type("")
        elif event.is_printable and event.character:
            self._type(self.words + event.character)
        else:
            return
        event.stop()
        event.prevent_default()

    def on_paste(self, event: events.Paste) -> None:
        """Pasted words count up to their first line end."""
        line = event.text.splitlines()[0] if event.text else ""
        self._type(self.words + line)
        event.stop()
