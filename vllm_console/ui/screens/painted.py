"""What every screen of the console has in common: it can be painted with a view."""

from __future__ import annotations

from textual.screen import Screen

from vllm_console.ui.application import Application, application
from vllm_console.ui.blocks.key_line import Notice
from vllm_console.ui.key_line import KeyLine
from vllm_console.ui.view import View

CHANGING = frozenset({"load", "unload", "restart"})
"""Actions that change the fleet."""


class Painted(Screen[None]):
    """A screen that draws the newest view."""

    def paint(self, view: View) -> None:
        """Bring every widget up to date with the view."""

    def say(self, level: str, text: str) -> None:
        """One line about what a key did; no text brings the keys back."""
        self.query_one(KeyLine).say(Notice(level, text) if text else None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A read-only console has no key that changes the fleet."""
        return not (action in CHANGING and self.console_app.readonly)

    @property
    def console_app(self) -> Application:
        """The application, typed."""
        return application(self)

    def on_screen_resume(self) -> None:
        """What changed while another screen covered this one is painted now."""
        self.call_after_refresh(self.console_app.paint)
