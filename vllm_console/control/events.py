"""What happened to the fleet: a numbered log that outlives the daemon."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from vllm_console.control.numbered import NumberedLog, now_iso
from vllm_console.history.database import Database, Tell
from vllm_console.history.records import KEPT, Span, add_events, read_events
from vllm_console.snapshot import Event, Failure, from_json

__all__ = ["EventLog", "now_iso"]


class EventLog(NumberedLog[Event]):
    """The events of a fleet.

    `lines` is the events.jsonl that older versions kept: it is taken into the database, once, and
    removed when it is safe there.
    """

    def __init__(
        self, database: Database, lines: Path | None = None, clock: Callable[[], str] = now_iso
    ) -> None:
        super().__init__(database, read_events, add_events, clock)
        if lines is not None:
            self._take_in(lines)

    def add(self, level: str, subject: str, text: str, failure: Failure | None = None) -> Event:
        """Record one event; `level` is ok, info, warn or crit."""
        event = Event(self._next(), self._clock(), level, subject, text, failure)
        self._append(event)
        return event

    def shown(self, count: int) -> tuple[Event, ...]:
        """The newest events, newest first, without the failures that a snapshot has already."""
        return tuple(replace(e, failure=None) if e.failure else e for e in self.newest(count))

    def from_thread(self, loop: asyncio.AbstractEventLoop) -> Tell:
        """A function that records an event about the history from any thread."""

        def tell(level: str, text: str) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self.add, level, "history", text)

        return tell

    def _take_in(self, lines: Path) -> None:
        try:
            told = lines.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return
        known = {(e.at, e.subject, e.text) for e in self.find(Span(limit=KEPT))}
        taken = []
        for line in told:
            try:
                event = from_json(Event, json.loads(line))
                if not 0 < (seq := int(event.seq)) < 1 << 53:
                    continue
            except (ValueError, TypeError, AttributeError, OverflowError):
                continue  # a line cut by a crash, or damaged
            if (event.at, event.subject, event.text) in known:
                continue  # the daemon that took it in ended before it could remove the file
            self._last = max(seq, self._last + 1)
            texts = (str(event.at), str(event.level), str(event.subject), str(event.text))
            taken.append(Event(self._last, *texts))
        self._recent.extend(taken)
        self._database.write(
            lambda connection: add_events(connection, taken), partial(lines.unlink, missing_ok=True)
        )
