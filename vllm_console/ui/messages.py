"""What threads and widgets tell the console; each message is a past event."""

from __future__ import annotations

from dataclasses import dataclass

from textual.message import Message

from vllm_console.ui.panels import PanelSpec
from vllm_console.ui.travel import Found


@dataclass
class Sampled(Message):
    """The reader has something new; a newer one stands for all before it."""

    def can_replace(self, message: Message) -> bool:
        """Many of them are worth one paint."""
        return isinstance(message, Sampled)


@dataclass
class Answered(Message):
    """The daemon took or refused a command."""

    level: str
    """"ok" or "crit"."""
    text: str
    model: str | None = None
    """Of which model it was."""


@dataclass
class Recalled(Message):
    """A look-up of the past has ended."""

    found: Found


@dataclass
class PanelsChanged(Message):
    """The panel files were edited: the new panels, or why they cannot be read."""

    panels: tuple[PanelSpec, ...] | str


@dataclass
class LogRead(Message):
    """A piece of a worker's log has arrived."""

    worker: str
    offset: int
    text: str
    fresh: bool
    """It is the tail of the log, not the continuation of what is shown."""


@dataclass
class LogFailed(Message):
    """A worker's log could not be read."""

    worker: str
    reason: str


@dataclass
class EntryChosen(Message):
    """A row of the model list was clicked."""

    key: str


@dataclass
class EntryOpened(Message):
    """A row of the model list was clicked twice."""

    key: str
