"""The application: takes what the reader brings, keeps the board, paints the screen on top."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import tzinfo
from pathlib import Path
from typing import ClassVar

from textual import events
from textual.await_complete import AwaitComplete
from textual.binding import Binding
from textual.driver import Driver
from textual.filter import LineFilter
from textual.theme import Theme

from vllm_console.errors import InvalidInput
from vllm_console.snapshot import Snapshot
from vllm_console.ui import theme
from vllm_console.ui.board import Board
from vllm_console.ui.garbage import Garbage
from vllm_console.ui.messages import PanelsChanged, Sampled
from vllm_console.ui.palette import ConsoleCommands, ThemeCommands
from vllm_console.ui.panel_files import PanelFiles
from vllm_console.ui.panels import PanelSpec, load_panels
from vllm_console.ui.plain import AsciiOnly
from vllm_console.ui.screens import STYLES, import_all
from vllm_console.ui.screens.dashboard import Dashboard
from vllm_console.ui.screens.painted import Painted
from vllm_console.ui.source import Connect, Reader
from vllm_console.ui.terse import Shown, terse
from vllm_console.ui.theme import Inks
from vllm_console.ui.theme_files import chosen, own_names, themes_dir
from vllm_console.ui.travelling import Travelling
from vllm_console.ui.view import View

UNSEEN_S = 5.0
"""Seconds between two paints while the terminal says that it is not in front."""
_NOTICE_S = 8.0
_WARM_AFTER_S = 0.5
"""Seconds from the first frame until the other screens are made ready."""
_SWEEP_AFTER_S = 0.1
"""Seconds from a picture, which shows that nobody waits, to a look for garbage."""


class Console(Travelling):
    """The Textual application.

    `clock` gives monotonic seconds; `ticking = False` leaves the once-a-second look at the clock
    to the caller, who then calls `tick`.
    """

    TITLE = "vllm-console"
    COMMAND_PALETTE_BINDING = "ctrl+p"
    COMMANDS: ClassVar = {ConsoleCommands, ThemeCommands}
    CSS_PATH = "screens/dashboard.tcss"
    """The first screen's styles stand here: Textual loads no style sheet of a default screen."""

    BINDINGS: ClassVar = [
        Binding("ctrl+c", "quit", "quit", show=False, priority=True),
        Binding("ctrl+l", "redraw", "draw all anew", show=False, priority=True),
    ]

    def __init__(
        self,
        connect: Connect,
        *,
        reader: Reader | None = None,
        panels: Sequence[PanelSpec] | None = None,
        theme_name: str = theme.DEFAULT,
        themes: Path | None = None,
        readonly: bool = False,
        refresh_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        zone: tzinfo | None = None,
        ticking: bool = True,
        recorded: str | None = None,
        begin: str | None = None,
        panel_files: PanelFiles | None = None,
        ascii_only: bool = False,
    ) -> None:
        self._shown = Shown()
        super().__init__()
        self._inks: tuple[str, Inks] | None = None
        self._themes = themes or themes_dir()
        self._use_theme(chosen(theme_name, self._themes))
        self.readonly = readonly
        self._ascii_only = ascii_only
        self.board = Board(zone, recorded)
        self._begin = begin
        self._panel_files = panel_files
        self.connect = connect
        self.run_editor = self.edit_in_terminal
        self.clock = clock
        self._garbage = Garbage(clock)
        self._reader = reader or Reader(connect)
        self._panels = panels if panels is not None else load_panels()
        self._refresh_s = refresh_s
        self.ticking = ticking
        self._painted = float("-inf")
        self._said = float("-inf")
        self._in_front = True

    @property
    def own_themes(self) -> list[str]:
        """The names of the user's own themes."""
        return own_names(self._themes)

    def choose_theme(self, name: str) -> None:
        """Draw with another theme from now on, or say what is wrong with its file."""
        try:
            self._use_theme(chosen(name, self._themes))
        except InvalidInput as error:
            self.say("crit", str(error))
            return
        self.say("ok", f"theme {name}; --theme {name} begins with it")
        self.call_after_refresh(self.paint)

    def _use_theme(self, found: Theme) -> None:
        """A file may have been edited since it was read: the same name is another theme then."""
        self.register_theme(found)
        if self.theme == found.name:
            self._watch_theme(found.name)
        self._inks = None
        self.theme = found.name

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Inks and hues for a theme that is not ours."""
        return theme.derived(self.current_theme)

    @property
    def inks(self) -> Inks:
        """The current theme's inks."""
        if self._inks is None or self._inks[0] != self.theme:
            # theme_variables are still those of the theme before until the style sheet is read anew
            self._inks = (self.theme, theme.inks(self.get_css_variables()))
        return self._inks[1]

    @property
    def view(self) -> View:
        """What the blocks draw now."""
        return self.board.view(self.clock(), self._reader.lost)

    def get_default_screen(self) -> Dashboard:
        """The dashboard is the first screen; there is no empty one under it."""
        return Dashboard(self._panels)

    def get_driver_class(self) -> type[Driver]:
        """What Textual would take, writing less."""
        return terse(super().get_driver_class(), self._shown)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """What every line passes through on its way to the terminal."""
        return [*super().get_line_filters(), *([AsciiOnly()] if self._ascii_only else [])]

    def on_mount(self) -> None:
        """Begin to listen."""
        self._reader.notify = self._notified
        if not self._reader.started:
            self._reader.start()
        self.post_message(Sampled())
        if self._panel_files is not None:
            self._panel_files.start(self._panels_told)
        if self.ticking:
            self.set_interval(1.0, self.tick)
            self.set_timer(_WARM_AFTER_S, self.warm)

    def warm(self) -> None:
        """Make the other screens ready while nobody waits, so that the first key is no slower."""

        def work() -> None:
            import_all()
            self.call_from_thread(self._read_styles)
            self._garbage.take_over()

        self.run_worker(work, name="screens", group="screens", thread=True)

    def _read_styles(self) -> None:
        """Their style sheets; no widget that is there now has a rule in them."""
        fresh = [path for path in STYLES if not self.stylesheet.has_source(str(path), "")]
        if fresh:
            self.stylesheet.read_all(fresh)
            self.stylesheet.reparse()

    def _notified(self) -> None:
        """Called in the reader's thread."""
        self.post_message(Sampled())

    def _panels_told(self, news: tuple[PanelSpec, ...] | str) -> None:
        """Called in the watcher's thread."""
        self.post_message(PanelsChanged(news))

    def on_unmount(self) -> None:
        """Leave no thread behind."""
        if self._panel_files is not None:
            self._panel_files.close()
        self._reader.close()
        self._garbage.give_back()

    async def on_event(self, event: events.Event) -> None:
        """Know when somebody types, and when the terminal becomes another."""
        if isinstance(event, events.Key):
            self._garbage.typed()
        elif isinstance(event, events.Resize):
            self._shown.resized()
        await super().on_event(event)

    def laid_out(self) -> None:
        """A screen of the terminal's new size is about to be drawn."""
        self._shown.resized()

    def pop_screen(self) -> AwaitComplete:
        """Show the screen below; what the closed one leaves is collected when nobody waits."""
        self._shown.forget()
        self._garbage.closed()
        self._sweep_soon()
        return super().pop_screen()

    def _sweep_soon(self) -> None:
        if self._garbage.due and self.ticking:
            self.set_timer(_SWEEP_AFTER_S, self._sweep)

    def _sweep(self) -> None:
        if self._garbage.due and not self._garbage.sweep():
            self._sweep_soon()

    def on_sampled(self) -> None:
        """Something is new: take it, and paint unless the last paint was just now."""
        if self.board.paused:
            return
        items = self._reader.drain()
        news = self.board.snapshot is None or any(not isinstance(i, Snapshot) for i in items)
        self.board.take(items, self.clock())
        self.tell_outcomes()
        if self._begin is not None and self.board.snapshot is not None:
            begin, self._begin = self._begin, None
            self.travel_to(begin)
        if self.board.past is not None:
            return
        wait = self._refresh_s if self._in_front else max(UNSEEN_S, self._refresh_s)
        if news or self._reader.lost or self.clock() - self._painted >= wait * 0.8:
            self.paint()
            self._sweep_soon()

    def tick(self) -> None:
        """Once a second: an old picture grows older, a notice goes away."""
        if self.clock() - self._said >= _NOTICE_S:
            for screen in self._painted_screens:
                screen.say("", "")
        view = self.view
        if view.old_s is not None or self.clock() - self._painted >= max(2.0, UNSEEN_S):
            self.paint()

    def paint(self) -> None:
        """Draw the newest view on the screen on top."""
        self._painted = self.clock()
        screen = self._painted_screens[-1]
        if screen.composed:
            with self.batch_update():
                screen.paint(self.view)

    async def on_panels_changed(self, message: PanelsChanged) -> None:
        """Panel files were edited: show what they say now."""
        dashboard = next(s for s in self.screen_stack if isinstance(s, Dashboard))
        if isinstance(message.panels, str):
            self.say("crit", message.panels)
        else:
            await dashboard.take_panels(message.panels)

    @property
    def _painted_screens(self) -> list[Painted]:
        """The screens that draw snapshots, the one in front last."""
        return [screen for screen in self.screen_stack if isinstance(screen, Painted)]

    def pause(self, paused: bool) -> None:
        """Hold the picture still; what comes meanwhile is taken in at the end."""
        self.board.paused = paused
        if not paused:
            self.board.take(self._reader.drain(), self.clock())
        self.paint()

    def on_app_blur(self, event: events.AppBlur) -> None:
        """Nobody looks: paint seldom. A page begins so, and may be watched for all that."""
        self._in_front = self.is_web

    def on_app_focus(self, event: events.AppFocus) -> None:
        """Somebody looks again: all is drawn, for what another program may have written there."""
        self._in_front = True
        self.action_redraw()

    def action_redraw(self) -> None:
        """Draw everything anew, whatever the terminal is thought to show."""
        self._shown.forget()
        self.screen.refresh()
        self.paint()

    def say(self, level: str, text: str) -> None:
        """One line about what a key did, on the screen in front and those it was opened from."""
        self._said = self.clock()
        for screen in self._painted_screens:
            screen.say(level, text)
