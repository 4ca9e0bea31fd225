"""What every question and every help text over a screen has in common."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import ClassVar

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.style import Style
from textual._path import CSSPathType
from textual.color import Color
from textual.reactive import Reactive
from textual.renderables.background_screen import BackgroundScreen
from textual.screen import ModalScreen
from textual.widget import Widget


class Modal(ModalScreen[None]):
    """A box over the screen that it is about."""

    CSS_PATH: ClassVar[CSSPathType | None] = "modal.tcss"

    focused: Reactive[Widget | None] = Reactive(None, repaint=False)
    """What has the keys; the screen under the box is not drawn again for it."""

    def render(self) -> RenderableType:
        """The screen below, dimmed."""
        below = super().render()
        return Dimmed(below) if isinstance(below, BackgroundScreen) else below


class Dimmed:
    """Textual's tint of the screen below, each style tinted once: a screen has few of them."""

    def __init__(self, below: BackgroundScreen) -> None:
        self._below = below

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The segments of the screen below in their tinted styles."""
        colour = self._below.color
        for text, style, control in console.render(self._below.screen._compositor, options):
            yield Segment(text, style if control else _tinted(style or Style(), colour), control)


@lru_cache(maxsize=1024)
def _tinted(style: Style, colour: Color) -> Style:
    """A style as `BackgroundScreen` tints it."""
    made: Iterable[Segment] = BackgroundScreen.process_segments([Segment(" ", style)], colour)
    return next(iter(made)).style or Style()
