"""Sleep and wake that cross with commands, starts and daemon deaths, on the simulated machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.fake_machine import Start, Tree
from tests.faults.fake_sleep_mode import SWITCH_S
from tests.faults.fake_world import World
from vllm_console.workers.states import State

SOON = (0.0, 0.01, 0.2, SWITCH_S + 0.05, 0.9, 1.3)
"""Seconds after which the second of two commands comes: while the first is under way."""
SETTLED_S = 60.0


@pytest.fixture
def world() -> Iterator[World]:
    """a can sleep and has a GPU to itself, two workers of b have each, c shares GPU 0."""
    world = World()
    world.models = {"a": ("nap", 1), "b": ("two", 1), "c": ("zero", 1)}
    world.write()
    try:
        world.up()
        world.step(20.0)
        yield world
        world.settle()
        world.down()
    finally:
        world.close()


def state(world: World, worker: str = "a-1") -> State:
    return State(world.workers()[worker].view.state)


def tree(world: World, worker: str = "a-1") -> Tree:
    (found,) = [tree for tree in world.machine.living() if tree.spec.worker_id == worker]
    return found


def add(world: World, model: str, kind: str) -> None:
    world.models[model] = (kind, 1)
    world.write()
    world.ask("apply")
    world.step(20.0)


def sleep(world: World, model: str = "a") -> None:
    world.ask("sleep", model=model)
    world.step(5.0)


def test_the_gpu_of_a_sleeper_is_given_to_another_only_when_no_other_is_free(world: World) -> None:
    sleep(world)
    (gpu,) = tree(world).spec.gpus
    add(world, "d", "one")
    assert tree(world, "d-1").spec.gpus == (gpu,)
    world.ask("unload", model="b")
    world.step(20.0)
    world.ask("restart", model="d")
    world.step(20.0)
    assert state(world, "d-1") is State.READY
    assert tree(world, "d-1").spec.gpus != (gpu,)


def test_one_whose_gpu_another_has_by_now_wakes_once_that_one_is_gone(world: World) -> None:
    sleep(world)
    add(world, "d", "one")
    assert tree(world, "d-1").spec.gpus == tree(world).spec.gpus
    world.ask("wake", model="a")
    world.step(2.0)
    assert state(world) is State.ASLEEP
    reason = world.workers()["a-1"].view.reason or ""
    assert reason.startswith("cannot wake: GPU ")
    assert reason.endswith("unload, or put to sleep, another there (d-1)")
    world.step(20.0)
    assert world.workers()["a-1"].view.reason is None
    world.ask("unload", model="d")
    world.step(20.0)
    world.ask("wake", model="a")
    world.step(5.0)
    assert state(world) is State.READY


def test_two_that_wake_at_once_on_one_gpu_come_one_after_the_other(world: World) -> None:
    sleep(world)
    add(world, "d", "nap")
    sleep(world, "d")
    assert tree(world, "d-1").spec.gpus == tree(world).spec.gpus
    world.ask("wake", model="a")
    world.ask("wake", model="d")
    world.step(6.0)
    assert {state(world), state(world, "d-1")} == {State.READY, State.ASLEEP}


def test_a_wake_waits_for_who_starts_on_its_gpu(world: World) -> None:
    add(world, "d", "turns")
    sleep(world, "d")
    world.machine.next_start = Start(boot_s=6.0)
    world.ask("restart", model="c")
    world.step(2.0)
    assert state(world, "c-1") is State.STARTING
    world.ask("wake", model="d")
    world.step(1.0)
    assert (state(world, "d-1"), tree(world, "d-1").rest.asleep) == (State.STARTING, True)
    world.step(8.0)
    assert (state(world, "c-1"), state(world, "d-1")) == (State.READY, State.READY)


def test_a_start_on_its_gpu_waits_for_who_wakes(world: World) -> None:
    add(world, "d", "turns")
    sleep(world, "d")
    world.ask("unload", model="c")
    world.step(5.0)
    world.ask("wake", model="d")
    world.step(0.1)
    world.ask("load", model="c")
    world.step(0.1)
    assert (state(world, "d-1"), state(world, "c-1")) == (State.STARTING, State.QUEUED)
    world.step(10.0)
    assert (state(world, "d-1"), state(world, "c-1")) == (State.READY, State.READY)


@pytest.mark.parametrize("after", SOON)
@pytest.mark.parametrize("verb", ["wake", "load"])
def test_called_back_at_any_moment_it_serves(world: World, verb: str, after: float) -> None:
    before = tree(world).main
    world.ask("sleep", model="a")
    world.step(after)
    world.ask(verb, model="a")
    world.step(10.0)
    assert state(world) is State.READY
    assert tree(world).main == before
    assert (tree(world).rest.asleep, tree(world).rest.loaded) == (False, True)


@pytest.mark.parametrize("after", SOON)
def test_sent_to_sleep_again_at_any_moment_it_sleeps(world: World, after: float) -> None:
    world.ask("sleep", model="a")
    world.step(0.1)
    world.ask("wake", model="a")
    world.step(after)
    world.ask("sleep", model="a")
    world.step(10.0)
    if state(world) is State.READY:  # it was on its way to serve: that is refused
        sleep(world)
    assert state(world) is State.ASLEEP
    assert tree(world).rest.asleep


@pytest.mark.parametrize("after", SOON)
@pytest.mark.parametrize("first", ["sleep", "wake"])
@pytest.mark.parametrize("verb", ["unload", "restart"])
def test_unload_and_restart_hold_at_any_moment(
    world: World, first: str, verb: str, after: float
) -> None:
    before = tree(world).main
    if first == "wake":
        sleep(world)
    world.ask(first, model="a")
    world.step(after)
    world.ask(verb, model="a")
    world.step(SETTLED_S)
    if verb == "unload":
        assert "a-1" not in world.workers()
    else:
        assert state(world) is State.READY
        assert tree(world).main != before


@pytest.mark.parametrize("after", SOON)
@pytest.mark.parametrize("first", ["sleep", "wake"])
def test_an_apply_at_any_moment_brings_the_new_revision_once_asked_for(
    world: World, first: str, after: float
) -> None:
    if first == "wake":
        sleep(world)
    world.ask(first, model="a")
    world.step(after)
    world.models["a"] = ("nap", 2)
    world.write()
    world.ask("apply")
    world.step(SETTLED_S)
    assert world.daemon is not None
    world.ask("load", model="a")
    world.step(SETTLED_S)
    (served,) = [w for w in world.workers().values() if w.model == "a"]
    assert State(served.view.state) is State.READY
    assert tree(world, served.id).spec.revision == 2


@pytest.mark.parametrize("after", SOON)
@pytest.mark.parametrize("first", ["sleep", "wake"])
def test_a_daemon_killed_at_any_moment_loses_nobody_who_sleeps(
    world: World, first: str, after: float
) -> None:
    before = tree(world).main
    if first == "wake":
        sleep(world)
    world.ask(first, model="a")
    world.step(after)
    world.kill()
    world.up()
    world.step(SETTLED_S)
    assert state(world) is (State.ASLEEP if tree(world).rest.asleep else State.READY)
    if tree(world).rest.asleep:
        world.ask("wake", model="a")
        world.step(10.0)
    assert state(world) is State.READY
    assert (tree(world).main, tree(world).rest.loaded) == (before, True)


@pytest.mark.parametrize("after", SOON)
@pytest.mark.parametrize("first", ["sleep", "wake"])
def test_one_that_dies_at_any_moment_serves_again_or_is_down_until_asked_for(
    world: World, first: str, after: float
) -> None:
    if first == "wake":
        sleep(world)
    world.ask(first, model="a")
    world.step(after)
    world.machine.engine_dies(tree(world))
    world.step(SETTLED_S)
    if state(world) is State.STOPPED:
        assert "ended while it slept" in (world.workers()["a-1"].view.reason or "")
        world.ask("load", model="a")
        world.step(SETTLED_S)
    assert state(world) is State.READY


def test_who_dies_asleep_leaves_its_gpu_to_who_has_it_by_now(world: World) -> None:
    sleep(world)
    add(world, "d", "one")
    world.machine.engine_dies(tree(world))
    world.step(SETTLED_S)
    assert (state(world), state(world, "d-1")) == (State.STOPPED, State.READY)
    assert "ended while it slept" in (world.workers()["a-1"].view.reason or "")


def test_sleep_mode_that_does_not_work_leaves_it_as_it_was(world: World) -> None:
    tree(world).rest.works = False
    sleep(world)
    assert state(world) is State.READY
    assert "did not go to sleep" in (world.workers()["a-1"].view.reason or "")
    tree(world).rest.works = True
    sleep(world)
    tree(world).rest.works = False
    world.ask("wake", model="a")
    world.step(5.0)
    assert state(world) is State.ASLEEP
    assert "cannot wake" in (world.workers()["a-1"].view.reason or "")


def test_an_engine_that_hangs_while_it_falls_asleep_is_given_up_and_can_be_unloaded(
    world: World,
) -> None:
    tree(world).hung = True
    world.ask("sleep", model="a")
    world.step(100.0)
    assert state(world) is State.READY
    world.ask("unload", model="a")
    world.step(SETTLED_S)
    assert "a-1" not in world.workers()


def test_an_engine_that_hangs_while_it_wakes_is_killed_and_starts_anew(world: World) -> None:
    before = tree(world).main
    sleep(world)
    tree(world).hung = True
    world.ask("wake", model="a")
    world.step(SETTLED_S)
    assert state(world) is State.READY
    assert tree(world).main != before
