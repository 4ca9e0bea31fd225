"""The dashboard: four panels between the fleet line and the events, in three layouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Container

from vllm_console.ui.blocks import alert_line, fleet_line
from vllm_console.ui.blocks import events as event_rows
from vllm_console.ui.filter_line import FilterLine
from vllm_console.ui.key_line import KeyLine
from vllm_console.ui.lines import Lines
from vllm_console.ui.messages import EntryChosen
from vllm_console.ui.panel import Panel
from vllm_console.ui.panels import NAMES, PanelSpec
from vllm_console.ui.rows import Row, quiet
from vllm_console.ui.screens.painted import Painted
from vllm_console.ui.view import View

SMALLEST = (60, 16)
"""Columns and rows below which there is no room for a panel."""

_ACROSS = [(0, "-tabs"), (100, "-grid"), (150, "-row")]
_DOWN = [(0, "-short"), (36, "-tall"), (54, "-airy")]
"""Classes of the screen from so many columns or lines on."""
_PANEL = "go to the panel of that number"


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
        Binding("z", "zoom", "zoom", tooltip="one panel alone, or all again"),
        Binding(
            "enter",
            "detail",
            "details",
            key_display="↵",
            tooltip="settings, start, failure and log of its worker",
        ),
        Binding("l", "load", "load", tooltip="start the selected model"),
        Binding(
            "u", "unload", "unload", tooltip="drain and stop the selected model, after a question"
        ),
        Binding(
            "r", "restart", "restart", tooltip="stop and start the selected model, after a question"
        ),
        Binding(
            "slash", "filter", "filter", key_display="/", tooltip="show only models that match"
        ),
        Binding(
            "space",
            "pause",
            "pause",
            key_display="space",
            tooltip="hold the picture still, or let it run",
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
        Binding("escape", "back", "leave zoom, end filter", show=False, key_display="esc"),
        Binding("question_mark", "help", "help", key_display="?", tooltip="these keys"),
        Binding("q", "quit", "quit", tooltip="leave the console; the fleet goes on"),
    ]

    def __init__(self, specs: Sequence[PanelSpec]) -> None:
        super().__init__()
        self._specs = specs

    def compose(self) -> ComposeResult:
        """Fleet line, alerts, panels, events, keys; and what replaces them all when too small."""
        titles = {spec.name: spec.title for spec in self._specs}
        yield Lines(self._fleet_line, id="fleet")
        yield Lines(alert_line.draw, id="alerts")
        with Container(id="panels"):
            for spec in self._specs:
                yield Panel(spec, titles)
        yield Lines(event_rows.draw, id="events")
        yield FilterLine(id="filter")
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
        self.call_after_refresh(self.console_app.paint)

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

    def action_zoom(self) -> None:
        """Show one panel alone, or all again."""
        self.toggle_class("-zoom")
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
        """Leave the zoom first, then the filter."""
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
        view = self.console_app.view
        if view.entry is None:
            self.console_app.say("info", "no model is selected")
            return
        from vllm_console.ui.screens.worker import WorkerDetail

        self.app.push_screen(WorkerDetail(view.entry.key))

    def action_load(self) -> None:
        """Start the selected model's workers."""
        self.console_app.act("load", self.console_app.view.model)

    def action_unload(self) -> None:
        """Drain and stop the selected model's workers, after a question."""
        self.console_app.act("unload", self.console_app.view.model)

    def action_restart(self) -> None:
        """Stop and start the selected model's workers, after a question."""
        self.console_app.act("restart", self.console_app.view.model)

    def action_quit(self) -> None:
        """Leave the console; the fleet goes on."""
        self.app.exit(return_code=0)
