"""An event loop on a clock of its own: a wait takes no time, and nothing runs beside the test."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import selectors
from collections.abc import Callable
from typing import Any

THREAD_S = 0.002
"""Virtual seconds that work in a thread takes."""


class Clock:
    """One line of time that event loops and a simulated machine share."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def later(self, delay_s: float, happens: Callable[[], None]) -> None:
        """Have something happen whether or not a loop runs; the order of equals is kept."""
        heapq.heappush(self._due, (self.now + delay_s, next(self._order), happens))

    def advance(self, until: float) -> bool:
        """Go on to the next thing that is due by `until`, or to `until`; says which."""
        if self._due and self._due[0][0] <= until:
            at, _, happens = heapq.heappop(self._due)
            self.now = max(self.now, at)
            happens()
            return True
        self.now = max(self.now, until)
        return False


class _Waits(selectors.SelectSelector):
    """Has nothing to read; a wait for it moves the clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.rounds_left: int | None = None
        self.out_of_rounds: Callable[[], None] = lambda: None

    def select(self, timeout: float | None = None) -> list[Any]:
        if self.rounds_left is not None:
            self.rounds_left -= 1
            if self.rounds_left <= 0:
                self.out_of_rounds()
                return []
        if timeout is None:
            raise AssertionError("the loop waits for something that can never happen")
        if timeout > 0:
            self.clock.advance(self.clock.now + timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs for as long as it is told to, or for some rounds; its threads are no threads."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.waits = _Waits(clock)
        super().__init__(self.waits)
        self.waits.out_of_rounds = self.stop

    def time(self) -> float:
        return self.clock.now

    def run_for(self, seconds: float, rounds: int | None = None) -> None:
        """Run for that long, or until so many rounds of the loop are over."""
        self.waits.rounds_left = rounds
        end = self.call_later(seconds, self.stop)
        self.run_forever()
        end.cancel()
        self.waits.rounds_left = None

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.create_future()
        self.call_later(THREAD_S, _settle, future, func, args)
        return future


def _settle(future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
    if future.cancelled():
        return
    try:
        future.set_result(func(*args))
    except Exception as error:
        future.set_exception(error)
