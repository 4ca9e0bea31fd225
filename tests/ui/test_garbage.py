"""When cyclic garbage is collected, and that closed screens leave nothing else behind."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from textual._styles_cache import StylesCache

from tests.ui.playing import Stage
from tests.ui.scripted import StandingClock
from vllm_console.ui.garbage import PATIENCE_S, QUIET_S, Garbage, forget_lines


class Node:
    """An object of a cycle."""

    def __init__(self) -> None:
        self.self = self


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def garbage(clock: StandingClock) -> Iterator[Garbage]:
    """One that has taken over."""
    garbage = Garbage(clock)
    garbage.take_over()
    yield garbage
    garbage.give_back()


def nodes() -> int:
    return sum(isinstance(one, Node) for one in gc.get_objects())


def test_python_collects_by_itself_again_when_the_console_ends() -> None:
    before = gc.get_threshold()
    garbage = Garbage(StandingClock())
    garbage.take_over()
    assert gc.get_threshold()[:2] == before[:2]
    assert gc.get_threshold()[2] > before[2] * 1000
    assert gc.get_freeze_count()
    garbage.give_back()
    assert gc.get_threshold() == before
    assert not gc.get_freeze_count()


def test_nothing_is_due_before_a_screen_was_closed(garbage: Garbage) -> None:
    assert not garbage.due
    garbage.closed()
    seen = [garbage.due, garbage.sweep(), garbage.due]
    assert seen == [True, True, False]


def test_a_sweep_collects_what_the_oldest_generation_holds(garbage: Garbage) -> None:
    kept = Node()
    gc.collect(1)  # it is in the oldest generation from now on
    assert kept.self is kept
    del kept
    gc.collect(1)
    assert nodes() == 1
    garbage.closed()
    assert garbage.sweep()
    assert nodes() == 0


def test_whoever_types_waits_for_no_sweep_unless_it_was_put_off_too_long(
    garbage: Garbage, clock: StandingClock
) -> None:
    garbage.closed()
    garbage.typed()
    assert not garbage.sweep()
    clock.now += QUIET_S
    assert garbage.sweep()
    garbage.closed()
    for _ in range(int(PATIENCE_S / QUIET_S * 2) + 2):
        garbage.typed()
        if garbage.sweep():
            break
        clock.now += QUIET_S / 2
    else:
        pytest.fail("put off for ever")


def test_without_a_console_that_took_over_nothing_is_due(clock: StandingClock) -> None:
    garbage = Garbage(clock)
    garbage.closed()
    assert not garbage.due


async def test_a_closed_screen_leaves_no_drawn_lines() -> None:
    stage = Stage()

    def caches() -> int:
        forget_lines()
        gc.collect()
        return sum(isinstance(one, StylesCache) for one in gc.get_objects())

    async with stage.app.run_test(size=(160, 48)) as pilot:
        await stage.shown(pilot)
        counts = []
        for _ in range(3):
            await pilot.press("question_mark")
            await pilot.pause()
            await pilot.press("escape")
            await pilot.pause()
            counts.append(caches())
        assert counts[1] == counts[2]
