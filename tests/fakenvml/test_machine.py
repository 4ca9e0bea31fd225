"""The daemon's view of a machine whose driver is slow to give back what an ended worker held."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import pytest

from tests.fakenvml.fake import GIB, FakeDriver
from vllm_console import http1, snapshot
from vllm_console.control.machine import Machine, process_name
from vllm_console.devices.nvml import Nvml
from vllm_console.devices.ownership import PATIENCE_S
from vllm_console.snapshot import Failure
from vllm_console.workers.launch import Handle, LaunchFailed, LaunchSpec
from vllm_console.workers.states import Cause, State
from vllm_console.workers.worker import Worker

GONE = 2**22 + 1
"""A pid that Linux never gives: it ends at 2**22."""


class FakeClock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def told() -> list[tuple[str, str, str]]:
    return []


@pytest.fixture
def machine(driver: FakeDriver, clock: FakeClock, told: list[tuple[str, str, str]]) -> Machine:
    nvml = Nvml("n", api=driver.pynvml(), clock=clock)
    return Machine("n", nvml, lambda *event: told.append(event), clock)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - the condition is in a thread
            await asyncio.sleep(0.005)


def test_who_computes_on_a_gpu_is_named_and_counted(driver: FakeDriver, machine: Machine) -> None:
    me, parent = os.getpid(), os.getppid()
    driver.gpu(0).run((me, 3 * GIB), (parent, GIB), (GONE, 2 * GIB))
    driver.gpu(1).run((me, GIB))

    async def main() -> None:
        await machine.read({"tiny-1": [me]})

    asyncio.run(main())
    rows = [(p.pid, p.worker, p.name) for p in machine.devices.gpus[0].processes]
    mine, stranger = process_name(me), process_name(parent)
    assert None not in (mine, stranger)
    assert rows == [(me, "tiny-1", mine), (GONE, None, None), (parent, None, stranger)]
    assert machine.usage["tiny-1"].gpu_bytes == 4 * GIB
    assert machine.usage["tiny-1"].rss_bytes
    assert machine.host is not None


def test_a_start_waits_until_the_driver_gave_back_what_the_last_worker_held(
    driver: FakeDriver, machine: Machine, told: list[tuple[str, str, str]]
) -> None:
    async def main() -> None:
        driver.gpu(1).run((GONE, 70 * GIB))
        await machine.read({"tiny-1": [GONE]})
        machine.ended("tiny-1", (1,))
        assert machine.held == {1}
        start = asyncio.ensure_future(machine.settled())
        function = "nvmlDeviceGetComputeRunningProcesses_v3"
        asked = driver.calls(1, function)
        await until(lambda: driver.calls(1, function) > asked + 2)
        assert not start.done()
        assert machine.held == {1}
        (left,) = machine.devices.gpus[1].processes
        assert (left.worker, left.name) == ("tiny-1", None)
        driver.gpu(1).run()
        await asyncio.wait_for(start, 5)
        assert machine.held == frozenset()
        assert told == []

    asyncio.run(main())


def test_memory_that_does_not_come_back_is_told_and_its_gpu_is_given_to_nobody(
    driver: FakeDriver,
    machine: Machine,
    clock: FakeClock,
    told: list[tuple[str, str, str]],
) -> None:
    async def main() -> None:
        driver.gpu(1).run((GONE, 70 * GIB))
        await machine.read({"tiny-1": [GONE]})
        machine.ended("tiny-1", (1,))
        clock.now += PATIENCE_S
        await asyncio.wait_for(machine.settled(), 5)
        assert told == [("warn", "tiny-1", "has ended, and GPU 1 is not free after 30 s")]
        assert machine.held == {1}
        await asyncio.wait_for(machine.settled(), 5)
        assert len(told) == 1

    asyncio.run(main())


def test_a_process_that_left_its_tree_and_is_on_a_gpu_still_counts_to_its_worker(
    driver: FakeDriver, machine: Machine
) -> None:
    async def main() -> None:
        driver.gpu(0).run((GONE, GIB))
        machine.note("tiny-1", [GONE])
        await machine.read({"tiny-1": []})
        await machine.read({"tiny-1": []})
        assert machine.devices.gpus[0].processes[0].worker == "tiny-1"
        machine.ended("tiny-1", (0,))
        await machine.read({})
        assert machine.held == {0}

    asyncio.run(main())


def test_the_host_is_read_on_while_the_driver_hangs_and_a_start_then_says_why_it_cannot(
    driver: FakeDriver, machine: Machine, clock: FakeClock
) -> None:
    async def main() -> None:
        await machine.read({})
        driver.state.hang = 1
        before = machine.host
        await machine.read({})
        assert machine.host is not before
        clock.now += 12.0
        await machine.read({})
        fault = "driver does not answer for 12 s"
        assert [gpu.fault for gpu in machine.devices.gpus] == [fault] * 2
        assert machine.held == {0, 1}
        start = asyncio.ensure_future(machine.settled())
        await asyncio.sleep(0)
        clock.now += PATIENCE_S
        with pytest.raises(LaunchFailed, match="does not answer for 42 s: see whether") as raised:
            await asyncio.wait_for(start, 5)
        assert raised.value.failure.cause == Cause.DRIVER_SILENT
        driver.let_go()
        await asyncio.wait_for(machine.settled(), 5)
        assert machine.held == frozenset()

    asyncio.run(main())


class FakeLauncher:
    """Refuses every launch, so that a test sees that one was tried."""

    def expected_s(self, model: str, revision: int) -> float | None:
        return None

    async def launch(self, spec: LaunchSpec, environment: object) -> Handle:
        raise LaunchFailed(Failure(Cause.ENGINE_MISSING, "no such program", "install it", ""))


def test_a_worker_waits_for_a_silent_driver_and_starts_once_it_answers(
    driver: FakeDriver, machine: Machine, clock: FakeClock
) -> None:
    async def prepare() -> tuple[LaunchSpec, dict[str, str]]:
        await machine.settled()
        return LaunchSpec("tiny-1", "tiny", 1, (), 1, ()), {}

    async def main() -> None:
        await machine.read({})
        driver.state.hang = 1
        await machine.read({})
        clock.now += PATIENCE_S
        views: list[snapshot.Worker] = []
        worker = Worker(
            "tiny-1",
            "tiny",
            prepare=prepare,
            launcher=FakeLauncher(),  # type: ignore[arg-type]
            http=http1.Pool(),
            on_change=lambda _, view: views.append(view),
            node="n",
        )
        worker.load()
        await until(lambda: worker.state is State.STARTING)
        clock.now += PATIENCE_S
        await until(lambda: worker.state is State.BACKOFF)
        failure = views[-1].failure
        assert failure is not None
        assert (failure.cause, "nvidia-smi" in failure.remedy) == ("driver-silent", True)
        assert "the NVIDIA driver does not answer for" in failure.line
        driver.let_go()
        await until(lambda: worker.state is State.FAILED)
        assert worker.view.failure is not None
        assert worker.view.failure.cause == "engine-missing"
        await worker.close()

    asyncio.run(main())


def test_a_machine_without_a_driver_holds_up_nothing(driver: FakeDriver, machine: Machine) -> None:
    driver.state.init_result = 9

    async def main() -> None:
        await asyncio.wait_for(machine.settled(), 5)
        machine.ended("tiny-1", ())
        await asyncio.wait_for(machine.settled(), 5)
        assert driver.state.init_calls == 1

    asyncio.run(main())
