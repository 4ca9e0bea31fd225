"""The dashboard: four panels between the fleet line and the events, in three layouts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Container

from vllm_console.ui.blocks import alert_line, fleet_line
from vllm_console.ui.clickable import AlertLine, EventLines
from vllm_console.ui.filter_line import FilterLine
from vllm_console.ui.key_line import KeyLine
from vllm_console.ui.lines import Lines
from vllm_console.ui.messages import EntryChosen, EntryOpened
from vllm_console.ui.panel import Panel
from vllm_console.ui.panels import MOST, NAMES, PanelSpec
from vllm_console.ui.rows import Row, quiet
from vllm_console.ui.screens.painted import CHANGES, SCALES, SCREENS, Painted
from vllm_console.ui.time_line import TimeLine
from vllm_console.ui.view import View

SMALLEST = (60, 16)
"""Columns and rows below which there is no room for a panel."""

_ACROSS = [(0, "-tabs"), (100, "-grid"), (150, "-row")]
_DOWN = [(0, "-short"), (36, "-tall"), (54, "-airy")]
"""Classes of the screen from so many columns or lines on."""
_PANEL = "go to the panel of that number"
_SPAN = "back and forth in time by what the graphs span"
_SPANS = "back and forth in time by ten of these spans"
_TYPED = ("filter", "time")
"""Actions that open a line to type in. Their keys come first: what is typed on in the same breath,
as over a slow ssh, is for that line."""
_LEAST = 38
"""Cells that a panel needs in the row for a user's own to stand beside the four."""


def too_small(view: View, width: int, height: int) -> list[Row]:
    """One line instead of a mess."""
    columns, lines = SMALLEST
    return quiet(width, height, f"too small: {width}x{height}, needs {columns}x{lines}")


