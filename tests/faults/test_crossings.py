"""Commands, faults and daemon deaths that cross, each scripted: what must come of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.fake_machine import Start
from tests.faults.fake_world import World
from vllm_console.snapshot import Failure
from vllm_console.workers.states import Cause, State

SOON = (0.01, 0.3, 0.8, 1.6, 2.2)
"""Seconds after which the second of two commands comes: while the first is under way."""


@pytest.fixture
def world() -> Iterator[World]:
    """A fleet of three models that is up: a and two workers of b have GPUs to themselves."""
    world = World()
    try:
        world.up()
        world.step(5.0)
        yield world
        world.settle()
        world.down()
    finally:
        world.close()


def pids(world: World) -> dict[str, int | None]:
    return {worker.id: worker.view.pid for worker in world.workers().values()}


def state(world: World, worker: str) -> State:
    return State(world.workers()[worker].view.state)


def apply(world: World, model: str, kind: str, step: int, seconds: float) -> None:
    world.models[model] = (kind, step)
    world.write()
    world.ask("apply")
    world.step(seconds)


def test_a_gpu_that_a_model_names_is_given_to_no_other(world: World) -> None:
    used = {tree.spec.worker_id: tree.spec.gpus for tree in world.machine.living()}
    assert used["c-1"] == (0,)
    assert sorted(used.values()) == [(0,), (1,), (2,), (3,)]


def test_a_start_on_a_named_gpu_waits_for_who_starts_there(world: World) -> None:
    world.ask("unload", model="c")
    world.step(3.0)
    apply(world, "d", "one", 1, 0.3)
    assert state(world, "d-1") is State.STARTING
    world.ask("load", model="c")
    world.step(0.3)
    assert state(world, "c-1") is State.QUEUED
    world.step(10.0)
    assert state(world, "c-1") is State.READY


@pytest.mark.parametrize(("model", "kind"), [("b", "zero"), ("c", "cpu")])
@pytest.mark.parametrize("after", [0.01, 0.3])
def test_an_apply_while_all_starts_gives_nobody_a_gpu_that_another_starts_on(
    model: str, kind: str, after: float
) -> None:
    world = World()
    try:
        world.up()
        world.models[model] = (kind, 1)
        world.write()
        world.ask("apply")
        world.step(after)
        world.settle()
        world.down()
    finally:
        world.close()


@pytest.mark.parametrize("after", SOON)
@pytest.mark.parametrize("kind", ["cpu", "last"])
def test_an_unload_while_its_model_is_replaced_holds(world: World, kind: str, after: float) -> None:
    apply(world, "a", kind, 1, 20.0)
    apply(world, "a", kind, 2, after)
    world.ask("unload", model="a")
    world.step(30.0)
    assert [w for w in pids(world) if w.startswith("a-")] == []


@pytest.mark.parametrize("after", SOON)
def test_a_restart_while_a_model_is_replaced_wants_no_more_workers(
    world: World, after: float
) -> None:
    apply(world, "a", "cpu", 1, 20.0)
    apply(world, "a", "cpu", 2, after)
    world.ask("restart", model="a")
    world.step(30.0)
    assert world.daemon is not None
    assert world.daemon.models["a"].wanted == 1


@pytest.mark.parametrize("after", SOON)
def test_a_load_of_more_workers_while_the_first_is_replaced_counts_without_it(
    world: World, after: float
) -> None:
    world.ask("unload", model="b")
    world.step(20.0)
    apply(world, "a", "two", 2, after)
    world.ask("load", model="a")
    world.step(60.0)
    served = [worker for worker in world.workers().values() if worker.model == "a"]
    assert [State(worker.view.state) for worker in served] == [State.READY] * 2


@pytest.mark.parametrize("rounds", [3, 6, 9, 14, 20])
def test_a_load_while_its_model_is_removed_leaves_nothing(world: World, rounds: int) -> None:
    del world.models["a"]
    world.write()
    world.ask("apply")
    world.step(1.0, rounds)
    world.ask("load", model="a")
    world.step(0.05)
    world.step(20.0)
    assert [tree for tree in world.machine.living() if tree.spec.model == "a"] == []


@pytest.mark.parametrize("after", SOON)
def test_nothing_is_admitted_while_the_fleet_goes_down(world: World, after: float) -> None:
    del world.models["c"]
    apply(world, "d", "cpu", 1, after)
    world.ask("down")
    world.until(lambda: world.daemon is None, "go down")


def test_a_daemon_killed_while_a_worker_starts_adopts_it(world: World) -> None:
    world.machine.next_start = Start(boot_s=6.0)
    world.ask("restart", model="a")
    world.step(1.5)
    world.kill()
    (tree,) = [tree for tree in world.machine.living() if tree.spec.model == "a"]
    world.up()
    world.step(10.0)
    assert pids(world)["a-1"] == tree.main.pid
    assert state(world, "a-1") is State.READY


@pytest.mark.parametrize("after", [0.2, 1.0, 2.2, 3.0, 4.5])
def test_a_daemon_killed_while_it_replaces_a_worker_leaves_as_many_as_are_wanted(
    world: World, after: float
) -> None:
    apply(world, "a", "cpu", 1, 20.0)
    apply(world, "a", "cpu", 2, after)
    world.kill()
    world.up()
    world.step(60.0)
    served = [worker for worker in world.workers().values() if worker.model == "a"]
    assert [State(worker.view.state) for worker in served] == [State.READY]


def test_a_load_while_an_unload_of_the_daemon_before_is_carried_out_holds(world: World) -> None:
    world.ask("unload", model="a")
    world.step(0.0, rounds=1)
    world.kill()
    world.up()
    world.ask("load", model="a")
    world.step(60.0)
    served = [worker for worker in world.workers().values() if worker.model == "a"]
    assert [State(worker.view.state) for worker in served] == [State.READY]


def test_an_unload_that_a_killed_daemon_noted_is_carried_out(world: World) -> None:
    world.ask("unload", model="a")
    world.step(0.0, rounds=1)
    world.kill()
    world.up()
    world.step(60.0)
    assert [w for w in pids(world) if w.startswith("a-")] == []


def test_a_rebooted_machine_starts_everything_anew(world: World) -> None:
    world.kill()
    world.machine.reboots()
    world.machine.spawn(ours=False)  # has the pid of a shim that was
    world.up()
    world.step(10.0)
    assert {state(world, worker) for worker in pids(world)} == {State.READY}


def test_a_wall_clock_that_jumps_touches_no_worker(world: World) -> None:
    before = pids(world)
    for hours in (-30, 60):
        world.machine.wall_jump += hours * 3600
        world.kill()
        world.up()
        world.step(30.0)
        assert pids(world) == before
        assert {state(world, worker) for worker in before} == {State.READY}


@pytest.mark.parametrize("cause", Cause)
def test_a_launch_that_is_refused_is_tried_again_or_says_why_not(
    world: World, cause: Cause
) -> None:
    world.launcher.refusals.append(Failure(cause, "no", "do not", "2026-01-01T00:00:00Z"))
    world.ask("restart", model="a")
    world.step(30.0)
    view = world.workers()["a-1"].view
    assert view.state == State.READY or view.failure is not None


def test_a_start_that_never_serves_ends_in_a_crash_loop(world: World) -> None:
    world.ask("unload", model="a")
    world.step(3.0)
    world.ask("load", model="a")
    for _ in range(400):
        world.machine.next_start = Start(ends="oom")
        world.step(1.0)
    assert state(world, "a-1") is State.CRASH_LOOP


def test_a_gpu_whose_memory_is_held_is_given_to_nobody(world: World) -> None:
    (before,) = [tree for tree in world.machine.living() if tree.spec.model == "a"]
    world.machine.holds_memory_s = 500.0
    world.ask("unload", model="a")
    world.step(40.0)
    apply(world, "d", "one", 1, 40.0)
    failure = world.workers()["d-1"].view.failure
    assert failure is not None
    assert failure.cause == Cause.NO_FREE_GPU
    assert before.spec.gpus not in [tree.spec.gpus for tree in world.machine.living()]
    world.step(600.0)
    assert state(world, "d-1") is State.READY
