"""A driver that hangs: the event loop goes on, the numbers go, and the reason is there."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.fakenvml.fake import FakeDriver
from vllm_console.devices.nvml import Nvml
from vllm_console.devices.patient import PatientNvml


class FakeClock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - the condition is in a thread
            await asyncio.sleep(0.005)


def test_a_healthy_driver_answers_at_once(driver: FakeDriver) -> None:
    async def main() -> None:
        patient = PatientNvml(Nvml("n", api=driver.pynvml()))
        assert patient.reading.reason == "not read yet"
        reading = await patient.poll()
        assert [gpu.fault for gpu in reading.gpus] == [None, None]
        assert patient.silent_s is None
        await patient.close()
        assert driver.state.started == 0

    asyncio.run(main())


@pytest.mark.parametrize("delay_s", [0.2, 2.0])
def test_a_slow_call_does_not_hold_up_the_loop_and_its_answer_comes(
    delay_s: float, driver: FakeDriver
) -> None:
    async def main() -> None:
        patient = PatientNvml(Nvml("n", api=driver.pynvml()))
        await patient.poll()
        driver.gpu(0).utilization = 90
        driver.state.delay_us = int(delay_s * 1e6)
        begun = time.monotonic()
        steps, longest = 0, 0.0
        asked = asyncio.ensure_future(patient.poll(0.1))
        while time.monotonic() - begun < delay_s:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            steps, longest = steps + 1, max(longest, time.monotonic() - before)
        assert (await asked).gpus[0].utilization == 0.0  # as read last
        assert longest < delay_s / 2
        driver.state.delay_us = 0
        await until(lambda: patient.reading.gpus[0].utilization == 0.9)

    asyncio.run(main())


def test_a_driver_that_hangs_takes_its_numbers_away_says_since_when_and_comes_back(
    driver: FakeDriver,
) -> None:
    async def main() -> None:
        clock = FakeClock()
        patient = PatientNvml(Nvml("n", api=driver.pynvml(), clock=clock), clock=clock)
        assert (await patient.poll()).at == 100.0
        driver.state.hang = 1
        clock.now += 1.0
        reading = await patient.poll(0.0)
        await until(lambda: driver.state.waiting == 1)
        assert reading.gpus[0].fault is None  # nothing remarkable yet
        clock.now += 12.4
        for _ in range(3):
            reading = await patient.poll(0.0)
            assert [gpu.fault for gpu in reading.gpus] == ["driver does not answer for 12 s"] * 2
            assert (reading.at, reading.gpus[0].temperature_c) == (100.0, None)
            assert reading.gpus[0].name == "NVIDIA H100 80GB HBM3"
        assert driver.state.waiting == 1  # one question, however often it is asked
        driver.let_go()
        await until(lambda: patient.silent_s is None)
        assert patient.reading.at == 101.0  # when that was asked, not when it was answered
        assert (await patient.poll()).gpus[0].temperature_c == 34.0

    asyncio.run(main())


def test_a_driver_that_hangs_from_the_beginning_is_the_reason_for_no_gpu(
    driver: FakeDriver,
) -> None:
    async def main() -> None:
        clock = FakeClock()
        patient = PatientNvml(Nvml("n", api=driver.pynvml(), clock=clock), clock=clock)
        driver.state.hang = 1
        assert (await patient.poll(0.0)).reason == "not read yet"
        clock.now += 7.0
        reading = patient.reading
        assert (reading.gpus, reading.reason) == ((), "the NVIDIA driver does not answer for 7 s")
        await patient.close()
        driver.let_go()
        await until(lambda: len(patient.reading.gpus) == 2)

    asyncio.run(main())


def test_a_call_that_never_returns_does_not_keep_a_process_from_ending(driver: FakeDriver) -> None:
    code = (
        "import asyncio\n"
        "from vllm_console.devices.nvml import Nvml\n"
        "from vllm_console.devices.patient import PatientNvml\n"
        "async def main():\n"
        "    patient = PatientNvml(Nvml('n'))\n"
        "    print((await patient.poll(0.1)).reason)\n"
        "    await patient.close()\n"
        "asyncio.run(main())"
    )
    driver.state.hang = 1
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **driver.environment()},
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (run.stdout, run.stderr) == ("not read yet\n", "")
    driver.state.waiting = 0  # that one went with its process
