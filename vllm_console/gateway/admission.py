"""Who is let in, and who is next: one queue per model, with classes, shares and bounds.

Right of way is strict: high before normal before low, first come first served within a class.
Three things temper it:

- *Shares.* While a class waits it is owed a part of all admissions, 10 % for normal and 5 % for
  low; once it is owed a whole one, the next free place is its own.
- *Promotion.* Whoever is first of a class and has waited a quarter of the limit counts as one class
  higher, after two quarters as two, and is owed that class's share (25 % for high). Promotion gives
  turns and not the right of way: that would put a high request behind the whole backlog of low.
- *Guard.* Places are kept free for the next high (and normal) request, for what runs is not
  interrupted: trunk reservation, as in telephone networks. The guard follows what it has to hold:
  one more whenever a high request finds no place, one less for fifty that do, which settles where
  one in fifty waits (Robbins and Monro, 1951). It takes at most a quarter of the places, none where
  there is one, and ends a minute after the last request of the class.

A queue knows no clock and does no I/O: `now` is `time.monotonic()`, in seconds. Callbacks may call
back into it, and must not raise.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import exp, inf
from typing import Literal, final

from vllm_console.gateway.table import Limits

HIGH, NORMAL, LOW = 0, 1, 2
CLASSES = ("high", "normal", "low")

Reason = Literal["full", "bytes", "timeout", "no-worker", "cold-timeout", "closing"]
REASONS: tuple[Reason, ...] = (
    "full",
    "bytes",
    "timeout",
    "no-worker",
    "cold-timeout",
    "closing",
)

SHARES = (0.25, 0.10, 0.05)
"""Part of all admissions a class is owed while it waits; high's is for who is promoted to it."""
DEBT_LEAST = -1.0
"""How far ahead of its share a class can be: more would let a busy past starve it."""
PROMOTIONS = 4
"""A class higher for each such part of the time limit."""
CALM = 50
"""Requests of a class that found a place at once, for one place less of its guard."""
GUARD_PART = 4
"""At most one place in so many is kept free."""
GUARD_S = 60.0
"""Seconds without a request of a class after which nothing is kept free for it."""
RATE_S = 10.0
"""Time constant of the rates that waits are estimated from."""
UNKNOWN_S = 5.0
"""Said to wait where nothing was finished lately: a guess."""


class Waiting:
    """One request that waits; exactly one of its callbacks is called, unless it is withdrawn."""

    __slots__ = ("admitted", "cls", "refused", "since", "size")

    def __init__(
        self,
        cls: int,
        size: int,
        since: float,
        admitted: Callable[[], object],
        refused: Callable[[Reason], object],
    ) -> None:
        self.cls = cls
        self.size = size
        """Bytes it holds while it waits."""
        self.since = since
        self.admitted = admitted
        """It holds a place from here on, to be given back by `Queue.done`."""
        self.refused = refused


