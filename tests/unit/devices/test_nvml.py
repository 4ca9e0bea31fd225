"""GPUs through a fake pynvml: values, absences, losses, and the reasons for seeing nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from vllm_console.devices.nvml import NO_DRIVER, Nvml, throttle

GIB = 1 << 30


@dataclass
class FakeGpu:
    """One GPU of the fake; `errors` by function name, or for every function under "*"."""

    utilization: int = 0
    used: int = 4 * GIB
    reserved: int = GIB
    reasons: int = 1
    processes: list[tuple[int, int | None]] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)


class FakePynvml:
    """The functions of pynvml that are used here; errors are the real module's."""

    NVMLError = pynvml.NVMLError
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU
    nvmlMemory_v2 = pynvml.nvmlMemory_v2

    def __init__(self, *gpus: FakeGpu) -> None:
        self.gpus = list(gpus)
        self.init_error: int | None = None
        self.count_error: int | None = None
        self.started = 0
        self.calls: Counter[str] = Counter()

    def nvmlInit(self) -> None:
        self.calls["nvmlInit"] += 1
        if self.init_error is not None:
            raise pynvml.NVMLError(self.init_error)
        self.started += 1

    def nvmlShutdown(self) -> None:
        if not self.started:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
        self.started -= 1

    def nvmlDeviceGetCount(self) -> int:
        if self.count_error is not None:
            raise pynvml.NVMLError(self.count_error)
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        gpu = self.gpus[index]
        self._answer("nvmlDeviceGetHandleByIndex", gpu, lambda _: None)
        return gpu

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answers: dict[str, Callable[[FakeGpu], Any]] = {
            "nvmlDeviceGetName": lambda _: "NVIDIA H100 80GB HBM3",
            "nvmlDeviceGetUUID": lambda gpu: f"GPU-{self.gpus.index(gpu)}",
            "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=gpu.utilization),
            "nvmlDeviceGetTemperature": lambda _: 61,
            "nvmlDeviceGetPowerUsage": lambda _: 321_500,
            "nvmlDeviceGetEnforcedPowerLimit": lambda _: 700_000,
            "nvmlDeviceGetCurrentClocksEventReasons": lambda gpu: gpu.reasons,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda gpu: gpu.reasons,
            "nvmlDeviceGetComputeRunningProcesses": lambda gpu: [
                SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in gpu.processes
            ],
        }
        if name not in answers:
            raise AttributeError(name)
        return lambda gpu, *_: self._answer(name, gpu, answers[name])

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu, version: int | None = None) -> Any:
        if version is None:
            used = gpu.used + gpu.reserved
            name = "nvmlDeviceGetMemoryInfo"
        else:
            assert version == pynvml.nvmlMemory_v2
            used, name = gpu.used, "nvmlDeviceGetMemoryInfo_v2"
        return self._answer(name, gpu, lambda _: SimpleNamespace(used=used, total=80 * GIB))

    def _answer(self, name: str, gpu: FakeGpu, answer: Callable[[FakeGpu], Any]) -> Any:
        assert self.started == 1
        self.calls[name] += 1
        code = gpu.errors.get(name, gpu.errors.get("*"))
        if code is not None:
            raise pynvml.NVMLError(code)
        return answer(gpu)


class FakeClock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_gpu_is_read_in_our_units() -> None:
    fake = FakePynvml(FakeGpu(utilization=87, reasons=0x4, processes=[(41, 3 * GIB), (42, None)]))
    reading = Nvml("node-1", api=fake).poll()
    (gpu,) = reading.gpus
    assert (gpu.node, gpu.index, gpu.uuid) == ("node-1", 0, "GPU-0")
    assert gpu.name == "NVIDIA H100 80GB HBM3"
    assert gpu.utilization == pytest.approx(0.87)
    assert (gpu.memory_used_bytes, gpu.memory_total_bytes) == (4 * GIB, 80 * GIB)
    assert (gpu.temperature_c, gpu.power_w, gpu.power_limit_w) == (61.0, 321.5, 700.0)
    assert gpu.throttle == "power cap"
    assert gpu.fault is None
    assert reading.reason is None
    assert reading.processes == {41: {0: 3 * GIB}, 42: {0: None}}


def test_a_process_on_two_gpus_has_memory_on_both() -> None:
    fake = FakePynvml(FakeGpu(processes=[(7, GIB)]), FakeGpu(processes=[(7, 2 * GIB), (8, GIB)]))
    reading = Nvml("n", api=fake).poll()
    assert reading.processes == {7: {0: GIB, 1: 2 * GIB}, 8: {1: GIB}}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, NO_DRIVER),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "the NVIDIA driver is not loaded"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "upgraded under its library; reboot"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "no permission for the NVIDIA driver"),
        (pynvml.NVML_ERROR_GPU_IS_LOST, "fallen off the bus"),
        (pynvml.NVML_ERROR_UNKNOWN, "NVML does not start: Unknown Error"),
    ],
)
def test_a_driver_that_does_not_start_is_a_reason_and_is_asked_again_a_minute_later(
    code: int, reason: str
) -> None:
    fake, clock = FakePynvml(FakeGpu()), FakeClock()
    fake.init_error = code
    nvml = Nvml("n", api=fake, clock=clock)
    for _ in range(3):
        reading = nvml.poll()
        assert reading.gpus == ()
        assert reading.reason is not None
        assert reason in reading.reason
    assert fake.calls["nvmlInit"] == 1
    fake.init_error = None
    clock.now = 61.0
    assert nvml.poll().reason is None
    assert len(nvml.poll().gpus) == 1


def test_a_retry_asks_at_once() -> None:
    fake = FakePynvml(FakeGpu())
    fake.init_error = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    nvml = Nvml("n", api=fake, clock=FakeClock())
    assert nvml.poll().gpus == ()
    fake.init_error = None
    nvml.retry()
    assert len(nvml.poll().gpus) == 1


