"""Reading GPUs through the installed nvidia-ml-py, under the faults real drivers have."""

from __future__ import annotations

import pynvml
import pytest

from tests.fakenvml.fake import GIB, UNKNOWN, FakeDriver
from vllm_console.devices.nvml import RETRY_S, Nvml, NvmlReading

POWER = "nvmlDeviceGetPowerUsage"


class FakeClock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def nvml(driver: FakeDriver, clock: FakeClock) -> Nvml:
    return Nvml("node", api=driver.pynvml(), clock=clock)


def faults(reading: NvmlReading) -> list[str | None]:
    return [gpu.fault for gpu in reading.gpus]


def names(reading: NvmlReading) -> list[tuple[int, str]]:
    return [(gpu.index, gpu.uuid[:12]) for gpu in reading.gpus]


def test_a_gpu_is_read_in_our_units(driver: FakeDriver, nvml: Nvml) -> None:
    gpu = driver.gpu(1)
    gpu.utilization, gpu.used, gpu.power_mw, gpu.reasons = 42, 7 * GIB, 321_500, 0x4
    read = nvml.poll().gpus[1]
    assert (read.index, read.uuid[:12], read.name) == (1, "GPU-00000001", "NVIDIA H100 80GB HBM3")
    assert read.utilization == pytest.approx(0.42)
    assert read.temperature_c == 34.0
    assert (read.memory_used_bytes, read.memory_total_bytes) == (7 * GIB, 80 * GIB)
    assert (read.power_w, read.power_limit_w, read.throttle) == (321.5, 700.0, "power cap")
    assert read.fault is None


def test_no_device_is_a_reason_and_the_driver_is_let_go(driver: FakeDriver, nvml: Nvml) -> None:
    driver.reset(0)
    assert nvml.poll() == NvmlReading((), "the NVIDIA driver is loaded and sees no GPU")
    assert driver.state.started == 0


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "upgraded under its library; reboot"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "no permission for the NVIDIA driver"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "modprobe nvidia"),
        (pynvml.NVML_ERROR_UNKNOWN, "NVML does not start: Unknown Error"),
    ],
)
def test_a_driver_that_does_not_start_says_why_and_is_asked_again_after_a_minute(
    code: int, reason: str, driver: FakeDriver, nvml: Nvml, clock: FakeClock
) -> None:
    driver.state.init_result = code
    for _ in range(3):
        reading = nvml.poll()
        assert reading.gpus == ()
        assert reason in str(reading.reason)
    assert driver.state.init_calls == 1
    driver.state.init_result = 0
    clock.now += RETRY_S
    assert faults(nvml.poll()) == [None, None]


def test_what_one_gpu_does_not_support_is_asked_once_of_it_and_always_of_the_others(
    driver: FakeDriver, nvml: Nvml
) -> None:
    driver.fail(0, pynvml.NVML_ERROR_NOT_SUPPORTED, POWER)
    for _ in range(5):
        one, other = nvml.poll().gpus
        assert (one.power_w, other.power_w) == (None, 71.0)
        assert one.temperature_c == 34.0
    assert (driver.calls(0, POWER), driver.calls(1, POWER)) == (1, 5)


def test_what_is_not_permitted_is_not_asked_over_and_over(driver: FakeDriver, nvml: Nvml) -> None:
    function = "nvmlDeviceGetComputeRunningProcesses_v3"
    driver.gpu(0).run((1, GIB))
    driver.fail(0, pynvml.NVML_ERROR_NO_PERMISSION, function)
    for _ in range(3):
        reading = nvml.poll()
        assert (reading.processes, faults(reading)) == ({}, [None, None])
    assert driver.calls(0, function) == 1


def test_an_old_driver_is_asked_the_old_way(driver: FakeDriver, nvml: Nvml) -> None:
    missing = pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
    new = ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetCurrentClocksEventReasons")
    driver.fail(0, missing, *new)
    driver.gpu(0).used, driver.gpu(0).reasons = 4 * GIB, 0x20
    for _ in range(2):
        read = nvml.poll().gpus[0]
        assert (read.memory_used_bytes, read.throttle) == (5 * GIB, "thermal (software)")
    assert [driver.calls(0, name) for name in new] == [1, 1]


def test_an_error_that_passes_is_asked_again(driver: FakeDriver, nvml: Nvml) -> None:
    driver.fail(0, pynvml.NVML_ERROR_TIMEOUT, POWER)
    assert nvml.poll().gpus[0].power_w is None
    driver.fail(0, 0, POWER)
    assert nvml.poll().gpus[0].power_w == 71.0


