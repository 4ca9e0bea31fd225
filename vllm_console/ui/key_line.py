"""The widget of the last line: it asks the screen which keys are live."""

from __future__ import annotations

from textual.binding import Binding
from textual.screen import Screen

from vllm_console.ui.blocks.key_line import Notice, rows
from vllm_console.ui.lines import Lines
from vllm_console.ui.rows import Row
from vllm_console.ui.view import View


def live_keys(screen: Screen[object], hidden: bool = False) -> list[tuple[str, str]]:
    """(key, what it does) of a screen's own bindings that act now, in their order.

    With `hidden`, also those that the last line leaves out, and told at length. One action with
    several keys is one item: `↑ k`.
    """
    own = {b.description for b in type(screen).BINDINGS if isinstance(b, Binding)}
    keys: dict[str, list[str]] = {}
    for active in screen.active_bindings.values():
        binding: Binding = active.binding
        if binding.description in own and (binding.show or hidden):
            text = (binding.tooltip if hidden else "") or binding.description
            shown = keys.setdefault(text, [])
            name = screen.app.get_key_display(binding)
            if name not in shown:
                shown.append(name)
    items = [(" ".join(names), text) for text, names in keys.items()]
    return items


class KeyLine(Lines):
    """The live keys, or a notice in their place until the next key."""

    notice: Notice | None = None

    def draw(self, view: View, width: int, height: int) -> list[Row]:
        """One row."""
        return rows(live_keys(self.screen), self.notice, width)

    def say(self, notice: Notice | None) -> None:
        """Show a notice, or the keys again."""
        if notice != self.notice:
            self.notice = notice
            self.show(self._view)
