"""A panel: a bordered widget that stacks its file's blocks."""

from __future__ import annotations

from textual import events

from vllm_console.ui.blocks import models
from vllm_console.ui.lines import Lines
from vllm_console.ui.messages import EntryChosen
from vllm_console.ui.panels import NAMES, PanelSpec
from vllm_console.ui.rows import Row
from vllm_console.ui.stacking import draw_panel, places
from vllm_console.ui.view import View

_SUPERSCRIPTS = "¹²³⁴"


class Panel(Lines, can_focus=True):
    """One of the four panels."""

    def __init__(self, spec: PanelSpec, titles: dict[str, str]) -> None:
        super().__init__(id=spec.name, classes="panel")
        self.spec = spec
        self._titles = titles
        """The titles of all panels by name, for the strip of tabs."""
        self._frame: tuple[str, str] = ("", "")

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
        frame = (self._title(), self._subtitle(view))
        if frame != self._frame:
            self._frame = frame
            self.border_title, self.border_subtitle = frame

    def _title(self) -> str:
        if self.layout_name in ("row", "grid"):
            return _title(self.spec.name, self._titles[self.spec.name], None)
        return "  ".join(_title(name, self._titles[name], name == self.spec.name) for name in NAMES)

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
        width, height = self.size
        graphs = places(self.spec, view, self.layout_name, width, height)
        cells = max((place.width for place in graphs), default=0)
        return f"{cells * 2 * view.snapshot.interval_s:g} s" if cells else ""

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
                    self.post_message(EntryChosen(entries[row].key))


def _title(name: str, title: str, current: bool | None) -> str:
    """A panel's title with its number in its hue; `current` is `None` outside the tab strip."""
    number = _SUPERSCRIPTS[NAMES.index(name)]
    text = f"[$hue-{name}]{number}[/]{_plain(title)}"
    if current is None:
        return text
    return f"[bold $ink-value]{text}[/]" if current else f"[not bold $ink-label]{text}[/]"


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
