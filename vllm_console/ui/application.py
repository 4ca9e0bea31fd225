"""What screens and widgets ask of the application, which they are part of and do not import."""

from __future__ import annotations

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
    def inks(self) -> Inks:
        """The current theme's inks."""

    @property
    def view(self) -> View:
        """What the blocks draw now."""

    def paint(self) -> Any:
        """Draw the newest view on the screen on top."""

    def pause(self, paused: bool) -> None:
        """Hold the picture still, or let it run."""

    def say(self, level: str, text: str) -> None:
        """One line about what a key did."""

    def act(self, verb: str, model: Model | None) -> None:
        """Do what a key asks for, ask back first, or say why not."""

    def command(self, verb: str, model: str) -> None:
        """Ask the daemon."""


def application(node: DOMNode) -> Application:
    """The application that a screen or widget is part of."""
    return cast("Application", node.app)