class Dashboard(Painted):
    """The console's main screen."""

    AUTO_FOCUS = "#engines"
    HORIZONTAL_BREAKPOINTS = _ACROSS
    VERTICAL_BREAKPOINTS = _DOWN
    BINDINGS: ClassVar = [
        Binding("1", "panel('engines')", "panel", key_display="1-4", tooltip=_PANEL),
        *(
            Binding(
                str(key), f"panel('{name}')", "panel", show=False, key_display="1-4", tooltip=_PANEL
            )
            for key, name in enumerate(NAMES[1:], 2)
        ),
        *(
            Binding(str(key), f"own({key})", "panel", show=False, tooltip=_PANEL)
            for key in range(len(NAMES) + 1, MOST + 1)
        ),
        Binding("z", "zoom", "zoom", tooltip="one panel alone, or all again"),
        Binding(
            "enter",
            "detail",
            "details",
            key_display="↵",
            tooltip="settings, start, failure and log of its worker",
        ),
        *CHANGES,
        *SCALES,
        Binding("a", "acknowledge", "acknowledge", tooltip="hide the alerts until they change"),
        Binding(
            "slash",
            "filter",
            "filter",
            key_display="/",
            priority=True,
            tooltip="show only models that match",
        ),
        Binding(
            "space",
            "pause",
            "pause",
            key_display="space",
            tooltip="hold the picture still, or let it run",
        ),
        Binding("left_square_bracket", "travel(-1)", "past", key_display="[", tooltip=_SPAN),
        Binding("right_square_bracket", "travel(1)", "past", key_display="]", tooltip=_SPAN),
        Binding(
            "left_curly_bracket",
            "travel(-10)",
            "far past",
            show=False,
            key_display="{",
            tooltip=_SPANS,
        ),
        Binding(
            "right_curly_bracket",
            "travel(10)",
            "far past",
            show=False,
            key_display="}",
            tooltip=_SPANS,
        ),
        Binding(
            "t",
            "time",
            "time",
            show=False,
            priority=True,
            tooltip="go to a time: -2h, yesterday 14:00 …",
        ),
        Binding("up", "move(-1)", "model above", show=False, key_display="↑"),
        Binding("k", "move(-1)", "model above", show=False),
        Binding("down", "move(1)", "model below", show=False, key_display="↓"),
        Binding("j", "move(1)", "model below", show=False),
        Binding("home", "move(-10000)", "first model", show=False, key_display="home"),
        Binding("end", "move(10000)", "last model", show=False, key_display="end"),
        Binding(
            "exclamation_mark",
            "alert",
            "go to the model of the next alert",
            show=False,
            key_display="!",
        ),
        Binding(
            "escape",
            "back",
            "back to now, leave zoom, end filter",
            show=False,
            key_display="esc",
        ),
        Binding("e", "edit", "edit", show=False, tooltip="edit the fleet file, then see the plan"),
        Binding(
            "p",
            "pin",
            "pin",
            show=False,
            tooltip="pin it, so that nothing evicts it, or unpin it",
        ),
        Binding("y", "copy", "copy", show=False, tooltip="copy the model's command line"),
        *SCREENS,
        Binding("colon", "palette", "commands", key_display=":", tooltip="every command, by name"),
        Binding("question_mark", "help", "help", key_display="?", tooltip="these keys"),
        Binding("q", "quit", "quit", tooltip="leave the console; the fleet goes on"),
    ]

    def __init__(self, specs: Sequence[PanelSpec]) -> None:
        super().__init__()
        self._specs = specs

    def compose(self) -> ComposeResult:
        """Fleet line, alerts, panels, events, keys; and what replaces them all when too small."""
        yield Lines(self._fleet_line, id="fleet")
        yield AlertLine(id="alerts")
        with Container(id="panels"):
            for number in range(len(self._specs)):
                yield Panel(number, self._specs)
        yield EventLines(id="events")
        yield FilterLine(id="filter")
        yield TimeLine(id="time")
        yield KeyLine(id="keys")
        yield Lines(too_small, id="small")

    def _fleet_line(self, view: View, width: int, height: int) -> list[Row]:
        return fleet_line.draw(self._with_limits(view), width, height)

    def _with_limits(self, view: View) -> View:
        from dataclasses import replace

        return replace(view, limits=self._specs[0].limits)

    def on_mount(self) -> None:
        """The first panel is the one that tabs and zoom show."""
        self.query_one("#engines").add_class("-shown")

    def on_resize(self, event: events.Resize) -> None:
        """Fewer cells than a panel needs give one clear line."""
        columns, lines = SMALLEST
        small = event.size.width < columns or event.size.height < lines
        self.set_class(small, "-small")
        self.set_class(event.size.width >= _LEAST * len(self._specs) + 2, "-roomy")
        self.call_after_refresh(self.console_app.paint)
        if not small:
            self.call_after_refresh(self._focus_again)

    def _focus_again(self) -> None:
        """Have the panel that is shown the keys' again, which it loses while there is no room."""
        if self.focused is None:
            self.query_one(".panel.-shown").focus()

    def paint(self, view: View) -> None:
        """Bring every widget up to date; those not displayed draw nothing."""
        alerts = self.query_one("#alerts", Lines)
        alerts.set_class(alert_line.ask(view) == 0, "-none")
        for lines in self.query(Lines):
            lines.show(view)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Tabs show one panel alone already."""
        if action == "zoom" and self.has_class("-tabs"):
            return False
        if action in _TYPED:
            return not isinstance(self.focused, FilterLine)
        if action == "own" and isinstance(parameters[0], int):
            return parameters[0] <= len(self._specs)
        return super().check_action(action, parameters)

    def on_descendant_focus(self) -> None:
        """A panel focused by tab or a click is also the one that tabs and zoom show."""
        if isinstance(self.focused, Panel):
            self._show_panel(self.focused.spec.name)

    def _show_panel(self, name: str) -> None:
        changed = False
        for panel in self.query(Panel):
            shown = panel.spec.name == name
            changed = changed or shown != panel.has_class("-shown")
            panel.set_class(shown, "-shown")
        if changed:
            self.call_after_refresh(self.console_app.paint)

    def action_panel(self, name: str) -> None:
        """Focus a panel; in tabs and zoom it takes the place of the other."""
        self._show_panel(name)
        self.query_one(f"#{name}").focus()

    def action_own(self, key: int) -> None:
        """Go to one of the user's own panels, alone where it has no room beside the four."""
        panel = next(panel for panel in self.query(Panel) if panel.number == key - 1)
        if not panel.display:
            self.add_class("-zoom")
        self._show_panel(panel.spec.name)
        panel.focus()

    async def take_panels(self, specs: Sequence[PanelSpec]) -> None:
        """Go on by panel files that have changed; own panels may come and go."""
        before, self._specs = self._specs, specs
        for panel in list(self.query(Panel)):
            if panel.number >= len(specs):
                await panel.remove()
            else:
                panel.take(specs)
        for number in range(len(before), len(specs)):
            await self.query_one("#panels").mount(Panel(number, specs))
        self.set_class(self.size.width >= _LEAST * len(specs) + 2, "-roomy")
        if not self.query(".panel.-shown"):
            self.remove_class("-zoom")
            self.action_panel(NAMES[0])
        self.refresh_bindings()
        self.call_after_refresh(self.console_app.paint)

    def action_travel(self, spans: float) -> None:
        """Go back or forth in stored time."""
        self.console_app.travel(spans)

    def action_time(self) -> None:
        """Type a time to go to."""
        self.query_one(TimeLine).open("")

    def on_time_line_chosen(self, message: TimeLine.Chosen) -> None:
        """Go there."""
        self.console_app.travel_to(message.moment)

    def action_zoom(self) -> None:
        """Show one panel alone, or all again."""
        self.toggle_class("-zoom")
        for panel in self.query(Panel):
            panel.retitle()
        if isinstance(self.focused, Panel) and not self.focused.display:
            self.action_panel(NAMES[0])  # one of the user's own, without room beside the four
        self.call_after_refresh(self.console_app.paint)

    def action_move(self, rows: int) -> None:
        """Select another model or worker."""
        self.console_app.board.move(rows)
        self.console_app.paint()

    def action_alert(self) -> None:
        """Select what the next alert is about, whatever the filter hides."""
        board = self.console_app.board
        key = alert_line.next_subject(self.console_app.view)
        if key is None:
            self.console_app.say("info", "no alert is about a model")
            return
        if all(entry.key != key for entry in board.entries):
            board.narrow("")
        board.select(key)
        self.console_app.paint()

    def on_entry_chosen(self, message: EntryChosen) -> None:
        """A row was clicked."""
        self.console_app.board.select(message.key)
        self.console_app.paint()

    def action_back(self) -> None:
        """Back to now first, then leave the zoom, then the filter."""
        if self.console_app.return_to_now():
            return
        if self.has_class("-zoom"):
            self.action_zoom()
        elif self.console_app.board.filter:
            self.console_app.board.narrow("")
            self.console_app.paint()

    def action_filter(self) -> None:
        """Type words that a model's row must hold."""
        self.query_one(FilterLine).open(self.console_app.board.filter)

    def on_filter_line_typed(self, message: FilterLine.Typed) -> None:
        """The list narrows with each letter."""
        self.console_app.board.narrow(message.words)
        self.console_app.paint()

    def action_pause(self) -> None:
        """Hold the picture still, or let it run again."""
        self.console_app.pause(not self.console_app.board.paused)

    def action_help(self) -> None:
        """Show all keys that act here."""
        from vllm_console.ui.screens.help import Help

        self.app.push_screen(Help(self))

    def action_detail(self) -> None:
        """Show everything about the selected model or worker."""
        self.console_app.open("details")

    def on_entry_opened(self, message: EntryOpened) -> None:
        """A row was clicked twice."""
        self.console_app.board.select(message.key)
        self.action_detail()

    def action_acknowledge(self) -> None:
        """Hide the alerts of now until they change."""
        self.console_app.acknowledge()

    def action_edit(self) -> None:
        """Edit the fleet file, then see what applying it would do."""
        self.console_app.open("edit")

    def action_pin(self) -> None:
        """Pin the model, so that nothing evicts it, or take its pin away."""
        model = self.console_app.view.model
        self.console_app.act("unpin" if model is not None and model.pinned else "pin", model)

    def action_copy(self) -> None:
        """Copy the command line of the selected model, or the address of the selected worker."""
        view = self.console_app.view
        if view.entry is not None and view.entry.worker is not None and view.entry.worker.url:
            self.console_app.copy(view.entry.worker.url)
        elif view.model is not None and view.model.command:
            self.console_app.copy(shlex.join(view.model.command))
        else:
            self.console_app.say("info", "nothing was started yet: there is no command to copy")

    def action_quit(self) -> None:
        """Leave the console; the fleet goes on."""
        self.app.exit(return_code=0)
