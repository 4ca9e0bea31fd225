"""What a key may use: tokens and requests a minute, $ a month. Pure; every time is passed in."""

from __future__ import annotations

import time
from calendar import timegm


class Bucket:
    """A limit a minute: filled evenly, full with one minute's worth, and allowed to owe.

    Times are seconds of a clock that never goes back.
    """

    __slots__ = ("_at", "_per_s", "burst", "level")

    def __init__(self, per_minute: float, now: float) -> None:
        self.burst = float(per_minute)
        """The most that fits at once."""
        self.level = self.burst
        """What may be taken; below zero what is owed."""
        self._per_s = per_minute / 60.0
        self._at = now

    def lacks(self, amount: float, now: float) -> float:
        """Seconds until so much may be taken; 0 when it may be now. `amount` is at most `burst`."""
        if now > self._at:
            self.level = min(self.burst, self.level + (now - self._at) * self._per_s)
            self._at = now
        missing = amount - self.level
        return missing / self._per_s if missing > 0.0 else 0.0

    def take(self, amount: float) -> None:
        """Take so much, whether or not it is there; a negative amount is given back."""
        self.level = min(self.burst, self.level - amount)

    def resize(self, per_minute: float, now: float) -> None:
        """Another limit from now on. What is owed stays owed; a full bucket stays full."""
        self.lacks(0.0, now)
        full = self.level >= self.burst
        self.burst, self._per_s = float(per_minute), per_minute / 60.0
        self.level = self.burst if full else min(self.level, self.burst)


class Month:
    """What was spent in the UTC month that a wall clock shows, beginning anew with the next."""

    __slots__ = ("_begins", "_ends", "spent")

    def __init__(self, wall: float, spent: float = 0.0) -> None:
        self.spent = spent
        """$ so far."""
        self._begins, self._ends = month_around(wall)

    def at(self, wall: float) -> float:
        """$ spent in the month of this time, seconds since the epoch."""
        if not self._begins <= wall < self._ends:
            self._begins, self._ends = month_around(wall)
            self.spent = 0.0
        return self.spent

    def at_least(self, spent: float, wall: float) -> None:
        """Learn what was stored of the month of this time: others may have spent of it too."""
        self.spent = max(self.at(wall), spent)


def month_around(wall: float) -> tuple[float, float]:
    """Where the UTC month of a time begins and where it ends, seconds since the epoch."""
    year, month = time.gmtime(wall)[:2]
    following = (year, month + 1) if month < 12 else (year + 1, 1)
    return float(timegm((year, month, 1, 0, 0, 0))), float(timegm((*following, 1, 0, 0, 0)))
