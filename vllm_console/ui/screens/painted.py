"""What every screen of the console has in common: it can be painted with a view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.screen import Screen

from vllm_console.ui.view import View

if TYPE_CHECKING:
    from vllm_console.ui.console import Console


class Painted(Screen[None]):
    """A screen that draws the newest view."""

    def paint(self, view: View) -> None:
        """Bring every widget up to date with the view."""

    @property
    def console_app(self) -> Console:
        """The application, typed."""
        app: Console = self.app  # type: ignore[assignment]
        return app

    def on_screen_resume(self) -> None:
        """What changed while another screen covered this one is painted now."""
        self.call_after_refresh(self.console_app.paint)
