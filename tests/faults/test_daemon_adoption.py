"""A daemon that starts after a disaster: what it says, what it starts again, who waits for whom."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.faults.test_daemon import ONE, QUICK_ONE, QUICK_TWO, TWO, FakeNvml, Fleet, model, until
from vllm_console.control.daemon import Daemon
from vllm_console.workers.shim import descendants, process
from vllm_console.workers.states import State

Scenario = Callable[[Fleet], Awaitable[None]]
SHARED = "devices = [0]\n"
SLOW = "fake_boot_s = 3.0\n"


@pytest.fixture
def play(tmp_path: Path, fake_engine: Path) -> Callable[[Scenario], None]:
    """Plays a scenario; the last daemon of it takes down what still runs."""

    async def played(scenario: Scenario) -> None:
        fleet = Fleet(tmp_path, fake_engine)
        try:
            await asyncio.wait_for(scenario(fleet), 60)
        finally:
            await fleet.end()

    return lambda scenario: asyncio.run(played(scenario))


def said(daemon: Daemon) -> list[tuple[str, str]]:
    """(subject, text) of the events, oldest first."""
    return [(event.subject, event.text) for event in daemon.events.after(0)]


async def power_cut(fleet: Fleet, daemon: Daemon) -> Path:
    """End daemon, shim and tree at once; returns the worker's state.json."""
    state = fleet.root / "state" / "workers" / "one-1" / "state.json"
    holder = int(json.loads((state.parent / "shim.lock").read_text())["pid"])
    pids = [holder, *descendants(holder)]
    await daemon.close()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    await until(lambda: all(process(pid) is None for pid in pids))
    return state


def test_after_a_reboot_it_says_who_was_lost_and_starts_what_was_wanted(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fleet) -> None:
        first = await fleet.up(ONE + QUICK_ONE)
        await until(lambda: model(first).ready == 1)
        state = await power_cut(fleet, first)
        content = json.loads(state.read_text())
        state.write_text(json.dumps({**content, "boot": "of yesterday"}))
        daemon = await fleet.up()
        assert ("fleet", "the machine was rebooted, lost one-1") in said(daemon)
        await until(lambda: model(daemon).ready == 1)

    play(scenario)


def test_a_tree_that_vanished_without_a_reboot_is_named_too(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fleet) -> None:
        first = await fleet.up(ONE + QUICK_ONE)
        await until(lambda: model(first).ready == 1)
        await power_cut(fleet, first)
        daemon = await fleet.up()
        assert ("one-1", "was gone when the daemon started, no exit code") in said(daemon)
        assert not any("rebooted" in text for _, text in said(daemon))
        await until(lambda: model(daemon).ready == 1)

    play(scenario)


def test_a_worker_found_in_the_middle_of_its_start_keeps_others_off_its_gpu(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fleet) -> None:
        fleet.write(ONE + SHARED + QUICK_ONE + SLOW)
        first = fleet.daemon(FakeNvml())
        await first.start()
        await until(lambda: any(w.stage == "weights" for w in model(first).workers))
        await first.close()
        fleet.write(ONE + SHARED + QUICK_ONE + SLOW, TWO + SHARED + QUICK_TWO)
        daemon = fleet.daemon(FakeNvml())
        await daemon.start()
        together = []

        def both_ready() -> bool:
            states = [model(daemon, name).state for name in ("one", "two")]
            together.append(states)
            return states == [State.READY, State.READY]

        await until(both_ready)
        assert [State.STARTING, State.QUEUED] in together
        assert [State.STARTING, State.STARTING] not in together

    play(scenario)


def test_a_fleet_that_comes_up_with_an_older_file_says_which_revision_serves(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fleet) -> None:
        first = await fleet.up(ONE + QUICK_ONE)
        await until(lambda: model(first).ready == 1)
        fleet.write(ONE + QUICK_ONE + "fake_boot_s = 0.05\n")
        await first.command("apply", {})
        assert ("one", "revision 2 serves") in said(first)
        await first.take_down()
        await first.close()
        daemon = await fleet.up(ONE + QUICK_ONE)
        await until(lambda: ("one", "revision 1 serves") in said(daemon)[-3:])

    play(scenario)
