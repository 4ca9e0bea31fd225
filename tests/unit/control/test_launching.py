"""Which GPUs a launch gets, and what it is told when they are not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vllm_console.control.launching import choose_gpus, weights_bytes
from vllm_console.engines.environment import EngineEnvironment
from vllm_console.errors import ConsoleError, InvalidInput
from vllm_console.fleet.model import ModelConfig
from vllm_console.snapshot import Gpu


def engine(device: str) -> EngineEnvironment:
    return EngineEnvironment("e", Path("/e/vllm"), Path("/e/python"), "a test", "0.32.0", device)


def gpus(count: int) -> tuple[Gpu, ...]:
    return tuple(Gpu("n", i, f"GPU-{i}", "H100") for i in range(count))


def model(**said: Any) -> ModelConfig:
    return ModelConfig(name="m", source="x/y", **said)


def test_a_cpu_engine_takes_no_gpu() -> None:
    assert choose_gpus(model(), engine("cpu"), gpus(2), {}) == ()


def test_without_gpus_auto_takes_none() -> None:
    assert choose_gpus(model(), engine("cuda"), (), {}) == ()


def test_auto_takes_what_the_parallelism_needs() -> None:
    config = model(options={"tensor_parallel_size": 2, "pipeline_parallel_size": 2})
    assert choose_gpus(config, engine("cuda"), gpus(8), {0: 1, 2: 1}) == (1, 3, 4, 5)


def test_named_devices_may_be_shared() -> None:
    assert choose_gpus(model(devices=(1,)), engine("cuda"), gpus(2), {1: 1}) == (1,)


def test_a_named_device_that_is_not_there_is_told_with_its_key() -> None:
    with pytest.raises(InvalidInput, match=r"models\.m\.devices: no GPU 5 here; there are 2"):
        choose_gpus(model(devices=(1, 5)), engine("cuda"), gpus(2), {})


def test_too_few_free_gpus_are_told_with_the_way_out() -> None:
    with pytest.raises(ConsoleError, match=r"needs 2 GPUs: 1 of 2 free; unload a model"):
        choose_gpus(model(gpus=2), engine("cuda"), gpus(2), {0: 1})


def test_weights_are_counted_from_the_files_of_a_local_model(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"12345")
    (tmp_path / "b.safetensors").write_bytes(b"123")
    assert weights_bytes(str(tmp_path)) == 8
    assert weights_bytes("Qwen/Qwen3-32B") is None
