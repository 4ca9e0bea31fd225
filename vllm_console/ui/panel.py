"""A panel: a bordered widget that stacks its file's blocks."""

from __future__ import annotations

from collections.abc import Sequence

from textual import events

from vllm_console.ui.application import application
from vllm_console.ui.blocks import models
from vllm_console.ui.format import duration
from vllm_console.ui.lines import Lines
from vllm_console.ui.messages import EntryChosen, EntryOpened
from vllm_console.ui.panels import NAMES, PanelSpec
from vllm_console.ui.rows import Row
from vllm_console.ui.stacking import draw_panel, places
from vllm_console.ui.view import View

_SUPERSCRIPTS = "¹²³⁴⁵⁶⁷⁸⁹"


class Panel(Lines, can_focus=True):
    """One of the panels: the four, and after them the user's own."""

    def __init__(self, number: int, specs: Sequence[PanelSpec]) -> None:
        """`number` counts from 0; the other specs are for the strip of tabs."""
        self.spec = specs[number]
        own = self.spec.name not in NAMES
        super().__init__(id=f"own-{number + 1}" if own else self.spec.name, classes="panel")
        self.set_class(own, "-own")
        self.add_class(f"hue-{self.spec.hue}")
        self.number = number
        self._specs = specs
        self._frame: tuple[str, str] = ("", "")

    def take(self, specs: Sequence[PanelSpec]) -> None:
        """Go on by a file that has changed."""
        self.remove_class(f"hue-{self.spec.hue}")
        self._specs, self.spec = specs, specs[self.number]
        self.add_class(f"hue-{self.spec.hue}")
        self._rows = None

    @property
    def layout_name(self) -> str:
        """Which layout this panel is shown in: row, grid, tabs or zoom."""
        for layout in ("zoom", "tabs", "grid"):
            if self.screen.has_class(f"-{layout}"):
                return layout
        return "row"

    def draw(self, view: View, width: int, height: int) -> list[Row]:
        """The panel's blocks; the frame says where one is."""
        return draw_panel(self.spec, view, self.layout_name, width, height)

    def show(self, view: View) -> None:
        """Draw, and bring the frame up to date."""
        super().show(view)
        self._entitle(self._title(), self._subtitle(view))

    def retitle(self) -> None:
        """Take the title of another layout at once, before there is a size to draw for."""
        self._entitle(self._title(), self._frame[1])

    def _entitle(self, title: str, subtitle: str) -> None:
        if (title, subtitle) != self._frame:
            self._frame = (title, subtitle)
            self.border_title, self.border_subtitle = title, subtitle

    def _title(self) -> str:
        if self.layout_name in ("row", "grid"):
            return _title(self.number, self.spec, None)
        return "  ".join(
            _title(number, spec, number == self.number) for number, spec in enumerate(self._specs)
        )

    def _subtitle(self, view: View) -> str:
        if view.snapshot is None:
            return ""
        if self.spec.name == "engines":
            keys = [entry.key for entry in view.entries]
            narrowed = f"[$warning]/{_plain(view.filter)}[/]  " if view.filter else ""
            if view.selected not in keys:
                return narrowed + ("0 of 0" if view.filter else "")
            return f"{narrowed}{keys.index(view.selected) + 1} of {len(keys)}"
        if self.spec.name == "scaling" or not view.snapshot.models:
            return ""
        span = self.span(view)
        if not span:
            return ""
        return f"{span:g} s" if span < 600 else " ".join(duration(span))

    def span(self, view: View) -> float:
        """Seconds that its graphs show; 0 where it shows none."""
        width, height = self.size
        if view.snapshot is None or not width:
            return 0.0
        graphs = places(self.spec, view, self.layout_name, width, height)
        return max((place.width for place in graphs), default=0) * 2 * view.snapshot.interval_s

    def on_click(self, event: events.Click) -> None:
        """A click on a row of the model list selects it."""
        offset = event.get_content_offset(self)
        if offset is None:
            return
        width, height = self.size
        for place in places(self.spec, self._view, self.layout_name, width, height):
            inside = place.x <= offset.x < place.x + place.width
            row = offset.y - place.y - 1
            if place.block == "models" and inside and 0 <= row < place.height - 1:
                entries = models.shown(self._view, place.height)
                if row < len(entries):
                    kind = EntryOpened if event.chain == 2 else EntryChosen
                    self.post_message(kind(entries[row].key))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """The wheel moves the selection of the model list."""
        self._wheel(1)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """The wheel moves the selection of the model list."""
        self._wheel(-1)

    def _wheel(self, rows: int) -> None:
        if self.spec.name == "engines":
            app = application(self)
            app.board.move(rows)
            app.paint()


def _title(number: int, spec: PanelSpec, current: bool | None) -> str:
    """A panel's title with its number in its hue; `current` is `None` outside the tab strip."""
    text = f"[$hue-{spec.hue}]{_SUPERSCRIPTS[number]}[/]{_plain(spec.title)}"
    if current is None:
        return text
    return f"[bold $ink-value]{text}[/]" if current else f"[not bold $ink-label]{text}[/]"


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
