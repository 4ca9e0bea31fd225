"""What the console knows between two frames: the picture, its past, the selection, the filter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import tzinfo

from vllm_console.snapshot import Alert, Snapshot
from vllm_console.ui.pursuit import FilePursuit, Pursuit
from vllm_console.ui.source import Series
from vllm_console.ui.travel import Past
from vllm_console.ui.trends import Trends
from vllm_console.ui.view import Entry, View, entries, keep, kind_of

_LATE = 3.0
"""A picture is old when it is this many intervals, and as many seconds, without a successor."""


class Board:
    """The state behind every screen; changes only by its methods. Times are monotonic seconds."""

    def __init__(self, zone: tzinfo | None = None, recorded: str | None = None) -> None:
        self.zone = zone
        self.recorded = recorded
        """The name of the file that is replayed."""
        self.snapshot: Snapshot | None = None
        """The newest there is, shown or not."""
        self.past: Past | None = None
        """What is shown in place of the newest."""
        self.trends = Trends()
        self.selected: str | None = None
        self.filter = ""
        self.paused = False
        self.pursued: dict[str, Pursuit | FilePursuit] = {}
        """The newest command of each model, and of the fleet file, that has not come to its end."""
        self._acknowledged: frozenset[Alert] = frozenset()
        self._arrived = 0.0

    def take(self, items: Iterable[Snapshot | Series], now: float) -> None:
        """Take over what the reader brought, oldest first."""
        before = self.entries
        for item in items:
            if isinstance(item, Snapshot):
                self.snapshot = item
                self.trends.append(item)
                self._arrived = now
            else:
                self.trends.recall(item)
        self.selected = keep(self.selected, self.entries, before)

        if self.snapshot is not None:
            self._acknowledged &= {kind_of(alert) for alert in self.snapshot.alerts}

    def acknowledge(self) -> int:
        """Hide the alerts of now until they change; returns how many."""
        shown = {kind_of(alert) for alert in self.snapshot.alerts} if self.snapshot else set()
        new = shown - self._acknowledged
        self._acknowledged |= new
        return len(new)

    def outcomes(self) -> Iterator[tuple[str, str]]:
        """Level and line of each command that has come to its end; it is told once."""
        for name, pursuit in list(self.pursued.items()):
            told = pursuit.outcome(self.snapshot) if self.snapshot else None
            if told is not None:
                del self.pursued[name]
                yield told

    def show_past(self, past: Past | None) -> None:
        """Show a moment of the past, or now again; the selection stays if it still shows."""
        before = self.entries
        self.past = past
        self.selected = keep(self.selected, self.entries, before)

    def select(self, key: str) -> None:
        """Select a row by its key, if it is there."""
        if any(entry.key == key for entry in self.entries):
            self.selected = key

    def move(self, rows: int) -> None:
        """Move the selection down by so many rows; it stops at both ends."""
        keys = [entry.key for entry in self.entries]
        if keys:
            at = keys.index(self.selected) if self.selected in keys else 0
            self.selected = keys[max(0, min(len(keys) - 1, at + rows))]

    def narrow(self, words: str) -> None:
        """Show only what matches; the selection stays if it still shows."""
        before = self.entries
        self.filter = words
        self.selected = keep(self.selected, self.entries, before)
        if self.selected is None and not words:
            self.selected = keep(None, self.entries, [])

    def view(self, now: float, lost: str | None) -> View:
        """What the blocks are given to draw."""
        if self.past is not None:
            return View(
                self.past.snapshot,
                self.past.trends,
                self.selected,
                self.filter,
                past=True,
                recorded=self.recorded,
                zone=self.zone,
            )
        old = None
        if self.recorded is None and self.snapshot is not None and (lost or not self.paused):
            age = now - self._arrived
            if age >= _LATE * max(1.0, self.snapshot.interval_s):
                old = age
        return View(
            self.snapshot,
            self.trends,
            self.selected,
            self.filter,
            old_s=old,
            lost=lost,
            paused=self.paused,
            recorded=self.recorded,
            zone=self.zone,
            acknowledged=self._acknowledged,
            pending={name: pursuit.verb for name, pursuit in self.pursued.items()},
        )

    @property
    def entries(self) -> list[Entry]:
        """The rows of the model list now."""
        shown = self.snapshot if self.past is None else self.past.snapshot
        return [] if shown is None else entries(shown, self.filter)
