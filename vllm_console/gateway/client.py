"""What routing and an exchange know of a client's connection."""

from __future__ import annotations

import asyncio
from typing import Protocol

from vllm_console.gateway.heads import Fields


class Flow(Protocol):
    """Which of the two ways stands still: who is behind."""

    read_paused: bool
    write_paused: bool


class Client(Protocol):
    """A client's connection, whatever server it belongs to."""

    keep: bool
    """Whether another request may follow on it."""
    speaks_11: bool
    """Whether it takes chunked answers."""
    transport: asyncio.Transport

    @property
    def flow(self) -> Flow:
        """Whether the client keeps up."""

    def write(self, data: bytes) -> None:
        """Sends bytes of the answer."""

    def answer(self, status: int, fields: Fields, payload: bytes, more: bytes) -> None:
        """Sends a whole answer; `more` is header lines on top."""

    def finished(self) -> None:
        """The answer is complete: the next request may come."""

    def look(self, now: float) -> None:
        """What time brings, at `now` (`time.monotonic()`)."""

    def shutdown(self) -> None:
        """Closes it once it has no request any more."""

    def break_off(self) -> None:
        """Ends what runs on it, with a word about it where there can be one, and closes it."""
