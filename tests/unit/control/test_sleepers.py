"""What sleepers gave back of their GPUs, as it is told, and who has no room to wake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from vllm_console.control import sleepers
from vllm_console.control.sleepers import Sleepers
from vllm_console.devices.nvml import NvmlReading
from vllm_console.errors import ConsoleError
from vllm_console.snapshot import Engine, Gpu, GpuProcess
from vllm_console.workers.launch import LaunchSpec
from vllm_console.workers.states import State

GB = 10**9
TOTAL = 80 * GB
MINE, OTHER = 7, 9


class FakeMachine:
    """A fake of the machine: each look shows the next of some readings, and the last again."""

    def __init__(self, *readings: NvmlReading) -> None:
        self.devices = NvmlReading()
        self.looks = 0
        self._readings = readings

    async def look(self) -> None:
        self.devices = self._readings[min(self.looks, len(self._readings) - 1)]
        self.looks += 1


class FakeWorker:
    """A fake worker on some GPUs, whose tree is one process."""

    def __init__(self, gpus: Sequence[int] = (0,), engine: Engine | None = None) -> None:
        self.id = "m-1"
        self.spec = LaunchSpec("m-1", "m", 1, (), 1, ("m",), gpus=tuple(gpus))
        self.engine = engine or Engine()
        self.state = State.ASLEEP

    def tree(self) -> list[int]:
        return [MINE]


def reading(*mine: int | None, others: int = 0, fault: str | None = None) -> NvmlReading:
    """What the driver says: bytes of the worker on each GPU, and of another worker there."""
    found, gpus = dict[int, dict[int, int | None]](), []
    for index, size in enumerate(mine):
        on_it = []
        if size is not None:
            found.setdefault(MINE, {})[index] = size
            on_it.append(GpuProcess(MINE, size, "m-1", "VLLM::EngineCore"))
        if others:
            found.setdefault(OTHER, {})[index] = others
            on_it.append(GpuProcess(OTHER, others, "n-1", "VLLM::EngineCore"))
        used = None if fault else (size or 0) + others
        gpus.append(
            Gpu("here", index, f"GPU-{index}", "H100", None, used, TOTAL, fault=fault,
                processes=tuple(on_it))
        )  # fmt: skip
    return NvmlReading(tuple(gpus), processes=found)


class Bed:
    """Sleepers over a fake machine, what they told, and which GPUs they held steady."""

    def __init__(self, *readings: NvmlReading) -> None:
        self.told: list[tuple[str, str, str]] = []
        self.steady: list[tuple[str, Collection[int]]] = []
        self.held = False
        self.machine = FakeMachine(*readings)
        machine: Any = self.machine
        self.sleepers = Sleepers(machine, lambda *event: self.told.append(event), self._hold)

    @asynccontextmanager
    async def _hold(self, worker_id: str, gpus: Collection[int]) -> AsyncIterator[None]:
        self.steady.append((worker_id, gpus))
        self.held = True
        yield
        self.held = False

    def sleep(self, worker: Any) -> list[tuple[str, str, str]]:
        """The worker falls asleep; returns what is told of it."""

        async def night() -> None:
            await self.sleepers.lies_down(worker)
            await self.sleepers.sleeps(worker)

        asyncio.run(night())
        return self.told

    def wake(self, worker: Any) -> None:
        """The worker wakes; raises `ConsoleError` where it is refused."""

        async def morning() -> None:
            async with self.sleepers.gets_up(worker):
                assert self.held

        try:
            asyncio.run(morning())
        finally:
            self.held = False


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sleepers, "_LOOK_S", 0.001)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver has hardly any time to show what came back."""
    monkeypatch.setattr(sleepers, "FREED_S", 0.02)


def test_what_came_back_is_told_with_what_it_keeps() -> None:
    bed = Bed(reading(60 * GB, others=5 * GB), reading(2 * GB, others=5 * GB))
    text = "gave back 58.0 GB of GPU memory and keeps 2.0 GB"
    assert bed.sleep(FakeWorker()) == [("ok", "m-1", text)]
    assert bed.machine.looks == 2


def test_a_driver_that_is_slow_to_show_it_is_waited_for() -> None:
    full = reading(60 * GB, 60 * GB)
    bed = Bed(full, full, full, reading(40 * GB, 40 * GB), reading(GB, GB))
    text = "gave back 118.0 GB of GPU memory and keeps 2.0 GB"
    assert bed.sleep(FakeWorker((0, 1))) == [("ok", "m-1", text)]
    assert bed.machine.looks == 5


