"""The widget of the last line: it asks the screen which keys are live."""

from __future__ import annotations

from textual import events
from textual.actions import parse
from textual.binding import Binding
from textual.screen import Screen

from vllm_console.ui.blocks.key_line import Notice, at, rows
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
        if active.node is not screen or standing(screen, binding) == "absent":
            continue
        if binding.description in own and (binding.show or hidden):
            text = (binding.tooltip if hidden else "") or binding.description
            names = keys.setdefault(text, [])
            name = screen.app.get_key_display(binding)
            if name not in names:
                names.append(name)
    items = [(" ".join(names), text) for text, names in keys.items()]
    return items


def standing(screen: Screen[object], binding: Binding) -> str:
    """Whether a key is "live", "grey" as it would do nothing now, or "absent"."""
    judge = getattr(screen, "standing", None)
    if judge is None:
        return "live"
    _, action, parameters = parse(binding.action)
    return str(judge(action, parameters))


def grey_keys(screen: Screen[object]) -> frozenset[str]:
    """What the last line's keys do that would do nothing now."""
    actives = [active.binding for active in screen.active_bindings.values()]
    return frozenset(b.description for b in actives if b.show and standing(screen, b) == "grey")


class KeyLine(Lines):
    """The live keys, or a notice in their place until the next key."""

    notice: Notice | None = None

    def draw(self, view: View, width: int, height: int) -> list[Row]:
        """One row."""
        if self.notice is not None:
            return rows([], self.notice, width)
        return rows(live_keys(self.screen), None, width, grey_keys(self.screen))

    async def on_click(self, event: events.Click) -> None:
        """A click on a key presses it."""
        screen, offset = self.screen, event.get_content_offset(self)
        if self.notice is not None or offset is None:
            return
        text = at(live_keys(screen), self.size.width, offset.x)
        for active in list(screen.active_bindings.values()):
            if active.node is screen and active.binding.description == text:
                await screen.run_action(active.binding.action)
                return

    def say(self, notice: Notice | None) -> None:
        """Show a notice, or the keys again."""
        if notice != self.notice:
            self.notice = notice
            self.show(self._view)
