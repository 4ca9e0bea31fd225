"""Rounds of a loop while streams run fast, on a clock of the test's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from vllm_console.gateway.pace import ROUND_S, Pace


class Loop:
    """A loop whose rounds take as long as they are told to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.rested: list[float] = []
        self._soon: list[Callable[[], None]] = []
        self.pace = Pace(clock=lambda: self.now, sleep=self._sleep, soon=self._soon.append)

    def round(self, takes_s: float, fast: int = 1) -> float:
        """One round with so many fast pieces; how long it rested."""
        for _ in range(fast):
            self.pace.fast()
        self.now += takes_s
        before = len(self.rested)
        for call in self._soon:
            call()
        self._soon.clear()
        return sum(self.rested[before:])

    def _sleep(self, seconds: float) -> None:
        self.rested.append(seconds)
        self.now += seconds


def test_rounds_with_a_fast_stream_are_kept_apart() -> None:
    loop = Loop()
    assert loop.round(0.00001) == 0.0
    assert loop.round(0.00005) == pytest.approx(ROUND_S - 0.00005)
    assert loop.round(0.00005) == pytest.approx(ROUND_S - 0.00005)


def test_a_loop_that_has_enough_to_do_never_rests() -> None:
    loop = Loop()
    for _ in range(10):
        assert loop.round(ROUND_S) == 0.0


def test_a_round_without_a_fast_stream_is_not_followed_by_a_rest() -> None:
    loop = Loop()
    loop.round(0.00001)
    assert loop.round(0.00001, fast=0) == 0.0


def test_many_fast_streams_rest_once_and_never_longer_than_one_round() -> None:
    loop = Loop()
    for takes_s in (0.0, 0.00002, 0.0, 0.0001, 0.001, 0.0):
        assert loop.round(takes_s, fast=50) <= ROUND_S + 1e-9
    assert len(loop.rested) == 4


def test_on_a_running_loop_the_rest_comes_after_what_is_to_be_done_at_once() -> None:
    done: list[str] = []

    async def main() -> None:
        pace = Pace(clock=time.monotonic, sleep=lambda _: done.append("rested"))
        pace.fast()
        await asyncio.sleep(0)
        pace.fast()
        done.append("written")
        await asyncio.sleep(0)

    asyncio.run(main())
    assert done == ["written", "rested"]