@pytest.mark.usefixtures("impatient")
def test_memory_that_does_not_come_back_is_a_warning() -> None:
    bed = Bed(reading(60 * GB), reading(50 * GB))
    text = "sleeps, and holds 50.0 GB of GPU memory still, of 60.0 GB before"
    assert bed.sleep(FakeWorker()) == [("warn", "m-1", text)]


def test_without_processes_of_its_own_the_memory_of_its_gpus_is_compared() -> None:
    bed = Bed(reading(None, others=70 * GB), reading(None, others=10 * GB))
    text = "gave back 60.0 GB of GPU memory and keeps 10.0 GB"
    assert bed.sleep(FakeWorker()) == [("ok", "m-1", text)]


def test_a_process_that_is_listed_no_more_gave_everything_back() -> None:
    bed = Bed(reading(30 * GB, others=50 * GB), reading(None, others=50 * GB))
    text = "gave back 30.0 GB of GPU memory and keeps 0.0 GB"
    assert bed.sleep(FakeWorker()) == [("ok", "m-1", text)]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("gpus", [(), (0,)])
def test_of_a_worker_without_a_gpu_or_a_driver_that_does_not_tell_nothing_is_told(
    gpus: tuple[int, ...],
) -> None:
    nothing = reading(fault="x") if not gpus else reading(None, fault="driver does not answer")
    assert Bed(nothing).sleep(FakeWorker(gpus)) == []


@pytest.mark.usefixtures("impatient")
def test_a_driver_that_falls_silent_meanwhile_is_not_taken_for_freed_memory() -> None:
    bed = Bed(reading(60 * GB), reading(None, fault="driver does not answer"))
    assert bed.sleep(FakeWorker()) == []


@pytest.mark.parametrize("state", [State.STARTING, State.READY, State.STOPPING])
def test_one_that_sleeps_no_more_is_not_measured(state: State) -> None:
    bed, worker = Bed(reading(60 * GB)), FakeWorker()
    worker.state = state
    assert bed.sleep(worker) == []


def test_who_has_its_memory_is_named_when_it_cannot_wake() -> None:
    before, after = reading(60 * GB), reading(2 * GB)
    bed, worker = Bed(before, after, reading(2 * GB, others=40 * GB)), FakeWorker()
    bed.sleep(worker)
    line = "GPU 0 has 38.0 GB free and it needs 58.0: unload, or put to sleep, another there (n-1)"
    with pytest.raises(ConsoleError) as refused:
        bed.wake(worker)
    assert str(refused.value) == line
    assert bed.steady == [("m-1", (0,))]


def test_with_room_it_wakes_while_nobody_else_changes_that_memory() -> None:
    bed = Bed(reading(60 * GB), reading(2 * GB), reading(2 * GB, others=20 * GB))
    worker = FakeWorker()
    bed.sleep(worker)
    bed.wake(worker)
    assert bed.steady == [("m-1", (0,))]
    assert bed.machine.looks == 3


def test_what_an_adopted_one_needs_is_estimated_from_its_log() -> None:
    engine = Engine(weights_bytes=60 * GB, kv_cache_bytes=60 * GB)
    worker = FakeWorker((0, 1), engine)
    bed = Bed(reading(2 * GB, 2 * GB, others=30 * GB))
    with pytest.raises(ConsoleError, match=r"GPU 0 has 48\.0 GB free and it needs 60\.0"):
        bed.wake(worker)
    Bed(reading(2 * GB, 2 * GB, others=10 * GB)).wake(worker)


def test_what_nobody_knows_does_not_keep_it_asleep() -> None:
    Bed(reading(None, others=79 * GB)).wake(FakeWorker())
    Bed(reading(None, fault="driver does not answer")).wake(
        FakeWorker(engine=Engine(weights_bytes=60 * GB))
    )
    Bed(NvmlReading((), "no driver")).wake(FakeWorker(()))


def test_a_stranger_is_named_by_its_process() -> None:
    process = GpuProcess(OTHER, 70 * GB, None, "python")
    gpu = Gpu("here", 0, "GPU-0", "H100", None, 70 * GB, TOTAL, processes=(process,))
    worker = FakeWorker(engine=Engine(weights_bytes=60 * GB))
    with pytest.raises(ConsoleError, match=r"another there \(python\)"):
        Bed(NvmlReading((gpu,))).wake(worker)


def test_a_worker_that_is_forgotten_needs_what_its_log_says() -> None:
    bed = Bed(reading(60 * GB), reading(2 * GB), reading(2 * GB, others=40 * GB))
    worker = FakeWorker()
    bed.sleep(worker)
    bed.sleepers.forget("m-1")
    bed.wake(worker)
