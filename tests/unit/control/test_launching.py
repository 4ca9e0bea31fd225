"""Which GPUs a launch gets, and what it is told when they are not there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from vllm_console.control import launching
from vllm_console.control.launching import choose_gpus, refuse_certain_failure, weights_bytes
from vllm_console.engines.environment import EngineEnvironment
from vllm_console.errors import InvalidInput
from vllm_console.fleet.model import ModelConfig
from vllm_console.fleet.options import Flag, FlagSchema
from vllm_console.snapshot import Gpu
from vllm_console.workers.launch import LaunchFailed
from vllm_console.workers.states import PASSING, Cause


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


def test_a_gpu_on_which_another_only_sleeps_is_taken_last() -> None:
    one, two = model(gpus=1), model(gpus=2)
    assert choose_gpus(one, engine("cuda"), gpus(3), {0: 0, 1: 1}) == (2,)
    assert choose_gpus(one, engine("cuda"), gpus(2), {0: 0, 1: 1}) == (0,)
    assert choose_gpus(two, engine("cuda"), gpus(3), {0: 0, 1: 1}) == (0, 2)
    assert choose_gpus(one, engine("cuda"), gpus(3), {0: 0, 1: 0}) == (2,)
    with pytest.raises(LaunchFailed, match="2 of 3 free"):
        choose_gpus(model(gpus=3), engine("cuda"), gpus(3), {0: 0, 1: 1})


@pytest.mark.parametrize("level", [1, 2, None])
def test_one_that_can_sleep_is_started_for_it(
    level: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flag = Flag("enable_sleep_mode", ("--enable-sleep-mode",), takes="switch")
    schema = FlagSchema("0.32.0", {"enable_sleep_mode": flag})
    monkeypatch.setattr(launching, "resolve", lambda _: engine("cuda"))
    monkeypatch.setattr(launching, "flag_schema", lambda _: schema)
    prepared = asyncio.run(
        launching.prepare(
            *("m-1", model(sleep_level=level), 3),
            base=tmp_path,
            gpus=gpus(1),
            taken=dict,
            ports_in_use=set,
        )
    )
    assert prepared.spec.sleep_level == (level or 0)
    assert ("VLLM_SERVER_DEV_MODE" in prepared.environ) is (level is not None)
    assert ("--enable-sleep-mode" in prepared.spec.argv) is (level is not None)


def test_a_named_device_that_is_not_there_is_told_with_its_key() -> None:
    with pytest.raises(InvalidInput, match=r"models\.m\.devices: no GPU 5 here; there are 2"):
        choose_gpus(model(devices=(1, 5)), engine("cuda"), gpus(2), {})


def test_too_few_free_gpus_are_told_with_the_way_out() -> None:
    with pytest.raises(LaunchFailed, match=r"needs 2 GPUs: 1 of 2 free: unload a model") as told:
        choose_gpus(model(gpus=2), engine("cuda"), gpus(2), {0: 1})
    assert told.value.failure.cause in PASSING


def test_more_gpus_than_there_are_will_never_be_free() -> None:
    with pytest.raises(InvalidInput, match=r"needs 3 GPUs: there are 2; ask for fewer"):
        choose_gpus(model(gpus=3), engine("cuda"), gpus(2), {})


def test_weights_are_counted_from_the_files_of_a_local_model(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"12345")
    (tmp_path / "b.safetensors").write_bytes(b"123")
    assert weights_bytes(str(tmp_path)) == 8
    assert weights_bytes("Qwen/Qwen3-32B") is None


CONFIG = (
    '{"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096,'
    ' "num_attention_heads": 4}'
)


@pytest.mark.parametrize(
    ("options", "files", "cause", "line", "remedy"),
    [
        (
            {"max_model_len": 8192},
            ("model.safetensors.bin",),
            Cause.BAD_OPTION,
            "max_model_len 8192 exceeds the model's 4096",
            "set max_model_len to 4096 or less",
        ),
        ({}, (), Cause.WEIGHTS_BROKEN, "no weight files", "fetch the model again"),
        (
            {"max_model_len": 8192, "tensor_parallel_size": 3},
            ("w.bin",),
            Cause.BAD_OPTION,
            "max_model_len 8192",
            "(and 1 more: `vllm-console validate` lists them)",
        ),
    ],
)
def test_what_vllm_would_refuse_fails_at_once_with_cause_and_remedy(
    tmp_path: Path,
    options: dict[str, Any],
    files: tuple[str, ...],
    cause: Cause,
    line: str,
    remedy: str,
) -> None:
    (tmp_path / "config.json").write_text(CONFIG, encoding="utf-8")
    for name in files:
        (tmp_path / name).write_bytes(b"w")
    with pytest.raises(LaunchFailed) as refused:
        refuse_certain_failure(model(options=options), str(tmp_path), {})
    failure = refused.value.failure
    assert failure.cause == cause
    assert line in failure.line
    assert remedy in failure.remedy


def test_a_variable_of_the_model_is_heard_before_a_launch_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "w.bin").write_bytes(b"w")
    lifted = model(options={"max_model_len": 8192}, env={"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"})
    refuse_certain_failure(lifted, str(tmp_path), {})
    refuse_certain_failure(model(options={"max_model_len": 8192}), "no/such-model", {})
