"""The worker screen: settings, start, failure, process, command line, and the live log."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding

from vllm_console.errors import ConsoleError
from vllm_console.ui.blocks import worker as about
from vllm_console.ui.blocks import worker_line
from vllm_console.ui.key_line import KeyLine
from vllm_console.ui.lines import Lines
from vllm_console.ui.log_view import LogView
from vllm_console.ui.messages import LogFailed, LogRead
from vllm_console.ui.screens.painted import Painted
from vllm_console.ui.view import View

_LOG_ROWS = 8
"""Rows that the log keeps on a short screen."""
_LINES = 400


class WorkerDetail(Painted):
    """One worker, or a model that has none."""

    CSS_PATH = "worker.tcss"
    AUTO_FOCUS = "#log"
    BINDINGS: ClassVar = [
        Binding("escape", "back", "back", key_display="esc"),
        Binding("up", "scroll_log(-1)", "scroll", key_display="↑"),
        Binding("down", "scroll_log(1)", "scroll", key_display="↓"),
        Binding("k", "scroll_log(-1)", "scroll", show=False),
        Binding("j", "scroll_log(1)", "scroll", show=False),
        Binding("pageup", "scroll_page(-1)", "a page up", show=False, key_display="pgup"),
        Binding("pagedown", "scroll_page(1)", "a page down", show=False, key_display="pgdn"),
        Binding("home", "scroll_log(-1000000)", "the oldest line", show=False, key_display="home"),
        Binding("f", "scroll_log(1000000)", "follow"),
        Binding("end", "scroll_log(1000000)", "follow", show=False, key_display="end"),
        Binding("left", "shift_log(-16)", "to the left", show=False, key_display="←"),
        Binding("right", "shift_log(16)", "to the right", show=False, key_display="→"),
        Binding("n", "next", "next worker"),
        Binding("l", "load", "load"),
        Binding("u", "unload", "unload"),
        Binding("r", "restart", "restart"),
        Binding("question_mark", "help", "help", key_display="?"),
        Binding("q", "quit", "quit"),
    ]

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key
        self._shown: str | None = ""
        """The worker whose log is shown; `None` when there is none, empty before the first look."""
        self._reading = False

    def compose(self) -> ComposeResult:
        """A line, the facts, the log, the keys."""
        yield Lines(worker_line.draw, id="worker")
        yield Lines(about.draw, id="about")
        log = LogView(id="log")
        log.border_title = "log"
        yield log
        yield KeyLine(id="keys")

    def on_mount(self) -> None:
        """Begin to follow the log."""
        if self.console_app.ticking:
            self.set_interval(1.0, self.read_on)

    def paint(self, view: View) -> None:
        """Draw this worker, whatever is selected on the dashboard."""
        view = replace(view, selected=self._key)
        facts = self.query_one("#about", Lines)
        width, height = self.size.width - 4, max(3, self.size.height - 2 - _LOG_ROWS - 2)
        rows = min(height, len(about.draw(view, width, 99)))
        if facts.styles.height is None or facts.styles.height.value != rows:
            facts.styles.height = rows
        for lines in self.query(Lines):
            lines.show(view)
        worker = view.worker
        if (worker.id if worker else None) != self._shown:
            self._shown = worker.id if worker else None
            self._start_over()

    def on_resize(self, event: events.Resize) -> None:
        """The facts take as many rows as they have."""
        self.call_after_refresh(self.console_app.paint)

    def _start_over(self) -> None:
        log = self.query_one(LogView)
        log.take("", 0, fresh=True)
        log.buffer.offset = None
        if self._shown is None:
            log.problem = "no worker, so no log"
        log.show(log._view)
        self.read_on()

    def read_on(self) -> None:
        """Read what was written since, in a thread, unless one still reads."""
        if not self._shown or self._reading:
            return
        self._reading = True
        offset = self.query_one(LogView).buffer.offset
        self.run_worker(partial(self._read, self._shown, offset), group="log", thread=True)

    def _read(self, worker: str, offset: int | None) -> None:
        try:
            client = self.console_app.connect()
            try:
                piece = client.log(worker, offset, _LINES)
            finally:
                client.close()
        except (ConsoleError, OSError) as error:
            self.post_message(LogFailed(worker, str(error)))
        else:
            self.post_message(LogRead(worker, piece.offset, piece.text, fresh=offset is None))

    def on_log_read(self, message: LogRead) -> None:
        """Show it, if it is still this worker's."""
        self._reading = False
        if message.worker != self._shown:
            self.read_on()
            return
        log = self.query_one(LogView)
        shorter = log.buffer.offset is not None and message.offset < log.buffer.offset
        if shorter:
            log.buffer.offset = None
            self.read_on()
        elif message.text or message.fresh:
            log.take(message.text, message.offset, fresh=message.fresh)

    def on_log_failed(self, message: LogFailed) -> None:
        """Say why; lines already here stay."""
        self._reading = False
        log = self.query_one(LogView)
        log.problem = message.reason
        worker = self._view.worker
        if not log.buffer.lines and worker is not None and worker.failure is not None:
            for line in worker.failure.log_excerpt:
                log.buffer.lines.append(line)
        log.show(self._view)

    @property
    def _view(self) -> View:
        return replace(self.console_app.view, selected=self._key)

    def action_back(self) -> None:
        """Back to the dashboard."""
        self.dismiss()

    def action_scroll_log(self, lines: int) -> None:
        """Scroll the log; its end follows."""
        self.query_one(LogView).scroll_lines(lines)

    def action_scroll_page(self, pages: int) -> None:
        """Scroll the log by what is on the screen."""
        log = self.query_one(LogView)
        log.scroll_lines(pages * max(1, log.size.height - 1))

    def action_shift_log(self, cells: int) -> None:
        """See the rest of long lines."""
        self.query_one(LogView).scroll_cells(cells)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """The wheel scrolls the log."""
        self.action_scroll_log(3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """The wheel scrolls the log."""
        self.action_scroll_log(-3)

    def action_next(self) -> None:
        """The next worker of the same model."""
        view = self._view
        model, worker = view.model, view.worker
        if model is None or worker is None or len(model.workers) < 2:
            self.say("info", "this model has no other worker")
            return
        ids = [one.id for one in model.workers]
        self._key = f"worker/{ids[(ids.index(worker.id) + 1) % len(ids)]}"
        self.console_app.paint()

    def action_load(self) -> None:
        """Start its model's workers."""
        self.console_app.act("load", self._view.model)

    def action_unload(self) -> None:
        """Drain and stop its model's workers, after a question."""
        self.console_app.act("unload", self._view.model)

    def action_restart(self) -> None:
        """Stop and start its model's workers, after a question."""
        self.console_app.act("restart", self._view.model)

    def action_help(self) -> None:
        """Show all keys that act here."""
        from vllm_console.ui.screens.help import Help

        self.app.push_screen(Help(self))

    def action_quit(self) -> None:
        """Leave the console; the fleet goes on."""
        self.app.exit(return_code=0)
