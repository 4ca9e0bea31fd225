"""What is refused before a start, held against what real vLLM says of the same options."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vllm_console.fleet.checkpoint import local_checkpoint
from vllm_console.fleet.preflight import preflight

if TYPE_CHECKING:
    from vllm_console.engines.environment import EngineEnvironment

pytestmark = pytest.mark.engine

ASK = """
import json, sys
from vllm.engine.arg_utils import AsyncEngineArgs
said = []
for directory, options in json.load(sys.stdin):
    try:
        AsyncEngineArgs(model=directory, **options).create_engine_config()
        said.append(None)
    except Exception as error:
        said.append(str(error))
print("SAID " + json.dumps(said))
"""
"""Runs in the engine's Python: everything `vllm serve` does before it starts its engine."""

ROPES: tuple[dict[str, Any] | None, ...] = (
    None,
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 4096},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024,
    },
)
KINDS = (("qwen2", "Qwen2ForCausalLM"), ("llama", "LlamaForCausalLM"))
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}


def cases() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Changes to a tiny model's config.json, and options."""
    long = [
        ({"model_type": kind, "architectures": [architecture], "rope_scaling": rope}, length)
        for (kind, architecture), rope, length in itertools.product(
            KINDS, ROPES, (4096, 4097, 8192, 8193)
        )
    ]
    return [
        *((change, {"max_model_len": length}) for change, length in long),
        ({"model_max_length": 9000}, {"max_model_len": 8192}),
        *(({}, {"tensor_parallel_size": n}) for n in (2, 3, 4, 8)),
        *(({}, {"quantization": name}) for name in ("awq", "gptq_marlin", "fp8")),
        *(({"quantization_config": GPTQ}, {"quantization": name}) for name in ("awq", "gptq")),
        *(
            ({}, {"max_num_batched_tokens": n, "max_model_len": 64, "enable_chunked_prefill": on})
            for n in (63, 64)
            for on in (False, True)
        ),
        *(({}, {"max_num_batched_tokens": 16, "max_num_seqs": n}) for n in (16, 17)),
        *(({}, {"gpu_memory_utilization": share}) for share in (0.01, 1.0, 1.5, 0.0)),
    ]


def test_whatever_is_refused_before_a_start_is_refused_by_vllm_too(
    engine_environment: EngineEnvironment, tiny_small: Path, tmp_path: Path
) -> None:
    config = json.loads((tiny_small / "config.json").read_bytes())
    asked: list[tuple[str, dict[str, Any]]] = []
    refused: list[bool] = []
    for number, (change, options) in enumerate(cases()):
        home = tmp_path / str(number)
        home.mkdir()
        for file in tiny_small.iterdir():
            (home / file.name).symlink_to(file)
        (home / "config.json").unlink()
        changed = {key: value for key, value in {**config, **change}.items() if value is not None}
        (home / "config.json").write_text(json.dumps(changed), encoding="utf-8")
        refused.append(bool(preflight(options, local_checkpoint(home))))
        asked.append((str(home), {**options, "distributed_executor_backend": "mp"}))
    done = subprocess.run(
        [str(engine_environment.python), "-c", ASK],
        input=json.dumps(asked),
        env={
            "HOME": str(tmp_path),
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "CRITICAL",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    [line] = [line for line in done.stdout.splitlines() if line.startswith("SAID ")]
    said = json.loads(line.removeprefix("SAID "))
    wrong = [
        case
        for case, ours, theirs in zip(cases(), refused, said, strict=True)
        if ours and theirs is None
    ]
    assert wrong == []
    assert sum(refused) >= 20
