"""How soon the loop goes round again while streams run fast: late enough to find several pieces.

A worker that makes an answer at once sends it in many small pieces, and a gateway that is quick
enough reads and writes each of them alone: five times the system calls, on both sides, for nothing
that a client could notice. Network cards hold back their interrupts for the same reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from time import monotonic
from typing import final

FAST_S = 0.0003
"""A piece this soon after the last one makes a stream a fast one: no engine decodes 3,000 tokens a
second of one request, so that these pieces had been waiting for each other."""
ROUND_S = 0.00015
"""From one round of the loop to the next, at least, after a round with a fast stream in it."""


@final
class Pace:
    """Keeps rounds of one event loop apart; a loop that has enough to do is never held up.

    What a round takes counts, so that under load there is no rest, and each round finds more.
    """

    __slots__ = ("_clock", "_due", "_next", "_sleep", "_soon")

    def __init__(
        self,
        *,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], object] = time.sleep,
        soon: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        """`soon` has something called once this round is over: the running loop's by default."""
        self._clock = clock
        self._sleep = sleep
        self._soon = soon
        self._due = False
        self._next = 0.0

    def fast(self) -> None:
        """A stream has brought a piece soon after another: the next round can wait for more."""
        if not self._due:
            self._due = True
            (self._soon or asyncio.get_running_loop().call_soon)(self._rest)

    def _rest(self) -> None:
        self._due = False
        now = self._clock()
        left = self._next - now
        if left > 0.0:
            self._sleep(left)
            now += left
        self._next = now + ROUND_S
