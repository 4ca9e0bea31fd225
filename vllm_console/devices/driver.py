"""The NVIDIA driver: its version, and the newest CUDA it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Driver:
    """What the driver says of itself."""

    version: str
    cuda: tuple[int, int] | None
    """(major, minor); `None` where it does not tell."""


def read_driver(api: Any = None) -> Driver | None:
    """The loaded driver, or `None` when there is none. `api` is the pynvml module."""
    if api is None:
        import pynvml

        api = pynvml
    try:
        api.nvmlInit()
    except api.NVMLError:
        return None
    try:
        version = api.nvmlSystemGetDriverVersion()
        try:
            number = api.nvmlSystemGetCudaDriverVersion_v2()  # 1000 * major + 10 * minor
            cuda = (number // 1000, number % 1000 // 10)
        except api.NVMLError:
            cuda = None
    except api.NVMLError:
        return None
    finally:
        api.nvmlShutdown()
    return Driver(version.decode() if isinstance(version, bytes) else version, cuda)
