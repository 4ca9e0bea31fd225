"""Counts what went wrong and was put right in the last day, from the events of the fleet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from vllm_console.history.records import Span
from vllm_console.snapshot import Event, Health

DAY = timedelta(hours=24)
_MOST = 20_000
"""Events of a day that are read when a daemon starts."""
_BROKEN = frozenset({"ended", "failed", "crash-loop", "stalled"})
"""First words of the events of a worker that ended, failed or stalled."""


class Events(Protocol):
    """Where events come from: `control.events.EventLog`."""

    def find(self, span: Span) -> list[Event]:
        """Events of a span, oldest first."""


class HealthCount:
    """Errors, restarts, recoveries and adoptions of the last 24 hours; cheap to ask each tick."""

    def __init__(
        self, events: Events, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._events = events
        self._now = now
        self._seq: int | None = None
        self._found: deque[tuple[datetime, str]] = deque()
        self._was: dict[str, str] = {}
        """By worker, what it last was: "up", "broken" or "stopped"."""

    def read(self) -> Health:
        """What is counted up to now."""
        since = self._now() - DAY
        if self._seq is None:
            span = Span(since=since.isoformat(timespec="milliseconds"), limit=_MOST)
        else:
            span = Span(after=self._seq, limit=_MOST)
        for event in self._events.find(span):
            self._seq = event.seq
            self._take(event)
        while self._found and self._found[0][0] < since:
            self._found.popleft()
        kinds = [kind for _, kind in self._found]
        return Health(
            hours=DAY.total_seconds() / 3600,
            errors=kinds.count("error"),
            restarts=kinds.count("restart"),
            recoveries=kinds.count("recovery"),
            adopted=kinds.count("adopted"),
        )

    def _take(self, event: Event) -> None:
        try:
            at = datetime.fromisoformat(event.at)
        except ValueError:
            return  # taken in from an older version's file, where it was no time either
        word = event.text.partition(" ")[0].rstrip(",:")
        was = self._was.get(event.subject)
        if event.level == "crit" or (event.level == "warn" and word in _BROKEN):
            self._found.append((at, "error"))
        if word in _BROKEN and event.level in ("warn", "crit"):
            self._was[event.subject] = "broken"
        elif word == "starting":
            if was is not None and was != "stopped":
                self._found.append((at, "restart"))
        elif word == "ready":
            if was == "broken":
                self._found.append((at, "recovery"))
            self._was[event.subject] = "up"
        elif word == "adopted" and event.subject != "gateway":
            self._found.append((at, "adopted"))
            self._was[event.subject] = "up"
        elif word in ("stopped", "asleep"):
            self._was[event.subject] = "stopped"
