"""What every question and every help text over a screen has in common."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, ClassVar

from rich.console import RenderableType
from rich.segment import Segment
from rich.style import Style
from textual import visual
from textual._path import CSSPathType
from textual.color import Color
from textual.css.styles import RulesMap
from textual.reactive import Reactive
from textual.renderables.background_screen import BackgroundScreen
from textual.screen import ModalScreen
from textual.strip import Strip
from textual.style import Style as VisualStyle
from textual.widget import Widget


class Modal(ModalScreen[None]):
    """A box over the screen that it is about."""

    CSS_PATH: ClassVar[CSSPathType | None] = "modal.tcss"

    focused: Reactive[Widget | None] = Reactive(None, repaint=False)
    """What has the keys; the screen under the box is not drawn again for it."""

    def render(self) -> RenderableType | visual.Visual:  # type: ignore[override]
        """The screen below, dimmed."""
        below = super().render()
        return Dimmed(below) if isinstance(below, BackgroundScreen) else below


class Dimmed(visual.Visual):
    """Textual's tint of the screen below, line by line, each style tinted once.

    As a Rich renderable it would go through Rich's console: three times the work of one frame.
    """

    def __init__(self, below: BackgroundScreen) -> None:
        self._below = below

    def render_strips(
        self, width: int, height: int | None, style: VisualStyle, options: Any
    ) -> list[Strip]:
        """The lines of the screen below in their tinted styles."""
        colour, ground = self._below.color, style.rich_style
        tinted: dict[int, Style] = {}
        strips = []
        for strip in self._below.screen._compositor.render_strips()[:height]:
            segments = []
            for segment in strip:
                text, own, _ = segment
                ink = tinted.get(id(own))
                if ink is None:
                    ink = tinted[id(own)] = ground + _tinted(own or Style(), colour)
                segments.append(Segment(text, ink))
            strips.append(Strip(segments, strip.cell_length))
        return strips

    def get_optimal_width(self, rules: RulesMap, container_width: int) -> int:
        """As wide as the screen, which is what it fills."""
        return container_width

    def get_height(self, rules: RulesMap, width: int) -> int:
        """As tall as the screen below."""
        return self._below.screen.size.height


@lru_cache(maxsize=1024)
def _tinted(style: Style, colour: Color) -> Style:
    """A style as `BackgroundScreen` tints it."""
    made: Iterable[Segment] = BackgroundScreen.process_segments([Segment(" ", style)], colour)
    return next(iter(made)).style or Style()
