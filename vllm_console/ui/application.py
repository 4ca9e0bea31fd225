"""What screens and widgets ask of the application, which they are part of and do not import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

from textual.dom import DOMNode

from vllm_console.snapshot import Model
from vllm_console.ui.board import Board
from vllm_console.ui.source import Connect
from vllm_console.ui.theme import Inks
from vllm_console.ui.view import View


class Application(Protocol):
    """The console as its screens see it."""

    board: Board
    connect: Connect
    readonly: bool
    """Whether keys that change the fleet are gone."""
    ticking: bool
    """Whether time passes by itself; a test moves it instead."""

    @property
    def refused(self) -> str | None:
        """Why nothing can be changed now; `None` when it can."""

    @property
    def inks(self) -> Inks:
        """The current theme's inks."""

    @property
    def view(self) -> View:
        """What the blocks draw now."""

    @property
    def own_themes(self) -> list[str]:
        """The names of the user's own themes."""

    def choose_theme(self, name: str) -> None:
        """Draw with another theme from now on, or say what is wrong with its file."""

    def laid_out(self) -> None:
        """A screen of the terminal's new size is about to be drawn."""

    def paint(self) -> Any:
        """Draw the newest view on the screen on top."""

    def pause(self, paused: bool) -> None:
        """Hold the picture still, or let it run."""

    def travel(self, spans: float) -> None:
        """Go back or forth in time by so many spans of the graphs."""

    def travel_to(self, moment: str) -> None:
        """Go to a time that a person wrote."""

    def return_to_now(self) -> bool:
        """Show now again; whether it was the past."""

    def say(self, level: str, text: str) -> None:
        """One line about what a key did."""

    def act(self, verb: str, model: Model | None, workers: int | None = None) -> None:
        """Do what a key asks for, ask back first, or say why not."""

    def command(self, verb: str, model: str, workers: int | None = None) -> None:
        """Ask the daemon."""

    def ask(self, verb: str, title: str, **args: Any) -> None:
        """Ask the daemon for what no key does; `title` is what it is called."""

    def confirm(self, verb: str, model: Model, what: str, yes: Callable[[], None]) -> None:
        """Ask back before what destroys."""

    def apply_file(self, digest: str | None) -> None:
        """Carry out what applying the fleet file was shown to do."""

    def open(self, what: str, key: str | None = None) -> None:
        """Show a screen about a model or worker (default: the selected one), or the fleet."""

    def leave(self) -> None:
        """End the console; the fleet goes on."""

    def open_palette(self) -> None:
        """Every command by its name."""

    def copy(self, text: str) -> None:
        """Put a text on the clipboard."""

    def acknowledge(self) -> None:
        """Hide the alerts of now until they change."""

    def edit(self, path: str) -> str | None:
        """Open a file in the user's editor; the value is why it did not."""


def application(node: DOMNode) -> Application:
    """The application that a screen or widget is part of."""
    return cast("Application", node.app)