def test_a_gpu_that_only_errs_says_so_and_comes_back(
    driver: FakeDriver, nvml: Nvml, clock: FakeClock
) -> None:
    nvml.poll()
    driver.fail(0, pynvml.NVML_ERROR_UNKNOWN)
    assert faults(nvml.poll()) == ["answers nothing: Unknown Error", None]
    driver.fail(0, 0)
    clock.now += 60.0
    assert faults(nvml.poll()) == [None, None]


def test_a_lost_gpu_leaves_the_others_alone_and_is_back_after_a_new_start_of_nvml(
    driver: FakeDriver, nvml: Nvml, clock: FakeClock
) -> None:
    before = names(nvml.poll())
    driver.gpu(0).lost = 1
    driver.gpu(1).utilization = 70
    reading = nvml.poll()
    assert faults(reading) == ["fallen off the bus", None]
    assert names(reading) == before
    assert reading.gpus[0].memory_total_bytes is None
    assert reading.gpus[1].utilization == pytest.approx(0.7)
    starts = []
    for second in range(1, 130):
        clock.now = 100.0 + second
        seen = driver.state.init_calls
        assert faults(nvml.poll()) == ["fallen off the bus", None]
        if driver.state.init_calls > seen:
            starts.append(second)
    assert starts == [1, 2, 4, 8, 16, 32, 64, 124]
    driver.gpu(0).lost = 0
    assert faults(nvml.poll()) == ["fallen off the bus", None]  # its handle is dead
    clock.now = 300.0
    assert faults(nvml.poll()) == [None, None]
    assert driver.state.started == 1


def test_a_gpu_the_driver_no_longer_counts_is_named_and_the_others_keep_their_index(
    driver: FakeDriver, nvml: Nvml, clock: FakeClock
) -> None:
    driver.reset(3)
    before = names(nvml.poll())
    driver.gpu(0).lost = 1
    nvml.poll()
    driver.gpu(0).absent = 1
    driver.gpu(2).utilization = 50
    clock.now += 10.0
    reading = nvml.poll()
    assert names(reading) == before
    assert faults(reading) == ["no longer seen by the driver", None, None]
    assert [gpu.utilization for gpu in reading.gpus] == [None, 0.0, 0.5]
    driver.gpu(0).lost = driver.gpu(0).absent = 0
    clock.now += 60.0
    reading = nvml.poll()
    assert (names(reading), faults(reading)) == (before, [None, None, None])


def test_a_gpu_that_comes_later_gets_an_index_of_its_own(
    driver: FakeDriver, nvml: Nvml, clock: FakeClock
) -> None:
    driver.gpu(0).absent = 1
    assert names(nvml.poll()) == [(0, "GPU-00000001")]
    driver.gpu(0).absent = 0
    nvml.close()
    clock.now += 60.0
    assert names(nvml.poll()) == [(0, "GPU-00000001"), (1, "GPU-00000000")]


def test_a_gpu_that_is_lost_from_the_beginning_is_there_and_gets_its_name_later(
    driver: FakeDriver, nvml: Nvml, clock: FakeClock
) -> None:
    driver.gpu(0).lost = 1
    reading = nvml.poll()
    assert (reading.gpus[0].name, faults(reading)) == ("NVIDIA GPU", ["fallen off the bus", None])
    driver.gpu(0).lost = 0
    clock.now += 60.0
    assert names(nvml.poll()) == [(0, "GPU-00000000"), (1, "GPU-00000001")]


def test_gpus_that_were_there_stay_in_the_picture_when_the_driver_does_not_start_again(
    driver: FakeDriver, nvml: Nvml, clock: FakeClock
) -> None:
    before = names(nvml.poll())
    driver.gpu(1).lost = 1
    nvml.poll()
    driver.state.init_result = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    clock.now += 60.0
    reading = nvml.poll()
    assert (names(reading), reading.reason) == (before, None)
    why = "the NVIDIA driver was upgraded under its library; reboot"
    assert faults(reading) == [why, why]


def test_memory_the_driver_does_not_tell_is_unknown_and_not_a_number(
    driver: FakeDriver, nvml: Nvml
) -> None:
    driver.gpu(0).run((41, UNKNOWN), (42, GIB))
    driver.gpu(1).run((42, 2 * GIB))
    assert nvml.poll().processes == {41: {0: None}, 42: {0: GIB, 1: 2 * GIB}}
