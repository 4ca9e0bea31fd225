"""What the screens beside the dashboard share: tabs, a list, a filter, questions in threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from textual._path import CSSPathType
from textual.app import ComposeResult
from textual.binding import Binding
from textual.message import Message

from vllm_console.errors import ConsoleError
from vllm_console.ui.filter_line import FilterLine
from vllm_console.ui.key_line import KeyLine
from vllm_console.ui.lines import Lines
from vllm_console.ui.listing import Listing
from vllm_console.ui.rows import Row, cut_left, spread
from vllm_console.ui.screens.painted import Painted
from vllm_console.ui.source import FleetClient
from vllm_console.ui.view import View

Question = Callable[[FleetClient], Any]

BACK = Binding("escape", "back", "back", key_display="esc", tooltip="back, or out of the filter")
MOVES = (
    Binding("up", "move(-1)", "line above", show=False, key_display="↑"),
    Binding("k", "move(-1)", "line above", show=False),
    Binding("down", "move(1)", "line below", show=False, key_display="↓"),
    Binding("j", "move(1)", "line below", show=False),
    Binding("pageup", "page(-1)", "a page up", show=False, key_display="pgup"),
    Binding("pagedown", "page(1)", "a page down", show=False, key_display="pgdn"),
    Binding("home", "move(-1000000)", "first line", show=False, key_display="home"),
    Binding("end", "move(1000000)", "last line", show=False, key_display="end"),
    Binding("left", "slide(-16)", "to the left", show=False, key_display="←"),
    Binding("right", "slide(16)", "to the right", show=False, key_display="→"),
)
FILTER = Binding("slash", "filter", "filter", key_display="/", tooltip="show only lines that match")
COPY = Binding("y", "copy", "copy", tooltip="copy the line to the clipboard")
ENDS = (
    Binding("colon", "palette", "commands", show=False, key_display=":", tooltip="every command"),
    Binding("question_mark", "help", "help", key_display="?", tooltip="these keys"),
    Binding("q", "quit", "quit", tooltip="leave the console; the fleet goes on"),
)


@dataclass
class Fetched(Message):
    """An answer of the daemon has arrived, or the reason why there is none."""

    what: str
    value: Any
    problem: str | None


class PageFilter(FilterLine):
    """The filter's words of a page's list."""

    def draw(self, view: View, width: int, height: int) -> list[Row]:
        """The words, and the keys that end them."""
        keys: Row = [("enter", "engines!"), (" keep  ", "label"), ("esc", "engines!")]
        words = cut_left(self.words, max(8, width - 30))
        left: Row = [("/ ", "engines!"), (words, "value"), ("▏", "engines!")]
        return [spread(left, [*keys, (" clear", "label")], width)]

    def _close(self) -> None:
        self.screen.remove_class("-filtering")
        page = self.screen
        assert isinstance(page, Page)
        page.query_one(page.AUTO_FOCUS or "#list").focus()


class Page(Painted):
    """A screen over the dashboard: a line that says what it is, a list, its keys."""

    CSS_PATH: ClassVar[CSSPathType | None] = "page.tcss"
    AUTO_FOCUS = "#list"
    TABS: ClassVar[tuple[str, ...]] = ()
    """Names of what the list can show; the keys 1, 2, … and tab choose."""
    follows: ClassVar[bool] = False
    """Whether the list grows at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.tab = 0
        self.words = ""
        self._asked: set[str] = set()

    def compose(self) -> ComposeResult:
        """A line, the list, the filter, the keys."""
        yield Lines(self.draw_title, id="title")
        yield Listing(self.draw_one, follow=self.follows)
        yield PageFilter(id="filter")
        yield KeyLine(id="keys")

    def draw_title(self, view: View, width: int, height: int) -> list[Row]:
        """What this screen is about."""
        raise NotImplementedError

    def draw_one(self, item: Any, width: int) -> Row:
        """The row of one item of the list."""
        raise NotImplementedError

    def text_of(self, item: Any) -> str:
        """What `y` copies of an item."""
        return str(item)

    @property
    def listing(self) -> Listing:
        """The list."""
        return self.query_one("#list", Listing)

    def on_mount(self) -> None:
        """Ask for what the list shows, and again each second."""
        self.refill()
        self.read_on()
        if self.console_app.ticking:
            self.set_interval(1.0, self.read_on)

    def read_on(self) -> None:
        """Ask for what is new."""

    def refill(self) -> None:
        """Choose anew what the list shows: other words, another tab, something new."""

    def paint(self, view: View) -> None:
        """Draw every widget with the newest view."""
        for lines in self.query(Lines):
            lines.show(view)

    # -- questions -------------------------------------------------------------------------

    def fetch(self, what: str, question: Question) -> None:
        """Ask the daemon in a thread, unless the same is still being asked."""
        if what not in self._asked:
            self._asked.add(what)
            self.run_worker(partial(self._fetch, what, question), group=what, thread=True)

    def _fetch(self, what: str, question: Question) -> None:
        try:
            client = self.console_app.connect()
            try:
                value = question(client)
            finally:
                client.close()
        except (ConsoleError, OSError) as error:
            self.post_message(Fetched(what, None, str(error)))
        else:
            self.post_message(Fetched(what, value, None))

    def on_fetched(self, message: Fetched) -> None:
        """Hand the answer on."""
        self._asked.discard(message.what)
        if message.problem is None:
            self.arrived(message.what, message.value)
        else:
            self.missed(message.what, message.problem)

    def arrived(self, what: str, value: Any) -> None:
        """Take an answer."""

    def missed(self, what: str, reason: str) -> None:
        """There is no answer: what is here stays, and an empty list says why."""
        self.listing.empty = (reason, "")
        self.refill()

    # -- keys ------------------------------------------------------------------------------

    def tabs(self, width: int) -> Row:
        """The names of the tabs, the one that is shown bright."""
        row: Row = []
        for number, name in enumerate(self.TABS):
            here = number == self.tab
            row += [
                ("  " if row else "", ""),
                ("¹²³⁴⁵⁶⁷⁸⁹"[number], "engines!" if here else "dim"),
                (name, "value" if here else "label"),
            ]
        return row

    def action_tab(self, number: int) -> None:
        """Show another tab."""
        self.tab = number % len(self.TABS)
        self.refill()
        self.read_on()
        self.console_app.paint()

    def action_next_tab(self, step: int) -> None:
        """Show the tab beside this one."""
        self.action_tab(self.tab + step)

    def action_back(self) -> None:
        """Out of the filter, then back to the screen before."""
        if self.words:
            self.words = ""
            self.refill()
            self.console_app.paint()
        else:
            self.dismiss()

    def action_move(self, items: int) -> None:
        """Move the cursor."""
        self.listing.move(items)

    def action_page(self, pages: int) -> None:
        """Move the cursor by a page."""
        self.listing.page(pages)

    def action_slide(self, cells: int) -> None:
        """See the rest of long lines."""
        self.listing.slide(cells)

    def action_filter(self) -> None:
        """Type words that a line must hold."""
        self.query_one(PageFilter).open(self.words)

    def on_filter_line_typed(self, message: FilterLine.Typed) -> None:
        """The list narrows with each letter."""
        self.words = message.words
        self.refill()
        self.console_app.paint()

    def action_copy(self) -> None:
        """Copy the line under the cursor."""
        item = self.listing.item
        if item is None:
            self.say("info", "there is nothing to copy")
        else:
            self.console_app.copy(self.text_of(item))

    def action_palette(self) -> None:
        """Every command, by its name."""
        self.console_app.open_palette()

    def action_help(self) -> None:
        """Show all keys that act here."""
        from vllm_console.ui.screens.help import Help

        self.app.push_screen(Help(self))

    def action_quit(self) -> None:
        """Leave the console; the fleet goes on."""
        self.app.exit(return_code=0)


def tab_keys(names: tuple[str, ...]) -> tuple[Binding, ...]:
    """The keys that choose among tabs."""
    last = f"1-{len(names)}"
    tip = "show " + ", ".join(names)
    numbers = (
        Binding(str(n + 1), f"tab({n})", "tab", show=not n, key_display=last, tooltip=tip)
        for n in range(len(names))
    )
    return (
        *numbers,
        Binding("tab", "next_tab(1)", "next tab", show=False, key_display="tab"),
        Binding("shift+tab", "next_tab(-1)", "tab before", show=False, key_display="⇧tab"),
    )


def holds(words: str, text: str) -> bool:
    """Whether a text holds all of the words, in any case."""
    folded = text.casefold()
    return all(word in folded for word in words.casefold().split())
