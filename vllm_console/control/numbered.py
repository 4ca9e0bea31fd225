"""A numbered log: the newest in memory, all of it in the fleet's database, followed as it grows."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Generic, TypeVar

from vllm_console.history.database import Database
from vllm_console.history.records import Span
from vllm_console.snapshot import AuditEntry, Event

R = TypeVar("R", bound=Event | AuditEntry)

KEEP = 2000
"""Entries in memory."""
_PAGE = 500
"""Entries a follower that lags behind is given at a time."""


def now_iso() -> str:
    """The wall clock as ISO 8601 UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class NumberedLog(Generic[R]):
    """Entries whose numbers grow by one, over every daemon of the fleet.

    An entry is in memory at once and in the database soon after; where that cannot be written the
    log goes on in memory. Numbers of a file that cannot be read are never given again: they go on
    from the seconds since 1970, above any that file can have held.
    """

    def __init__(
        self,
        database: Database,
        read: Callable[[sqlite3.Connection, Span], list[R]],
        write: Callable[[sqlite3.Connection, Sequence[R]], None],
        clock: Callable[[], str] = now_iso,
    ) -> None:
        self._database = database
        self._read = read
        self._write = write
        self._clock = clock
        self._recent: deque[R] = deque(maxlen=KEEP)
        self._last = 0
        self._changed = asyncio.Event()
        try:
            self._recent.extend(self._stored(Span(limit=KEEP)))
            self._last = self._recent[-1].seq if self._recent else 0
        except sqlite3.Error:
            self._last = int(time.time())
        database.seed(lambda connection: write(connection, list(self._recent)))

    @property
    def trouble(self) -> str | None:
        """Why nothing is recorded now; `None` while all is well."""
        return self._database.trouble

    def newest(self, count: int) -> tuple[R, ...]:
        """The newest entries, newest first."""
        return tuple(list(self._recent)[-count:][::-1]) if count > 0 else ()

    def after(self, seq: int, limit: int = KEEP) -> list[R]:
        """Entries with a number above `seq`, oldest first; at most the newest `limit`."""
        return self.find(Span(after=seq, limit=limit))

    def find(self, span: Span) -> list[R]:
        """Entries of a span, oldest first: out of memory, and what is older out of the file."""
        recent = list(self._recent)
        held = [entry for entry in recent if span.holds(entry)]
        first = recent[0].seq if recent else None
        if self._in_memory(span, recent) or (not span.oldest and len(held) >= span.limit):
            older: list[R] = []
        else:
            older = self._older(span, first)
        found = older + held
        if span.limit <= 0:
            return []
        return found[: span.limit] if span.oldest else found[-span.limit :]

    async def follow(self, seq: int) -> AsyncIterator[R]:
        """Entries above `seq`, then each new one."""
        while True:
            changed = self._changed
            span = Span(after=seq, limit=_PAGE, oldest=True)
            if self._in_memory(span, list(self._recent)):
                page = self.find(span)
            else:
                page = await asyncio.to_thread(self.find, span)
            for entry in page:
                seq = entry.seq
                yield entry
            if not page:
                await changed.wait()

    def _next(self) -> int:
        self._last += 1
        return self._last

    def _append(self, entry: R) -> None:
        self._recent.append(entry)
        self._database.write(lambda connection: self._write(connection, (entry,)))
        self._changed.set()
        self._changed = asyncio.Event()

    def _in_memory(self, span: Span, recent: Sequence[R]) -> bool:
        """Whether nothing of the span is older than what memory holds."""
        if not recent:
            return False
        oldest = recent[0]
        return span.after >= oldest.seq - 1 or (span.since or "") > oldest.at

    def _older(self, span: Span, before: int | None) -> list[R]:
        if before is not None and (span.before is None or before < span.before):
            span = replace(span, before=before)
        try:
            return self._stored(span)
        except sqlite3.Error:
            return []  # `trouble` says why

    def _stored(self, span: Span) -> list[R]:
        try:
            with self._database.reading() as connection:
                return self._read(connection, span)
        except FileNotFoundError:
            return []
