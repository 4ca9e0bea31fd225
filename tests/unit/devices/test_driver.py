"""The driver's own words, through a fake pynvml."""

from __future__ import annotations

from typing import Any

import pynvml
import pytest

from vllm_console.devices.driver import Driver, read_driver


class FakePynvml:
    """Answers with what it is given; an int is raised as NVML's error of that number."""

    NVMLError = pynvml.NVMLError

    def __init__(self, version: Any, cuda: Any, init: int | None = None) -> None:
        self.version, self.cuda, self.init = version, cuda, init
        self.open = 0

    def nvmlInit(self) -> None:
        if self.init is not None:
            raise pynvml.NVMLError(self.init)
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> Any:
        if isinstance(self.version, int):
            raise pynvml.NVMLError(self.version)
        return self.version

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        if self.cuda is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return int(self.cuda)


@pytest.mark.parametrize(
    ("api", "driver"),
    [
        (FakePynvml("580.65.06", 13000), Driver("580.65.06", (13, 0))),
        (FakePynvml(b"550.54", 12040), Driver("550.54", (12, 4))),
        (FakePynvml("550.54", None), Driver("550.54", None)),
        (FakePynvml(pynvml.NVML_ERROR_UNKNOWN, 12040), None),
        (FakePynvml("x", 1, init=pynvml.NVML_ERROR_DRIVER_NOT_LOADED), None),
    ],
)
def test_the_driver_tells_its_version_and_cuda(api: FakePynvml, driver: Driver | None) -> None:
    assert read_driver(api) == driver
    assert api.open == 0
