"""The fake driver is one that nvidia-ml-py takes for real."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Mapping

import pynvml
import pytest

from tests.fakenvml.fake import GIB, UNKNOWN, FakeDriver, FakeGpu, Process, State

STRUCTS: Mapping[str, type[ctypes.Structure]] = {
    "utilization_t": pynvml.c_nvmlUtilization_t,
    "memory_t": pynvml.c_nvmlMemory_t,
    "memory_v2_t": pynvml.c_nvmlMemory_v2_t,
    "process_info_t": pynvml.c_nvmlProcessInfo_v3_t,
    "state_t": State,
    "gpu_t": FakeGpu,
    "process_t": Process,
}


@pytest.mark.parametrize("name", STRUCTS)
def test_the_structs_of_the_fake_are_those_of_the_binding(name: str, driver: FakeDriver) -> None:
    struct = STRUCTS[name]
    assert driver.lib.layout(name.encode()) == ctypes.sizeof(struct)
    places = {field[0]: getattr(struct, field[0]).offset for field in struct._fields_}
    told = {field: driver.lib.layout(f"{name}.{field}".encode()) for field in places}
    known = {field: place for field, place in told.items() if place != 0xFFFFFFFF}
    assert known == {field: places[field] for field in known}
    if struct.__module__ == "pynvml":
        assert known.keys() == places.keys()


def test_a_driver_that_is_not_started_answers_nothing(driver: FakeDriver) -> None:
    nv = driver.pynvml()
    with pytest.raises(nv.NVMLError_Uninitialized):
        nv.nvmlDeviceGetCount()
    nv.nvmlInit()
    assert nv.nvmlDeviceGetCount() == 2
    nv.nvmlShutdown()
    with pytest.raises(nv.NVMLError_Uninitialized):
        nv.nvmlDeviceGetHandleByIndex(0)


def test_a_wrong_struct_version_is_refused(driver: FakeDriver) -> None:
    nv = driver.pynvml()
    nv.nvmlInit()
    handle = nv.nvmlDeviceGetHandleByIndex(0)
    assert nv.nvmlDeviceGetMemoryInfo(handle, version=nv.nvmlMemory_v2).reserved == GIB
    with pytest.raises(nv.NVMLError):
        nv.nvmlDeviceGetMemoryInfo(handle, version=nv.nvmlMemory_v2 + 1)


def test_a_program_that_knows_nothing_of_tests_finds_the_fake_and_sees_it_change(
    driver: FakeDriver,
) -> None:
    driver.gpu(1).utilization = 87
    driver.gpu(1).run((4711, 3 * GIB), (4712, UNKNOWN))
    code = (
        "from vllm_console.devices.nvml import Nvml\n"
        "reading = Nvml('n').poll()\n"
        "print(reading.reason, [gpu.utilization for gpu in reading.gpus], dict(reading.processes))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **driver.environment()},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    told = {4711: {1: 3 * GIB}, 4712: {1: None}}
    assert run.stdout == f"None [0.0, 0.87] {told}\n"
