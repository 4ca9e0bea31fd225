"""A fake NVIDIA driver: compiles the C source beside it, and changes what it says while it runs."""

from __future__ import annotations

import ctypes
import importlib.util
import mmap
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("fake_nvml.c")
GIB = 1 << 30
UNKNOWN = (1 << 64) - 1
"""NVML_VALUE_NOT_AVAILABLE: the driver lists a process and does not tell its memory."""


class Process(ctypes.Structure):
    """`process_t` of fake_nvml.c."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("unused", ctypes.c_uint),
        ("memory", ctypes.c_ulonglong),
    )


class FakeGpu(ctypes.Structure):
    """`gpu_t` of fake_nvml.c; a change is what the driver says from the next call on."""

    total: int
    used: int
    reserved: int
    reasons: int
    utilization: int
    temperature: int
    power_mw: int
    limit_mw: int
    lost: int
    absent: int
    process_count: int
    processes: Any
    results: Any
    calls: Any

    _fields_ = (
        *((name, ctypes.c_ulonglong) for name in ("total", "used", "reserved", "reasons")),
        *(
            (name, ctypes.c_uint)
            for name in (
                *("utilization", "temperature", "power_mw", "limit_mw"),
                *("lost", "absent", "process_count", "unused"),
            )
        ),
        ("processes", Process * 8),
        ("results", ctypes.c_int * 16),
        ("calls", ctypes.c_uint * 16),
    )

    def run(self, *processes: tuple[int, int]) -> None:
        """Let exactly these compute here: pid and bytes, or `UNKNOWN`."""
        for slot, (pid, memory) in enumerate(processes):
            self.processes[slot].pid, self.processes[slot].memory = pid, memory
        self.process_count = len(processes)


class State(ctypes.Structure):
    """`state_t` of fake_nvml.c."""

    gpu_count: int
    init_result: int
    count_result: int
    init_calls: int
    shutdown_calls: int
    started: int
    delay_us: int
    hang: int
    waiting: int
    gpus: Any

    _fields_ = (
        ("gpu_count", ctypes.c_uint),
        ("init_result", ctypes.c_int),
        ("count_result", ctypes.c_int),
        *(
            (name, ctypes.c_uint)
            for name in (
                *("init_calls", "shutdown_calls", "started"),
                *("delay_us", "hang", "waiting", "unused"),
            )
        ),
        ("gpus", FakeGpu * 16),
    )


class FakeDriver:
    """The compiled library, the state it reads, and a pynvml of its own that talks to it.

    A library attaches to its state once, when it is loaded: one driver for a whole test session.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.library = compiled(directory)
        self.state_file = directory / "state"
        self.state_file.write_bytes(bytes(ctypes.sizeof(State)))
        with self.state_file.open("r+b") as file:
            self.state = State.from_buffer(mmap.mmap(file.fileno(), 0))
        before = os.environ.get("FAKE_NVML_STATE")
        os.environ["FAKE_NVML_STATE"] = str(self.state_file)
        try:
            self.lib = ctypes.CDLL(str(self.library))
        finally:
            if before is None:
                del os.environ["FAKE_NVML_STATE"]
            else:
                os.environ["FAKE_NVML_STATE"] = before
        self.lib.function_name.restype = ctypes.c_char_p
        self.lib.layout.restype = ctypes.c_uint
        self._ids: dict[str, int] = {}
        while (name := self.lib.function_name(len(self._ids))) is not None:
            self._ids[name.decode()] = len(self._ids)

    def reset(self, gpus: int = 2) -> None:
        """A healthy driver with `gpus` idle GPUs; counters at zero."""
        ctypes.memset(ctypes.addressof(self.state), 0, ctypes.sizeof(self.state))
        self.state.gpu_count = gpus
        for index in range(gpus):
            gpu = self.state.gpus[index]
            gpu.total, gpu.used, gpu.reserved = 80 * GIB, 0, GIB
            gpu.temperature, gpu.power_mw, gpu.limit_mw, gpu.reasons = 34, 71_000, 700_000, 1

    def let_go(self) -> None:
        """Answer all calls that hang."""
        self.state.hang = self.state.delay_us = 0
        deadline = time.monotonic() + 5
        while self.state.waiting:
            assert time.monotonic() < deadline, f"{self.state.waiting} calls still hang"
            time.sleep(0.001)

    def gpu(self, index: int) -> FakeGpu:
        """The GPU in this slot."""
        gpu: FakeGpu = self.state.gpus[index]
        return gpu

    def fail(self, index: int, code: int, *functions: str) -> None:
        """Let these functions (default: all) fail with `code` on one GPU; 0 mends them."""
        for name in functions or self._ids:
            self.state.gpus[index].results[self._ids[name]] = code

    def calls(self, index: int, function: str) -> int:
        """How often this function of one GPU was called."""
        return int(self.state.gpus[index].calls[self._ids[function]])

    def pynvml(self) -> Any:
        """nvidia-ml-py as it is installed, a fresh copy in memory, bound to the fake library.

        A copy of its own, since the module keeps the library that it found first for good, and
        the machine may have a real one.
        """
        found = importlib.util.find_spec("pynvml")
        assert found is not None
        assert found.origin is not None
        spec = importlib.util.spec_from_file_location("pynvml_on_the_fake", found.origin)
        assert spec is not None
        assert spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # it looks itself up to make its exception classes
        spec.loader.exec_module(module)
        module.nvmlLib = self.lib
        return module

    def environment(self) -> dict[str, str]:
        """What makes any program find the fake in place of a driver."""
        return {"LD_LIBRARY_PATH": str(self.directory), "FAKE_NVML_STATE": str(self.state_file)}


def compiled(directory: Path) -> Path:
    """The fake as `libnvidia-ml.so.1` in `directory`; raises when it cannot be compiled."""
    library = directory / "libnvidia-ml.so.1"
    kind = ["-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-soname,libnvidia-ml.so.1"]
    command = [*_compiler(), "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", *kind]
    subprocess.run([*command, "-o", str(library), str(SOURCE)], check=True, timeout=300)
    return library


def _compiler() -> list[str]:
    """gcc, or on a machine without one the C compiler that comes as a Python package."""
    if shutil.which("gcc"):
        return ["gcc"]
    uv = Path(sys.executable).with_name("uv")
    run = [str(uv), "tool", "run", "--quiet", "--python", sys.executable]
    return [*run, "--from", "ziglang==0.15.1", "python-zig", "cc"]
