"""GPUs by NVML: what each one does, who uses it, and in words why there is nothing to see."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from vllm_console.snapshot import Gpu

NO_DRIVER = "no NVIDIA driver on this host; workers are still monitored"
RETRY_S = 60.0
"""Seconds until a host without a working driver is asked again."""
FIRST_RETRY_S = 1.0
"""Seconds until NVML is started anew after a GPU was lost; doubles up to `RETRY_S`."""

_INIT_REASONS = {
    "NVMLError_LibraryNotFound": NO_DRIVER,
    "NVMLError_DriverNotLoaded": "the NVIDIA driver is not loaded; try: modprobe nvidia",
    "NVMLError_NoPermission": "no permission for the NVIDIA driver; look at /dev/nvidia*",
    "NVMLError_LibRmVersionMismatch": "the NVIDIA driver was upgraded under its library; reboot",
    "NVMLError_GpuIsLost": "a GPU has fallen off the bus; reset it or reboot",
    "NVMLError_FunctionNotFound": "the NVIDIA driver is too old to be asked",
}
_NEVER = frozenset(
    {"NVMLError_NotSupported", "NVMLError_FunctionNotFound", "NVMLError_NoPermission"}
)
"""After one of these the same question to the same GPU is not asked again until NVML is started
anew."""
_FAULTS = {
    "NVMLError_GpuIsLost": "fallen off the bus",
    "NVMLError_ResetRequired": "needs a reset",
    "NVMLError_Uninitialized": "driver went away",
}
"""After one of these only a new start of NVML can tell more of this GPU."""
_THROTTLE = (
    (0x48, "thermal (hardware)"),
    (0x20, "thermal (software)"),
    (0x80, "power brake"),
    (0x04, "power cap"),
    (0x10, "sync boost"),
)
"""Clock event reasons worth a word (nvml.h, nvmlClocksEventReason*; 0x40 is hardware thermal and
0x08 the hardware slowdown it is part of), the gravest first."""


@dataclass(frozen=True, slots=True)
class NvmlReading:
    """One poll of all GPUs."""

    gpus: tuple[Gpu, ...] = ()
    reason: str | None = None
    """Why there is no GPU in the picture; `None` when there is one."""
    processes: Mapping[int, Mapping[int, int | None]] = field(default_factory=dict)
    """GPU memory in bytes by pid and GPU index; `None` where the driver does not tell how much.
    Pids are the driver's: in a container they may be those of the host, and name nobody here."""
    at: float = float("-inf")
    """When the driver was asked, on the clock of who waits for it (`PatientNvml`)."""


@dataclass(slots=True)
class _Device:
    """A GPU that was seen since NVML started."""

    handle: Any
    gpu: Gpu
    fault: str | None = None
    never: set[str] = field(default_factory=set)
    answers: int = 0
    """Questions answered in this poll."""
    error: str | None = None
    """What one of the others met that may pass."""

    def begin(self) -> None:
        """A new poll."""
        self.answers, self.error = 0, None


