"""What the console knows between two frames: the picture, its past, the selection, the filter."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import tzinfo

from vllm_console.snapshot import Snapshot
from vllm_console.ui.source import Series
from vllm_console.ui.trends import Trends
from vllm_console.ui.view import Entry, View, entries, keep

_LATE = 3.0
"""A picture is old when it is this many intervals, and as many seconds, without a successor."""


class Board:
    """The state behind every screen; changes only by its methods. Times are monotonic seconds."""

    def __init__(self, zone: tzinfo | None = None) -> None:
        self.zone = zone
        self.snapshot: Snapshot | None = None
        self.trends = Trends()
        self.selected: str | None = None
        self.filter = ""
        self.paused = False
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
        old = None
        if self.snapshot is not None and (lost or not self.paused):
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
            zone=self.zone,
        )

    @property
    def entries(self) -> list[Entry]:
        """The rows of the model list now."""
        return [] if self.snapshot is None else entries(self.snapshot, self.filter)