@final
class Queue:
    """The requests of one model: how many are in flight, and who waits for a place.

    >>> if not queue.enter(cls, now):
    ...     refusal = queue.wait(Waiting(cls, len(body), now, send, refuse))

    and `done` once for each that was let in. `expire` has to be called about twice a second.
    """

    __slots__ = (
        "_admitting",
        "_bytes",
        "_calm",
        "_closed",
        "_count",
        "_debt",
        "_finished",
        "_guard",
        "_kept",
        "_lines",
        "_rates",
        "_room",
        "_seen",
        "_swept",
        "_swept_at",
        "_warm_at",
        "admitted",
        "capacity",
        "in_flight",
        "limits",
        "refused",
        "waiting_bytes",
    )

    def __init__(self) -> None:
        self.capacity = 0
        """Requests that may be in flight; 0 while nothing can serve them."""
        self.limits = Limits()
        self.in_flight = 0
        self.waiting_bytes = 0
        self.admitted = [0, 0, 0]
        """Totals, by class."""
        self.refused: dict[Reason, int] = dict.fromkeys(REASONS, 0)
        """Totals, by reason."""
        self._lines: tuple[OrderedDict[Waiting, None], ...] = (
            OrderedDict(),
            OrderedDict(),
            OrderedDict(),
        )
        self._count = 0
        self._bytes = [0, 0, 0]
        self._kept = (0, 0, 0)
        self._room = (0, 0, 0)
        """Requests in flight, by class, up to which one of it is let in by right of way."""
        self._debt = [0.0, 0.0, 0.0]
        self._guard = [1, 1]
        self._calm = [0, 0]
        self._seen = [-inf, -inf, -inf]
        self._warm_at = -inf
        self._admitting = False
        self._closed = False
        self._finished = 0
        self._swept_at: float | None = None
        self._swept = [0, 0, 0, 0]
        """What was counted at the last sweep: admissions by class, and requests finished."""
        self._rates = [0.0, 0.0, 0.0, 0.0, 0.0]
        """The same since, fading, and in the last place the seconds they took."""

    def configure(self, capacity: int, limits: Limits, now: float) -> None:
        """Sets how many may be in flight, which may let some in; more than that may still run."""
        if self.capacity == 0 and capacity > 0:
            self._warm_at = now
        self.capacity = 0 if self._closed else capacity
        self.limits = limits
        high, normal, low = (int(share * limits.queue) for share in SHARES)
        self._kept = (high, normal, low)
        self._make_room(now)
        self._admit(now)

    @property
    def waiting(self) -> tuple[int, int, int]:
        """How many wait, by class."""
        high, normal, low = self._lines
        return len(high), len(normal), len(low)

    @property
    def kept_free(self) -> tuple[int, int]:
        """Places that normal, and that low, requests may not take at present."""
        return self.capacity - self._room[NORMAL], self.capacity - self._room[LOW]

    def enter(self, cls: int, now: float) -> bool:
        """Whether a request is let in at once; one that is not has to `wait`."""
        self._seen[cls] = now
        if self._admitting:
            return False  # one of those that wait is just being let in: no passing by
        if self.in_flight < self._room[cls]:
            self.in_flight += 1
            self.admitted[cls] += 1
            if self._count:
                self._owe(now)
                self._admit(now)
            return True
        if cls != LOW:
            self._missed(cls, now)
        return False

    def wait(self, one: Waiting) -> Reason | None:
        """Takes one that `enter` did not let in; what it is refused for at once, or `None`.

        Where the queue is full, the newest of a lower class is refused in its stead; a part of the
        places, as great as its share of the admissions, is a class's own and never taken from it.
        """
        if self._closed:
            return self._count_refused("closing")
        limits, cls, lines = self.limits, one.cls, self._lines
        if one.size + sum(self._bytes[: cls + 1]) > limits.queue_bytes:
            return self._count_refused("bytes")
        kept = self._kept
        if sum(map(len, lines[: cls + 1])) + sum(kept[cls + 1 :]) >= limits.queue:
            return self._count_refused("full")
        displaced: list[Waiting] = []
        while self._count >= limits.queue:
            lowest = next(each for each in (LOW, NORMAL) if len(lines[each]) > kept[each])
            displaced.append(self._taken(lowest, newest=True))
        while self.waiting_bytes + one.size > limits.queue_bytes:
            lowest = LOW if lines[LOW] else NORMAL
            displaced.append(self._taken(lowest, newest=True))
        lines[cls][one] = None
        self._count += 1
        self._bytes[cls] += one.size
        self.waiting_bytes += one.size
        for each in displaced:
            self._refuse(each, "full")
        return None

    def withdraw(self, one: Waiting) -> bool:
        """Forgets one whose client is gone; False when it did not wait any more."""
        line = self._lines[one.cls]
        if one not in line:
            return False
        del line[one]
        self._left(one)
        return True

    def done(self, now: float) -> None:
        """Gives back the place of one that was let in, which may let the next one in."""
        self.in_flight -= 1
        self._finished += 1
        if self._count:
            self._admit(now)

    def expire(self, now: float) -> float | None:
        """Refuses who has waited too long; when the next one will have, `None` if nobody waits.

        Also where guards and rates are brought up to date.
        """
        self._sweep(now)
        next_at = inf
        reason: Reason = "timeout" if self.capacity else "cold-timeout"
        for cls, line in enumerate(self._lines):
            while line:
                at = self._deadline(next(iter(line)))
                if at > now:
                    next_at = min(next_at, at)
                    break
                self._refuse(self._taken(cls), reason)
        self._admit(now)
        return next_at if self._count else None

    def turn_away(self, reason: Reason) -> None:
        """Refuses all who wait: a model that failed for good has no worker to wait for."""
        for cls, line in enumerate(self._lines):
            for _ in range(len(line)):
                if line:  # a callback may have withdrawn some
                    self._refuse(self._taken(cls), reason)

    def close(self) -> None:
        """Lets nobody in any more and refuses who waits; those in flight are not touched."""
        self._closed = True
        self.capacity = 0
        self._room = (0, 0, 0)
        self.turn_away("closing")

    def oldest_s(self, now: float) -> float | None:
        """How long the one that has waited longest has done so; `None` if nobody waits."""
        if not self._count:
            return None
        return now - min(next(iter(line)).since for line in self._lines if line)

    def seconds_to_wait(self, cls: int) -> float:
        """How long one of this class would wait, from 1 s to the limit: for Retry-After.

        Those before it, over the rate at which places fall to its class: what is finished less
        what higher classes took, and no less than its share.
        """
        span = self._rates[4]
        finished = self._rates[3] / span if span else 0.0
        most = max(1.0, self.limits.queue_s)
        if finished <= 0.0:
            return min(UNKNOWN_S, most)
        higher = sum(self._rates[:cls]) / span
        before = sum(map(len, self._lines[: cls + 1])) + 1
        return min(max(before / max(finished - higher, SHARES[cls] * finished), 1.0), most)

    # ------------------------------------------------------------------ who is next

    def _admit(self, now: float) -> None:
        """Lets in whoever has a claim to a free place, until there is none of either."""
        if self._admitting:
            return  # a callback's call: the loop that called it goes on with what it left
        self._admitting = True
        try:
            while self._count:
                cls = self._next()
                if cls is None:
                    break
                one = self._taken(cls)
                self.in_flight += 1
                self.admitted[cls] += 1
                self._owe(now)
                self._debt[cls] = max(self._debt[cls] - 1.0, DEBT_LEAST)
                one.admitted()
        finally:
            self._admitting = False

    def _next(self) -> int | None:
        """The class whose first is to be let in."""
        in_flight, (high, normal, low) = self.in_flight, self._lines
        if in_flight >= self.capacity:
            return None
        debt = self._debt
        owed = NORMAL if normal and (debt[NORMAL] >= debt[LOW] or not low) else LOW
        if debt[owed] >= 1.0 and self._lines[owed]:
            return owed
        if high:
            return HIGH
        if normal:
            return NORMAL if in_flight < self._room[NORMAL] else None
        return LOW if low and in_flight < self._room[LOW] else None

    def _owe(self, now: float) -> None:
        """Counts an admission towards what the classes that wait are owed."""
        debt, lines = self._debt, self._lines
        step_s = self.limits.queue_s / PROMOTIONS
        for cls in (NORMAL, LOW):
            line = lines[cls]
            if not line:
                debt[cls] = 0.0
                continue
            waited = now - next(iter(line)).since
            if waited < step_s:
                debt[cls] += SHARES[cls]
            else:
                debt[cls] += SHARES[max(cls - int(waited / step_s), HIGH) if step_s else HIGH]

    def _deadline(self, one: Waiting) -> float:
        """Until when it may wait. A load that it waited for does not count against its turn."""
        limits = self.limits
        if not self.capacity:
            return one.since + limits.cold_s
        most = one.since + limits.cold_s + limits.queue_s
        return min(max(one.since, self._warm_at) + limits.queue_s, most)

    # ------------------------------------------------------------------ guards

    def _missed(self, cls: int, now: float) -> None:
        if self.capacity and self._guard[cls] < self.capacity // GUARD_PART:
            self._guard[cls] += 1
        self._make_room(now)

    def _make_room(self, now: float) -> None:
        """Works out up to how many in flight each class is let in."""
        capacity = self.capacity
        most = max(capacity // GUARD_PART, 1) if capacity > 1 else 0
        since = now - GUARD_S
        for_high = self._guard[HIGH] if self._seen[HIGH] >= since else 0
        for_normal = self._guard[NORMAL] if self._seen[NORMAL] >= since else 0
        normal = capacity - min(for_high, most)
        low = capacity - min(for_high + for_normal, most)
        self._room = (capacity, normal, low)

    def _sweep(self, now: float) -> None:
        """Lets guards relax and rates fade by what has passed since the last time."""
        seconds = 0.0 if self._swept_at is None else now - self._swept_at
        self._swept_at = now
        counted = [*self.admitted, self._finished]
        passed = [new - old for new, old in zip(counted, self._swept, strict=True)]
        fading = exp(-seconds / RATE_S)
        self._rates = [
            rate * fading + new for rate, new in zip(self._rates, [*passed, seconds], strict=True)
        ]
        self._swept = counted
        for cls in (HIGH, NORMAL):
            if self._seen[cls] < now - GUARD_S:
                self._guard[cls] = 1
            calm, self._calm[cls] = divmod(self._calm[cls] + passed[cls], CALM)
            self._guard[cls] = max(self._guard[cls] - calm, 1)
        self._make_room(now)

    # ------------------------------------------------------------------ bookkeeping

    def _taken(self, cls: int, *, newest: bool = False) -> Waiting:
        one, _ = self._lines[cls].popitem(last=newest)
        self._left(one)
        return one

    def _left(self, one: Waiting) -> None:
        self._count -= 1
        self._bytes[one.cls] -= one.size
        self.waiting_bytes -= one.size

    def _refuse(self, one: Waiting, reason: Reason) -> None:
        self._count_refused(reason)
        one.refused(reason)

    def _count_refused(self, reason: Reason) -> Reason:
        self.refused[reason] += 1
        return reason