class Nvml:
    """NVML behind one blocking call, to be made in a thread, by one thread at a time.

    `api` is the pynvml module; it is imported at the first poll.
    """

    def __init__(
        self,
        node: str | None = None,
        *,
        api: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node = platform.node() if node is None else node
        self._api = api
        self._clock = clock
        self._devices: list[_Device] | None = None
        """`None` while NVML is not started."""
        self._reason: str | None = None
        self._known: dict[str, Gpu] = {}
        """Every GPU ever seen, by uuid: a lost one keeps its name, and all keep their index though
        a driver that starts anew may count otherwise."""
        self._retry_at = float("-inf")
        self._backoff_s = FIRST_RETRY_S

    def poll(self) -> NvmlReading:
        """What all GPUs do now. Blocks for as long as the driver takes; raises nothing."""
        if self._api is None:
            import pynvml

            self._api = pynvml
        lost = self._devices is not None and any(d.fault for d in self._devices)
        if (self._devices is None or lost) and self._clock() >= self._retry_at:
            self._start()
        if self._devices is None:
            known = sorted(self._known.values(), key=lambda gpu: gpu.index)
            gpus = tuple(replace(gpu, fault=self._reason) for gpu in known)
            return NvmlReading(gpus, None if gpus else self._reason)
        processes: dict[int, dict[int, int | None]] = {}
        gpus = tuple(self._read(device, processes) for device in self._devices)
        if any(d.fault for d in self._devices):
            if not lost:
                self._retry_at = self._clock() + self._backoff_s
        else:
            self._backoff_s = FIRST_RETRY_S
        return NvmlReading(gpus, self._reason, processes)

    def retry(self) -> None:
        """Makes the next poll ask a missing driver or a lost GPU again, however soon."""
        self._retry_at = float("-inf")

    def close(self) -> None:
        """Lets go of the driver; a later poll starts it again."""
        if self._devices is not None:
            with suppress(self._api.NVMLError):
                self._api.nvmlShutdown()
        self._devices = None

    def _start(self) -> None:
        self.close()
        nv = self._api
        self._retry_at = self._clock() + self._backoff_s
        self._backoff_s = min(RETRY_S, 2 * self._backoff_s)
        try:
            nv.nvmlInit()
            count = nv.nvmlDeviceGetCount()
        except nv.NVMLError as error:
            self._reason = _INIT_REASONS.get(type(error).__name__, f"NVML does not start: {error}")
            self._retry_at = self._clock() + RETRY_S
            with suppress(nv.NVMLError):
                nv.nvmlShutdown()
            return
        self._devices = self._found(count)
        self._reason = None if self._devices else "the NVIDIA driver is loaded and sees no GPU"
        if not self._devices:
            self.close()
            self._retry_at = self._clock() + RETRY_S

    def _found(self, count: int) -> list[_Device]:
        """Every GPU the driver counts, and those it counts no more."""
        devices = [self._device(place) for place in range(count)]
        missing = {uuid: gpu.index for uuid, gpu in self._known.items()}
        taken = set(missing.values())
        for device in devices:
            if device.fault is not None:
                continue
            uuid = device.gpu.uuid
            index = missing.pop(uuid, device.gpu.index)
            if uuid not in self._known:
                while index in taken:
                    index += 1
                taken.add(index)
            device.gpu = self._known[uuid] = replace(device.gpu, index=index)
        # What does not tell its uuid is taken for the one that was there, else for any missing one.
        silent = [device for device in devices if device.fault is not None]
        for device in sorted(silent, key=lambda d: d.gpu.index not in missing.values()):
            there = [uuid for uuid, index in missing.items() if index == device.gpu.index]
            for uuid in (there or list(missing))[:1]:
                device.gpu = self._known[uuid]
                del missing[uuid]
        devices += [_Device(None, self._known[u], "no longer seen by the driver") for u in missing]
        return sorted(devices, key=lambda device: device.gpu.index)

    def _device(self, place: int) -> _Device:
        """The GPU at this place of the driver's count."""
        nv = self._api
        device = _Device(None, Gpu(self._node, place, f"gpu-{place}", "NVIDIA GPU"))
        try:
            device.handle = nv.nvmlDeviceGetHandleByIndex(place)
        except nv.NVMLError as error:
            device.fault = _FAULTS.get(type(error).__name__, f"cannot be asked: {error}")
            return device
        name = self._ask(device, "name", lambda: nv.nvmlDeviceGetName(device.handle))
        uuid = self._ask(device, "uuid", lambda: nv.nvmlDeviceGetUUID(device.handle))
        gpu = device.gpu
        device.gpu = replace(gpu, name=_text(name) or gpu.name, uuid=_text(uuid) or gpu.uuid)
        return device

    def _read(self, device: _Device, processes: dict[int, dict[int, int | None]]) -> Gpu:
        nv, handle, gpu = self._api, device.handle, device.gpu
        device.begin()
        used, total = self._memory(device)
        share = self._ask(device, "utilization", lambda: nv.nvmlDeviceGetUtilizationRates(handle))
        heat = self._ask(
            device,
            "temperature",
            lambda: nv.nvmlDeviceGetTemperature(handle, nv.NVML_TEMPERATURE_GPU),
        )
        power = self._ask(device, "power", lambda: nv.nvmlDeviceGetPowerUsage(handle))
        limit = self._ask(device, "limit", lambda: nv.nvmlDeviceGetEnforcedPowerLimit(handle))
        reasons = self._ask(
            device, "events", lambda: nv.nvmlDeviceGetCurrentClocksEventReasons(handle)
        )
        if reasons is None:
            reasons = self._ask(
                device, "throttle", lambda: nv.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
            )
        running = self._ask(
            device, "processes", lambda: nv.nvmlDeviceGetComputeRunningProcesses(handle)
        )
        for process in running or ():
            processes.setdefault(process.pid, {})[gpu.index] = process.usedGpuMemory
        if device.fault is None and device.error is not None and not device.answers:
            device.fault = f"answers nothing: {device.error}"
        if device.fault is not None:
            return replace(gpu, fault=device.fault)
        return replace(
            gpu,
            utilization=None if share is None else share.gpu / 100,
            memory_used_bytes=used,
            memory_total_bytes=total,
            temperature_c=None if heat is None else float(heat),
            power_w=None if power is None else power / 1000,
            power_limit_w=None if limit is None else limit / 1000,
            throttle=None if reasons is None else throttle(reasons),
        )

    def _memory(self, device: _Device) -> tuple[int | None, int | None]:
        """Bytes used and in total; without what the driver reserves, where it tells it apart."""
        nv, handle = self._api, device.handle
        memory = self._ask(
            device,
            "memory",
            lambda: nv.nvmlDeviceGetMemoryInfo(handle, version=nv.nvmlMemory_v2),
        )
        if memory is None:
            memory = self._ask(device, "memory-v1", lambda: nv.nvmlDeviceGetMemoryInfo(handle))
        return (None, None) if memory is None else (memory.used, memory.total)

    def _ask(self, device: _Device, what: str, call: Callable[[], Any]) -> Any:
        """The answer, or `None`: no such value now, or, remembered, on this GPU at all."""
        if device.fault is not None or what in device.never:
            return None
        try:
            answer = call()
        except self._api.NVMLError as error:
            kind = type(error).__name__
            if kind in _NEVER:
                device.never.add(what)
            else:
                device.fault, device.error = _FAULTS.get(kind), str(error)
            return None
        device.answers += 1
        return answer


def throttle(reasons: int) -> str | None:
    """What holds the clocks down, the gravest only; `None` for idle or for nothing."""
    return next((text for mask, text in _THROTTLE if reasons & mask), None)


def _text(value: str | bytes | None) -> str | None:
    """Older bindings answer in bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