def test_a_driver_that_starts_and_cannot_count_is_let_go() -> None:
    fake = FakePynvml(FakeGpu())
    fake.count_error = pynvml.NVML_ERROR_NO_PERMISSION
    assert "no permission" in str(Nvml("n", api=fake).poll().reason)
    assert fake.started == 0


def test_a_driver_without_a_gpu_says_so() -> None:
    fake = FakePynvml()
    reading = Nvml("n", api=fake).poll()
    assert reading.reason == "the NVIDIA driver is loaded and sees no GPU"
    assert fake.started == 0


def test_what_a_gpu_does_not_support_is_none_and_is_asked_once() -> None:
    names = ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetUtilizationRates")
    errors = dict.fromkeys(names, pynvml.NVML_ERROR_NOT_SUPPORTED)
    fake = FakePynvml(FakeGpu(errors=errors), FakeGpu())
    nvml = Nvml("n", api=fake)
    for _ in range(5):
        one, other = nvml.poll().gpus
        assert one.power_w is None
        assert one.utilization is None
        assert one.temperature_c == 61
        assert other.power_w == 321.5
    assert fake.calls["nvmlDeviceGetPowerUsage"] == 1 + 5


def test_a_passing_error_is_asked_again() -> None:
    gpu = FakeGpu(errors={"nvmlDeviceGetPowerUsage": pynvml.NVML_ERROR_UNKNOWN})
    nvml = Nvml("n", api=FakePynvml(gpu))
    assert nvml.poll().gpus[0].power_w is None
    gpu.errors.clear()
    assert nvml.poll().gpus[0].power_w == 321.5


def test_an_old_driver_is_asked_the_old_way() -> None:
    missing = pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
    gpu = FakeGpu(
        reasons=0x20,
        errors={
            "nvmlDeviceGetMemoryInfo_v2": missing,
            "nvmlDeviceGetCurrentClocksEventReasons": missing,
        },
    )
    (read,) = Nvml("n", api=FakePynvml(gpu)).poll().gpus
    assert read.memory_used_bytes == 5 * GIB
    assert read.throttle == "thermal (software)"


def test_a_lost_gpu_keeps_its_name_and_the_others_their_values() -> None:
    lost, fine, clock = FakeGpu(utilization=50), FakeGpu(utilization=70), FakeClock()
    fake = FakePynvml(lost, fine)
    nvml = Nvml("n", api=fake, clock=clock)
    nvml.poll()
    lost.errors["*"] = pynvml.NVML_ERROR_GPU_IS_LOST
    for _ in range(3):
        one, other = nvml.poll().gpus
        assert (one.uuid, one.name) == ("GPU-0", "NVIDIA H100 80GB HBM3")
        assert one.fault == "fallen off the bus"
        assert one.utilization is None
        assert one.memory_used_bytes is None
        assert other.fault is None
        assert other.utilization == pytest.approx(0.7)
    assert fake.calls["nvmlInit"] == 1


def test_a_lost_gpu_is_asked_for_less_and_less_often_until_it_is_back() -> None:
    gpu, clock = FakeGpu(), FakeClock()
    fake = FakePynvml(gpu)
    nvml = Nvml("n", api=fake, clock=clock)
    nvml.poll()
    gpu.errors["*"] = pynvml.NVML_ERROR_GPU_IS_LOST
    starts = []
    for second in range(1, 200):
        clock.now = float(second)
        before = fake.calls["nvmlInit"]
        assert nvml.poll().gpus[0].fault is not None
        if fake.calls["nvmlInit"] > before:
            starts.append(second)
    assert starts == [2, 3, 5, 9, 17, 33, 65, 125, 185]
    gpu.errors.clear()
    clock.now = 300.0
    assert nvml.poll().gpus[0].fault is None
    assert fake.started == 1


def test_a_driver_that_went_away_is_started_anew() -> None:
    gpu, clock = FakeGpu(), FakeClock()
    nvml = Nvml("n", api=FakePynvml(gpu), clock=clock)
    nvml.poll()
    gpu.errors["*"] = pynvml.NVML_ERROR_UNINITIALIZED
    assert nvml.poll().gpus[0].fault == "driver went away"
    gpu.errors.clear()
    clock.now = 5.0
    assert nvml.poll().gpus[0].fault is None


def test_closing_lets_go_of_the_driver_and_polling_takes_it_again() -> None:
    fake, clock = FakePynvml(FakeGpu()), FakeClock()
    nvml = Nvml("n", api=fake, clock=clock)
    nvml.close()
    nvml.poll()
    nvml.close()
    assert fake.started == 0
    clock.now = 5.0
    assert len(nvml.poll().gpus) == 1


@pytest.mark.parametrize(
    ("reasons", "text"),
    [(0, None), (1, None), (2, None), (0x4, "power cap"), (0x44, "thermal (hardware)")],
)
def test_only_what_holds_the_clocks_down_is_named(reasons: int, text: str | None) -> None:
    assert throttle(reasons) == text


def test_the_functions_used_exist_in_the_real_module() -> None:
    fake = FakePynvml()
    used = {name for name in dir(fake) if name.startswith(("nvml", "NVML"))} | {
        "nvmlDeviceGetName",
        "nvmlDeviceGetUUID",
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetEnforcedPowerLimit",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
        "nvmlDeviceGetComputeRunningProcesses",
    }
    assert {name for name in used if not hasattr(pynvml, name)} == set()


def test_the_real_module_on_this_host_gives_gpus_or_a_reason() -> None:
    nvml = Nvml()
    reading = nvml.poll()
    assert bool(reading.gpus) != bool(reading.reason)
    nvml.close()
