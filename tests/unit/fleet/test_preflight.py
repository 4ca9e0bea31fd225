"""What is refused before a start, and, more important, what is not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_console.fleet.checkpoint import Checkpoint
from vllm_console.fleet.preflight import kv_bytes_per_token, longest, preflight

TINY: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "use_sliding_window": False,
    "torch_dtype": "bfloat16",
}
"""What the tiny models of `vllm_console.engines.tiny` say of themselves."""
WHOLE = frozenset({"config.json", "model.safetensors", "tokenizer.json"})
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}


def tiny(**said: Any) -> Checkpoint:
    return Checkpoint(config={**TINY, **said}, files=WHOLE)


REFUSED: list[tuple[dict[str, Any], Checkpoint, str, str, str]] = [
    (
        {"max_model_len": 8192},
        tiny(),
        "options.max_model_len",
        "max_model_len 8192 exceeds the model's 4096",
        "set max_model_len to 4096 or less",
    ),
    (
        {"max_model_len": "8K"},
        tiny(rope_scaling={"rope_type": "llama3", "factor": 8.0}),
        "options.max_model_len",
        "max_model_len 8192 exceeds the model's 4096",
        "4096 or less",
    ),
    (
        {"max_model_len": 8193},
        tiny(rope_scaling={"type": "linear", "factor": 2.0}),
        "options.max_model_len",
        "max_model_len 8193 exceeds the model's 8192",
        "8192 or less",
    ),
    (
        {"tensor_parallel_size": 3},
        tiny(),
        "options.tensor_parallel_size",
        "tensor_parallel_size 3 does not divide the model's 4 attention heads",
        "set it to one of 1, 2, 4",
    ),
    (
        {"quantization": "awq"},
        tiny(),
        "options.quantization",
        'quantization "awq": the model is not quantized',
        "take `quantization` out",
    ),
    (
        {"quantization": "awq"},
        tiny(quantization_config=GPTQ),
        "options.quantization",
        'quantization "awq": the model is quantized with gptq',
        "take `quantization` out",
    ),
    (
        {"max_num_batched_tokens": 16, "max_model_len": 2048, "enable_chunked_prefill": False},
        Checkpoint(),
        "options.max_num_batched_tokens",
        "max_num_batched_tokens 16 is smaller than max_model_len 2048",
        "set it to 2048 or more",
    ),
    (
        {"max_num_batched_tokens": 16, "max_num_seqs": 17},
        Checkpoint(),
        "options.max_num_batched_tokens",
        "max_num_batched_tokens 16 is smaller than max_num_seqs 17",
        "max_num_seqs to 16 or less",
    ),
    (
        {"gpu_memory_utilization": 1.5},
        Checkpoint(),
        "options.gpu_memory_utilization",
        "gpu_memory_utilization 1.5",
        "at most 1",
    ),
    (
        {"gpu_memory_utilization": 0},
        Checkpoint(),
        "options.gpu_memory_utilization",
        "gpu_memory_utilization 0",
        "above 0",
    ),
    (
        {"max_model_len": 2048, "kv_cache_memory_bytes": 2048 * 512 - 1},
        tiny(),
        "options.kv_cache_memory_bytes",
        "kv_cache_memory_bytes 1,048,575 is too small for one sequence of max_model_len 2048, which"
        " takes 1,048,576",
        "raise it to 2M or more, or set max_model_len to 1792 or less",
    ),
    (
        {"max_model_len": 100, "kv_cache_memory_bytes": 512},
        tiny(),
        "options.kv_cache_memory_bytes",
        "kv_cache_memory_bytes 512",
        "raise it to 1M or more",
    ),
    (
        {},
        Checkpoint(config=TINY, files=frozenset({"config.json"}), has_weights=False),
        "source",
        "no weight files",
        "fetch the model again",
    ),
    (
        {},
        Checkpoint(config=TINY, files=WHOLE, broken="model.safetensors is cut short"),
        "source",
        "model.safetensors is cut short",
        "fetch the model again",
    ),
    (
        {},
        Checkpoint(config_fault="config.json is not valid JSON: x", files=WHOLE),
        "source",
        "config.json is not valid JSON: x",
        "fetch the model again",
    ),
    (
        {},
        Checkpoint(files=frozenset({"notes.txt"})),
        "source",
        "no config.json",
        "a hub id",
    ),
    (
        {},
        Checkpoint(missing="not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it"),
        "source",
        "not in the hub's cache",
        "fetch it first",
    ),
]


@pytest.mark.parametrize(
    ("options", "checkpoint", "key", "line", "remedy"),
    REFUSED,
    ids=[f"{case[3][:40]} {n}" for n, case in enumerate(REFUSED)],
)
def test_what_would_end_a_start_is_told_with_its_remedy(
    options: dict[str, Any], checkpoint: Checkpoint, key: str, line: str, remedy: str
) -> None:
    [refusal] = preflight(options, checkpoint)
    assert (refusal.key, line in refusal.line, remedy in refusal.remedy) == (key, True, True)
    assert str(refusal.problem()) == f"{key}: {refusal.line}: {refusal.remedy}"


WINDOWED = tiny(use_sliding_window=True, sliding_window=128)
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
ACCEPTED: list[tuple[dict[str, Any], Checkpoint]] = [
    ({}, Checkpoint()),
    ({}, tiny()),
    ({"max_model_len": 4096}, tiny()),
    ({"max_model_len": "auto"}, tiny()),
    ({"max_model_len": -1}, tiny()),
    ({"max_model_len": "4.096k"}, tiny()),
    ({"max_model_len": 16384}, tiny(rope_scaling=YARN)),
    ({"max_model_len": 8192}, tiny(rope_parameters={"full_attention": {"factor": 2.0}})),
    ({"max_model_len": 8192}, tiny(rope_scaling={"rope_type": "linear", "factor": 2.0})),
    ({"max_model_len": 8192}, tiny(model_max_length=9000)),
    ({"max_model_len": 8192, "hf_overrides": {"max_position_embeddings": 8192}}, tiny()),
    ({"max_model_len": 8192, "runner": "pooling"}, tiny()),
    ({"max_model_len": 8192}, tiny(architectures=["LlavaForConditionalGeneration"])),
    ({"max_model_len": 8192}, tiny(text_config={})),
    ({"max_model_len": 8192}, tiny(auto_map={"AutoConfig": "x.Y"})),
    ({"max_model_len": 8192}, Checkpoint(config=TINY, files=WHOLE | {"modules.json"})),
    ({"tensor_parallel_size": 4}, tiny()),
    ({"tensor_parallel_size": 3}, tiny(num_attention_heads=None)),
    ({"quantization": "fp8"}, tiny()),
    ({"quantization": "gptq_marlin"}, tiny(quantization_config=GPTQ)),
    ({"quantization": "awq"}, Checkpoint(config=TINY)),
    ({"quantization": "awq"}, Checkpoint(config=TINY, files=WHOLE | {"quant_config.json"})),
    ({"max_num_batched_tokens": 16, "max_model_len": 2048}, tiny()),
    ({"max_num_batched_tokens": 16, "max_num_seqs": 16}, tiny()),
    ({"gpu_memory_utilization": 1}, tiny()),
    ({"max_model_len": 2048, "kv_cache_memory_bytes": "1M"}, tiny()),
    ({"max_model_len": 2048, "kv_cache_memory_bytes": "512K", "kv_cache_dtype": "fp8"}, tiny()),
    ({"max_model_len": 2048, "kv_cache_memory_bytes": "512K", "tensor_parallel_size": 2}, tiny()),
    ({"max_model_len": 2048, "kv_cache_memory_bytes": 1, "num_gpu_blocks_override": 99}, tiny()),
    ({"max_model_len": 2048, "kv_cache_memory_bytes": 1}, tiny(model_type="mistral")),
    ({"max_model_len": 2048, "kv_cache_memory_bytes": 1}, WINDOWED),
    ({"load_format": "dummy"}, Checkpoint(config=TINY, files=WHOLE, has_weights=False)),
    ({}, Checkpoint(files=frozenset({"params.json", "consolidated.safetensors"}))),
    ({}, Checkpoint(files=frozenset({"model.gguf"}))),
    ({}, Checkpoint(files=frozenset({"adapter_config.json"}))),
]


@pytest.mark.parametrize(("options", "checkpoint"), ACCEPTED)
def test_what_might_start_is_left_to_vllm(options: dict[str, Any], checkpoint: Checkpoint) -> None:
    assert preflight(options, checkpoint) == []


@pytest.mark.parametrize(
    ("variable", "options"),
    [
        ("VLLM_ALLOW_LONG_MAX_MODEL_LEN", {"max_model_len": 8192}),
        ("VLLM_CPU_KVCACHE_SPACE", {"max_model_len": 2048, "kv_cache_memory_bytes": 1}),
    ],
)
def test_a_variable_that_lifts_a_limit_silences_its_rule(
    variable: str, options: dict[str, Any]
) -> None:
    assert preflight(options, tiny())
    assert preflight(options, tiny(), env={variable: "1"}) == []


ROPES = st.none() | st.fixed_dictionaries(
    {"rope_type": st.sampled_from(["linear", "dynamic", "yarn", "llama3", "longrope", "default"])},
    optional={
        "factor": st.floats(1, 64),
        "original_max_position_embeddings": st.integers(1, 1 << 18),
    },
)


def by_vllm(config: dict[str, Any], *, yarn_is_scaled: bool) -> float:
    """`_get_and_verify_max_len` of vLLM 0.32, or as it was when YaRN multiplied the original."""
    most = float(config["max_position_embeddings"])
    rope = config.get("rope_scaling")
    scaled = ("su", "longrope", "llama3") + (("yarn",) if yarn_is_scaled else ())
    if rope is not None and rope["rope_type"] not in scaled:
        if rope["rope_type"] == "yarn":
            most = rope.get("original_max_position_embeddings", most)
        most *= rope.get("factor", 1.0)
    return most


@given(
    trained=st.integers(1, 1 << 20),
    rope=ROPES,
    yarn_is_scaled=st.booleans(),
    excess=st.integers(1, 100),
)
def test_no_length_that_a_vllm_takes_is_refused(
    trained: int, rope: dict[str, Any] | None, yarn_is_scaled: bool, excess: int
) -> None:
    config = {**TINY, "max_position_embeddings": trained, "rope_scaling": rope}
    if rope is not None and rope["rope_type"] == "default":
        rope.pop("factor", None)
    takes = by_vllm(config, yarn_is_scaled=yarn_is_scaled)
    most = longest(config)
    assert most is not None
    assert most >= int(takes)
    if rope is None or rope["rope_type"] != "yarn":
        assert most == int(takes)
        assert preflight({"max_model_len": most + excess}, Checkpoint(config=config))
    assert not preflight({"max_model_len": max(1, int(takes))}, Checkpoint(config=config))


@given(
    layers=st.integers(1, 96),
    heads=st.integers(1, 64),
    group=st.integers(1, 8),
    head=st.sampled_from([32, 64, 128]),
    tensor=st.sampled_from([1, 2, 4, 8]),
)
def test_the_parts_of_a_kv_cache_hold_at_most_what_the_whole_does(
    layers: int, heads: int, group: int, head: int, tensor: int
) -> None:
    config = {
        **TINY,
        "num_hidden_layers": layers,
        "num_attention_heads": heads * group,
        "num_key_value_heads": heads,
        "head_dim": head,
        "hidden_size": heads * group * head,
    }
    whole = kv_bytes_per_token({}, config)
    part = kv_bytes_per_token({"tensor_parallel_size": tensor}, config)
    assert whole == 2 * heads * head * layers * 2
    assert part is not None
    assert part <= whole
    assert part * tensor >= min(whole, 2 * head * layers * 2 * tensor) - 4 * head * layers * tensor
