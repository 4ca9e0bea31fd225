"""The history screen: percentiles of a model, a worker or the fleet over three spans."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from textual._path import CSSPathType
from textual.app import ComposeResult
from textual.binding import Binding

from vllm_console.answer import Answer, Mark, Measured, Question
from vllm_console.ui.blocks.fleet_line import time_of
from vllm_console.ui.blocks.percentiles import (
    LABELS,
    graph,
    mark_row,
    measured_text,
    table_head,
    table_row,
)
from vllm_console.ui.key_line import KeyLine
from vllm_console.ui.lines import Lines
from vllm_console.ui.listing import Listing
from vllm_console.ui.rows import Row, quiet, spread
from vllm_console.ui.screens.page import BACK, COPY, ENDS, MOVES, Page, PageFilter, tab_keys
from vllm_console.ui.view import View

_SPANS = ((900.0, 5.0, 5.0), (86_400.0, 300.0, 60.0), (2_592_000.0, 10_800.0, 600.0))
"""Seconds of a span, of its steps, and between two looks at it."""
_MARKS = 40


class HistoryPage(Page):
    """What the stored past says of one subject."""

    CSS_PATH: ClassVar[CSSPathType | None] = ["page.tcss", "history.tcss"]
    TABS = ("15 min", "24 h", "30 d")
    BINDINGS: ClassVar = [
        BACK,
        *tab_keys(TABS),
        *MOVES,
        Binding("o", "other(1)", "other subject", tooltip="the model, its workers, the fleet"),
        Binding("c", "compare", "compare", tooltip="with the span before, or not"),
        COPY,
        *ENDS,
    ]

    def __init__(self, key: str | None) -> None:
        super().__init__()
        self._key = key or "fleet"
        self._compared = True
        self._answer: Answer | None = None
        self._problem = ""
        self._asked_at = float("-inf")
        self._wanted = ("", 0, True)
        """Subject, tab and comparison of the answer that is here or on its way."""

    def compose(self) -> ComposeResult:
        """A line, the graph, the table with the markers, the keys."""
        yield Lines(self.draw_title, id="title")
        yield Lines(self.draw_graph, id="graph")
        yield Listing(self.draw_one)
        yield PageFilter(id="filter")
        yield KeyLine(id="keys")

    @property
    def subject(self) -> str:
        """Whom the question is about, as a person writes it."""
        return self._key.partition("/")[2] or self._key

    def draw_title(self, view: View, width: int, height: int) -> list[Row]:
        """The subject, the spans, the time."""
        kind = self._key.partition("/")[0] if "/" in self._key else ""
        first: Row = [("history ", "label"), (self.subject, "engines!"), (f"  {kind}   ", "dim")]
        return [spread([*first, *self.tabs(width)], time_of(view), width)]

    def draw_graph(self, view: View, width: int, height: int) -> list[Row]:
        """The metric under the cursor."""
        measured = self._measured
        if self._answer is None or measured is None:
            return quiet(width, height, self._problem or "asking …")
        return graph(self._answer, measured, width, height, self.console_app.board.zone)

    def draw_one(self, item: Any, width: int) -> Row:
        """A metric or a marker."""
        if isinstance(item, Measured):
            return table_row(item, width, self._compared)
        if isinstance(item, Mark):
            return mark_row(item, width, self.console_app.board.zone)
        return table_head(width, self._compared) if item == "head" else []

    def text_of(self, item: Any) -> str:
        """One line."""
        if isinstance(item, Measured):
            return f"{self.subject}  {measured_text(item)}"
        return f"{item.at}  {item.subject}  {item.text}" if isinstance(item, Mark) else ""

    @property
    def _measured(self) -> Measured | None:
        """The metric under the cursor, else the first."""
        measured = self._answer.measured if self._answer else ()
        item = self.listing.item
        if isinstance(item, Measured):
            return item
        return measured[0] if measured else None

    def read_on(self) -> None:
        """Ask again when the answer is of another question, or old."""
        view = self.console_app.view
        if view.snapshot is None:
            return
        seconds, step, every = _SPANS[self.tab]
        wanted = (self.subject, self.tab, self._compared)
        until = datetime.fromisoformat(view.snapshot.at).timestamp()
        if wanted == self._wanted and abs(until - self._asked_at) < every:
            return
        if wanted != self._wanted:
            self._answer, self._problem = None, ""
        self._wanted, self._asked_at = wanted, until
        question = Question(
            self.subject,
            tuple(LABELS),
            until - seconds,
            until,
            step=step,
            compare=self._compared,
        )
        self.fetch(f"history {wanted}", lambda client: (wanted, client.ask(question)))

    def arrived(self, what: str, value: tuple[Any, Answer]) -> None:
        """Show it, if it is what is still wanted."""
        wanted, answer = value
        if wanted == self._wanted:
            self._answer, self._problem = answer, ""
            self.refill()
            self.console_app.paint()

    def missed(self, what: str, reason: str) -> None:
        """Say why there is none."""
        self._problem = reason
        self.listing.empty = ("", "")
        self.console_app.paint()

    def refill(self) -> None:
        """The table, then the markers, newest first."""
        answer = self._answer
        if answer is None:
            self.listing.empty = ("", "")
            return
        marks = list(reversed(answer.marks))[:_MARKS]
        fresh = not self.listing.items
        items = ["head", *answer.measured, *(["", *marks] if marks else [])]
        self.listing.fill(items, at=1 if fresh else None)

    def paint(self, view: View) -> None:
        """The table takes what it needs, the graph the rest."""
        least = len(LABELS) + 3
        room = max(least, min(self.size.height // 2, len(self.listing.items) + 2))
        if self.listing.styles.height is None or self.listing.styles.height.value != room:
            self.listing.styles.height = room
        super().paint(view)

    def _graph_again(self) -> None:
        self.query_one("#graph", Lines).show(self.console_app.view)

    def action_move(self, items: int) -> None:
        """Another metric, and its graph."""
        super().action_move(items)
        self._graph_again()

    def action_page(self, pages: int) -> None:
        """A page of the list."""
        super().action_page(pages)
        self._graph_again()

    def on_click(self) -> None:
        """A click on a metric shows its graph."""
        self._graph_again()

    def action_compare(self) -> None:
        """Compare with the span before, or not."""
        self._compared = not self._compared
        self.read_on()
        self.console_app.paint()

    def action_other(self, step: int) -> None:
        """The model, its workers one by one, the fleet, the next model."""
        snapshot = self.console_app.view.snapshot
        keys = ["fleet"]
        for model in snapshot.models if snapshot else ():
            keys.append(f"model/{model.name}")
            keys += [f"worker/{w.id}" for w in model.workers if len(model.workers) > 1]
        at = keys.index(self._key) if self._key in keys else 0
        self._key = keys[(at + step) % len(keys)]
        self.read_on()
        self.console_app.paint()
