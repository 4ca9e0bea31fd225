"""The worker screen: overview, configuration, environment, timeline, log, GPUs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from textual import events
from textual._path import CSSPathType
from textual.app import ComposeResult
from textual.binding import Binding

from vllm_console.looks import Configured, Setting, Variable
from vllm_console.snapshot import Event, from_json
from vllm_console.ui.blocks import worker as about
from vllm_console.ui.blocks import worker_line
from vllm_console.ui.blocks.configured import (
    gpu_rows,
    heading,
    setting_row,
    setting_text,
    variable_row,
)
from vllm_console.ui.blocks.happenings import event_row, event_text
from vllm_console.ui.key_line import KeyLine
from vllm_console.ui.lines import Lines
from vllm_console.ui.listing import Listing
from vllm_console.ui.log_view import LogView
from vllm_console.ui.rows import Row, clip, text_of
from vllm_console.ui.screens.page import (
    BACK,
    COPY,
    ENDS,
    FILTER,
    MOVES,
    Page,
    PageFilter,
    holds,
    tab_keys,
)
from vllm_console.ui.screens.painted import CHANGES, SCALES
from vllm_console.ui.view import View

_LOG_ROWS = 8
"""Rows that the log keeps on a short screen."""
_LINES = 400
_MANY_LINES = 5000
"""Lines read for the log tab: a failure may lie far back."""


class WorkerDetail(Page):
    """One worker, or a model that has none."""

    CSS_PATH: ClassVar[CSSPathType | None] = ["page.tcss", "worker.tcss"]
    AUTO_FOCUS = "#log"
    TABS = ("overview", "config", "environment", "timeline", "log", "GPUs")
    BINDINGS: ClassVar = [
        BACK,
        *tab_keys(TABS),
        *MOVES,
        Binding("f", "move(1000000000)", "follow", tooltip="stay at the newest line"),
        FILTER,
        Binding("v", "level", "level", tooltip="every line, warnings and failures, failures"),
        Binding("x", "first", "failures first", show=False, tooltip="failures before the rest"),
        Binding("n", "jump(1)", "next failure", tooltip="to the next failure of the log"),
        Binding("N", "jump(-1)", "failure before", show=False, key_display="N"),
        Binding("o", "other", "other worker", tooltip="the next worker of the same model"),
        COPY,
        *CHANGES,
        *SCALES,
        *ENDS,
    ]

    def __init__(self, key: str, tab: str = "overview") -> None:
        super().__init__()
        self._key = key
        self.tab = self.TABS.index(tab)
        self._shown: str | None = ""
        """The worker whose log is shown; `None` when there is none, empty before the first look."""
        self._configured: Configured | None = None
        self._configured_for = ""
        self._events: list[Event] = []
        self._many = False

    def compose(self) -> ComposeResult:
        """A line, the facts, the list or the log, the keys."""
        yield Lines(self.draw_title, id="title")
        yield Lines(about.draw, id="facts")
        yield Listing(self.draw_one)
        log = LogView(id="log")
        log.border_title = "log"
        yield log
        yield PageFilter(id="filter")
        yield KeyLine(id="keys")

    @property
    def log_view(self) -> LogView:
        """The log."""
        return self.query_one("#log", LogView)

    @property
    def shows(self) -> str:
        """The tab that is shown."""
        return self.TABS[self.tab]

    @property
    def about(self) -> View:
        """The newest view with this worker selected, whatever is on the dashboard."""
        return replace(self.console_app.view, selected=self._key)

    def draw_title(self, view: View, width: int, height: int) -> list[Row]:
        """Who it is and how it is, then the tabs."""
        return [*worker_line.draw(view, width, 1), self.tabs(width)]

    def draw_one(self, item: Any, width: int) -> Row:
        """A setting, a variable, an event, or a row as it is."""
        if isinstance(item, Setting):
            return setting_row(item, width)
        if isinstance(item, Variable):
            return variable_row(item, width)
        if isinstance(item, Event):
            alone = len({event.subject for event in self._events}) == 1
            return event_row(item, width, self.console_app.board.zone, subject=not alone)
        return clip(item, width)

    def text_of(self, item: Any) -> str:
        """What `y` copies."""
        if isinstance(item, (Setting, Variable)):
            return setting_text(item)
        return event_text(item) if isinstance(item, Event) else text_of([item]).strip()

    # -- painting --------------------------------------------------------------------------

    def paint(self, view: View) -> None:
        """Draw this worker, whatever is selected on the dashboard."""
        view = replace(view, selected=self._key)
        self.set_class(self.shows == "overview", "-overview")
        self.set_class(self.shows in ("overview", "log"), "-log")
        facts = self.query_one("#facts", Lines)
        width, height = self.size.width - 4, max(3, self.size.height - 3 - _LOG_ROWS - 2)
        rows = min(height, len(about.draw(view, width, 99)))
        if facts.styles.height is None or facts.styles.height.value != rows:
            facts.styles.height = rows
        if self.shows == "GPUs":
            self.listing.items = gpu_rows(view, min(110, self.size.width - 6))
            self.listing.empty = _no_gpus(view)
        for lines in self.query(Lines):
            lines.show(view)
        worker = view.worker
        if (worker.id if worker else None) != self._shown:
            self._shown = worker.id if worker else None
            self._start_over()

    def on_resize(self, event: events.Resize) -> None:
        """The facts take as many rows as they have."""
        self.call_after_refresh(self.console_app.paint)

    def refill(self) -> None:
        """Choose what the list shows."""
        listing = self.listing
        listing.border_title = self.shows
        wide = max(60, self.size.width - 4)
        if self.shows == "config":
            listing.border_title = heading(self._configured, wide)
            told = self._configured.settings if self._configured else ()
            listing.fill([one for one in told if holds(self.words, setting_text(one))])
            if told:
                listing.empty = ("no line is left", "esc clears the filter")
        elif self.shows == "environment":
            told_env = self._configured.environment if self._configured else ()
            listing.fill([one for one in told_env if holds(self.words, setting_text(one))])
            if self._configured is not None:
                listing.empty = ("it gets only the environment of the daemon", "")
        elif self.shows == "timeline":
            found = [e for e in self._events if holds(self.words, event_text(e))]
            listing.empty = ("nothing of it was written down yet", "")
            listing.fill(found, at=len(found) - 1)
        if self.shows == "log" and not self._many:
            self._many, self._shown = True, ""

    def action_tab(self, number: int) -> None:
        """Show another tab, and put the keys on what it shows."""
        super().action_tab(number)
        goal = "#log" if self.shows in ("overview", "log") else "#list"
        self.call_after_refresh(self.query_one(goal).focus)

    # -- reading ---------------------------------------------------------------------------

    def _start_over(self) -> None:
        log = self.log_view
        log.take("", 0, fresh=True)
        log.buffer.offset = None
        if self._shown is None:
            log.problem = "no worker, so no log"
        self._events = []
        log.again()
        self.read_on()

    def read_on(self) -> None:
        """Read what was written since."""
        worker, model = self._shown, self.about.model
        if self.shows in ("config", "environment") and model is not None:
            name = model.name
            if self._configured_for != f"{name} {model.revision}":
                self.fetch("config", lambda client: client.command("config", model=name))
        elif self.shows == "timeline":
            after = self._events[-1].seq if self._events else 0
            self.fetch("events", lambda client: client.events(after))
        if worker:
            offset = self.log_view.buffer.offset
            lines = _MANY_LINES if self._many else _LINES
            self.fetch("log", lambda client: (worker, offset, client.log(worker, offset, lines)))

    def arrived(self, what: str, value: Any) -> None:
        """Take what was read."""
        if what == "log":
            self._log_read(*value)
        elif what == "config":
            self._configured = from_json(Configured, value)
            self._configured_for = f"{self._configured.model} {self._configured.revision}"
            self.refill()
        else:
            model = self.about.model
            names = {model.name, *(w.id for w in model.workers)} if model else set()
            if self._key.startswith("worker/"):
                names = {self._key.partition("/")[2], model.name if model else ""}
            known = self._events[-1].seq if self._events else 0
            new = [e for e in value if e.seq > known and e.subject in names]
            if new or not self._events:
                self._events += new
                self.refill()

    def _log_read(self, worker: str, asked: int | None, piece: Any) -> None:
        if worker != self._shown:
            self.read_on()
            return
        log = self.log_view
        if log.buffer.offset is not None and piece.offset < log.buffer.offset:
            log.buffer.offset = None  # the log began anew
            self.read_on()
        elif piece.text or asked is None:
            log.take(piece.text, piece.offset, fresh=asked is None)

    def missed(self, what: str, reason: str) -> None:
        """Say why; lines already here stay."""
        if what != "log":
            super().missed(what, reason)
            return
        log = self.log_view
        log.problem = reason
        worker = self.about.worker
        if not log.buffer.lines and worker is not None and worker.failure is not None:
            log.buffer.add("\n".join([*worker.failure.log_excerpt, ""]), 0, fresh=True)
            log.buffer.offset = None
        log.again()

    # -- keys ------------------------------------------------------------------------------

    def standing(self, action: str, parameters: tuple[object, ...] = ()) -> str:
        """What acts on the log is offered where there is one."""
        of_log = action in ("level", "first", "jump") or parameters == (1000000000,)
        if of_log and not self._on_log:
            return "absent"
        return super().standing(action, parameters)

    @property
    def _on_log(self) -> bool:
        return self.shows in ("overview", "log")

    def action_move(self, items: int) -> None:
        """Scroll the log, or move the cursor."""
        if self._on_log:
            self.log_view.scroll_lines(items)
        else:
            self.listing.move(items)

    def action_page(self, pages: int) -> None:
        """Scroll by what is on the screen."""
        if self._on_log:
            self.log_view.scroll_lines(pages * max(1, self.log_view.size.height - 1))
        else:
            self.listing.page(pages)

    def action_slide(self, cells: int) -> None:
        """See the rest of long lines."""
        if self._on_log:
            self.log_view.scroll_cells(cells)
        else:
            self.listing.slide(cells)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """The wheel scrolls the log."""
        self.action_move(3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """The wheel scrolls the log."""
        self.action_move(-3)

    def on_filter_line_typed(self, message: PageFilter.Typed) -> None:
        """The log or the list narrows with each letter."""
        if self._on_log:
            self.log_view.narrow(words=message.words)
        super().on_filter_line_typed(message)

    def action_back(self) -> None:
        """Out of the filter and the level, then back to the screen before."""
        log = self.log_view
        if self._on_log and (log.words or log.least or log.errors_first):
            self.words = ""
            log.narrow(words="", least=0, errors_first=False)
        else:
            super().action_back()

    def action_level(self) -> None:
        """Show only warnings and failures, only failures, then all lines again."""
        self.log_view.narrow(least=(self.log_view.least + 1) % 3)

    def action_first(self) -> None:
        """Failures before the rest, or all in their order again."""
        self.log_view.narrow(errors_first=not self.log_view.errors_first)

    def action_jump(self, step: int) -> None:
        """To the next failure of the log, or the one before."""
        if not self.log_view.jump(step):
            self.say("info", "no failure in the lines of the log that are here")

    def action_copy(self) -> None:
        """Copy the marked line of the log, or the line under the cursor."""
        if not self._on_log:
            super().action_copy()
        elif (line := self.log_view.marked) is not None:
            self.console_app.copy(line)
        else:
            self.say("info", "there is nothing to copy")

    def action_other(self) -> None:
        """The next worker of the same model."""
        view = self.about
        model, worker = view.model, view.worker
        if model is None or worker is None or len(model.workers) < 2:
            self.say("info", "this model has no other worker")
            return
        ids = [one.id for one in model.workers]
        self._key = f"worker/{ids[(ids.index(worker.id) + 1) % len(ids)]}"
        self.console_app.paint()


def _no_gpus(view: View) -> tuple[str, str]:
    reason = view.snapshot.gpus_reason if view.snapshot else None
    return (reason or "this worker uses no GPU", "")
