"""Who computes on which GPU, and when an ended tree's GPUs are free."""

from __future__ import annotations

from vllm_console.devices.nvml import NvmlReading
from vllm_console.devices.ownership import (
    PATIENCE_S,
    Leaving,
    memory_of,
    released,
    with_processes,
)
from vllm_console.snapshot import Gpu, GpuProcess

GIB = 1 << 30


def reading(
    processes: dict[int, dict[int, int | None]], *, at: float = 0.0, silent: tuple[int, ...] = ()
) -> NvmlReading:
    """Two GPUs with these processes (bytes by pid and GPU)."""
    gpus = tuple(
        Gpu("n", i, f"GPU-{i}", "H100", fault="lost" if i in silent else None) for i in (0, 1)
    )
    return NvmlReading(gpus, None, processes, at)


class FakeClock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_processes_are_named_with_their_worker_or_as_strangers_the_largest_first() -> None:
    now = reading({41: {0: GIB}, 42: {0: 3 * GIB, 1: GIB}, 99: {0: None}})
    names = {41: "python3", 42: "VLLM::EngineCor"}
    one, two = with_processes(now, {42: "tiny-1"}, names.get)
    assert one.processes == (
        GpuProcess(42, 3 * GIB, "tiny-1", "VLLM::EngineCor"),
        GpuProcess(41, GIB, None, "python3"),
        GpuProcess(99, None, None, None),
    )
    assert two.processes == (GpuProcess(42, GIB, "tiny-1", "VLLM::EngineCor"),)


def test_a_workers_memory_is_that_of_its_tree_on_all_gpus() -> None:
    now = reading({41: {0: GIB}, 42: {0: 3 * GIB, 1: GIB}, 43: {1: None}})
    assert memory_of(now, [40, 42, 43]) == 4 * GIB
    assert memory_of(now, [43]) is None
    assert memory_of(now, []) is None


def test_gpus_are_released_once_no_process_of_the_tree_is_on_them() -> None:
    assert not released(reading({42: {1: GIB}}), (0, 1), {42})
    assert not released(reading({42: {1: None}}), (0, 1), {42})
    assert released(reading({42: {1: GIB}}), (0,), {42})
    assert released(reading({41: {0: GIB}}), (0, 1), {42})


def test_a_gpu_that_does_not_answer_releases_nothing() -> None:
    assert not released(reading({}, silent=(1,)), (0, 1), {42})
    assert released(reading({}, silent=(1,)), (0,), {42})


def test_an_ended_tree_holds_its_gpus_until_a_later_reading_is_without_it() -> None:
    clock, leaving = FakeClock(), Leaving(FakeClock())
    leaving.ended("tiny-1", (0, 1), [41, 42])
    assert leaving.look(reading({}, at=clock.now - 1)) == []
    assert leaving.held == {0, 1}  # that was read before it ended
    leaving.look(reading({42: {1: GIB}}, at=clock.now + 1))
    assert (leaving.held, leaving.waiting) == (frozenset({0, 1}), True)
    assert leaving.owners == {41: "tiny-1", 42: "tiny-1"}
    leaving.look(reading({}, at=clock.now + 2))
    assert (leaving.held, leaving.waiting) == (frozenset(), False)


def test_a_pid_that_a_running_tree_has_again_holds_nothing() -> None:
    leaving = Leaving(FakeClock())
    leaving.ended("tiny-1", (0,), [42])
    leaving.look(reading({42: {0: GIB}}, at=101.0), living={42})
    assert leaving.held == frozenset()


def test_what_is_overdue_is_told_once_is_not_waited_for_and_stays_held() -> None:
    clock = FakeClock()
    leaving = Leaving(clock)
    leaving.ended("tiny-1", (1,), [42])
    stuck: dict[int, dict[int, int | None]] = {42: {1: 70 * GIB}}
    assert leaving.look(reading(stuck, at=101.0)) == []
    clock.now += PATIENCE_S
    (left,) = leaving.look(reading(stuck, at=clock.now))
    assert (left.worker, left.gpus) == ("tiny-1", (1,))
    assert leaving.look(reading(stuck, at=clock.now)) == []
    assert (leaving.held, leaving.waiting) == (frozenset({1}), False)
    leaving.look(reading({}, at=clock.now))
    assert leaving.held == frozenset()


def test_a_tree_without_gpus_is_not_waited_for() -> None:
    leaving = Leaving(FakeClock())
    leaving.ended("tiny-1", (), [42])
    assert not leaving.waiting
