"""What vLLM would refuse after 20 seconds, said from the options and the model's own files.

A wrong refusal is worse than a missed one: a rule speaks only where every vLLM from 0.10 on ends
the start, and stays silent as soon as an option could change what config.json means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vllm_console.fleet.checkpoint import NOTHING_KNOWN, Checkpoint
from vllm_console.fleet.options import human_int
from vllm_console.fleet.problems import Problem, shown

Kind = Literal["option", "model", "weights", "kv"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason why a start would fail."""

    kind: Kind
    key: str
    """Of the model, dotted: `options.max_model_len` or `source`."""
    line: str
    """What does not hold."""
    remedy: str
    """What to do about it."""

    def problem(self) -> Problem:
        """The same as a problem of a fleet file; the caller adds its place."""
        return Problem(self.key, None, f"{self.line}: {self.remedy}")


def preflight(
    options: Mapping[str, Any],
    checkpoint: Checkpoint = NOTHING_KNOWN,
    *,
    env: Mapping[str, object] | None = None,
) -> list[Refusal]:
    """Everything certain to end a start with these `vllm serve` options, most basic first.

    `options` in snake_case, `checkpoint` the model's files, `env` the worker's variables, of which
    only the names count.
    """
    env = env or {}
    found = [*_files(options, checkpoint), *_options(options)]
    config = checkpoint.config
    if config is None or _MEANS_ANOTHER.intersection(options) or not _plain(config):
        return found
    if not _LONGER.intersection(options) and "VLLM_ALLOW_LONG_MAX_MODEL_LEN" not in env:
        found += _too_long(options, config, checkpoint)
    found += _heads(options, config)
    found += _quantization(options, config, checkpoint)
    if not _OTHER_MEMORY.intersection(options) and "VLLM_CPU_KVCACHE_SPACE" not in env:
        found += _kv_cache(options, config)
    return found


_MEANS_ANOTHER = frozenset(
    {"hf_overrides", "hf_config_path", "config_format", "rope_scaling", "rope_theta", "model_impl"}
)
"""Options that make vLLM read another configuration than config.json."""
_LONGER = frozenset({"runner", "convert", "task", "override_pooler_config", "pooler_config"})
"""Options of models whose length a file beside config.json says."""
_OTHER_MEMORY = frozenset(
    {
        "num_gpu_blocks_override",
        "kv_transfer_config",
        "kv_offloading_size",
        "kv_cache_dtype_skip_layers",
        "cpu_offload_gb",
        "swap_space",
        "decode_context_parallel_size",
        "prefill_context_parallel_size",
        "runner",
        "convert",
        "task",
    }
)
"""Options that keep a sequence's KV cache elsewhere, or less of it."""


def _plain(config: Mapping[str, Any]) -> bool:
    """A text model whose values stand at the top of config.json, in no code of its own."""
    architectures = config.get("architectures")
    return (
        isinstance(architectures, list)
        and len(architectures) == 1
        and str(architectures[0]).endswith("ForCausalLM")
        and "auto_map" not in config
        and not any(key.endswith("_config") and key not in _HARMLESS for key in config)
    )


_HARMLESS = frozenset({"quantization_config", "compression_config", "generation_config"})
"""Tables of config.json that hold no configuration of a part."""


def _files(options: Mapping[str, Any], checkpoint: Checkpoint) -> Iterator[Refusal]:
    names = checkpoint.files
    if checkpoint.missing and not _MEANS_ANOTHER.intersection(options):
        yield Refusal("model", "source", checkpoint.missing, "fetch it first, or lift that")
        return
    if names is None or "params.json" in names or _MEANS_ANOTHER.intersection(options):
        return
    again = "fetch the model again"
    if checkpoint.config_fault:
        yield Refusal("weights", "source", checkpoint.config_fault, again)
        return
    if "adapter_config.json" in names or any(name.endswith(".gguf") for name in names):
        return
    if "config.json" not in names:
        line = "the directory holds no config.json"
        yield Refusal("model", "source", line, "name the directory of a model, or a hub id")
        return
    if options.get("load_format", "auto") not in ("auto", "safetensors"):
        return
    if not checkpoint.has_weights:
        line = "the directory holds a config.json and no weight files (*.safetensors, *.bin)"
        yield Refusal("weights", "source", line, again)
    elif checkpoint.broken:
        yield Refusal("weights", "source", checkpoint.broken, again)


def _options(options: Mapping[str, Any]) -> Iterator[Refusal]:
    share = options.get("gpu_memory_utilization")
    if isinstance(share, (int, float)) and not isinstance(share, bool) and not 0 < share <= 1:
        line = f"gpu_memory_utilization {share} is no share of a GPU's memory"
        key = "options.gpu_memory_utilization"
        yield Refusal("option", key, line, "set it above 0 and at most 1, such as 0.9")
    batch = _whole(options.get("max_num_batched_tokens"))
    if batch is None:
        return
    key = "options.max_num_batched_tokens"
    length = _whole(options.get("max_model_len"))
    if length is not None and options.get("enable_chunked_prefill") is False and batch < length:
        line = (
            f"max_num_batched_tokens {batch} is smaller than max_model_len {length}, and chunked"
            " prefill is off"
        )
        remedy = f"set it to {length} or more, or take enable_chunked_prefill = false out"
        yield Refusal("option", key, line, remedy)
    sequences = _whole(options.get("max_num_seqs"))
    if sequences is not None and batch < sequences:
        line = f"max_num_batched_tokens {batch} is smaller than max_num_seqs {sequences}"
        remedy = f"set it to {sequences} or more, or max_num_seqs to {batch} or less"
        yield Refusal("option", key, line, remedy)


def _too_long(
    options: Mapping[str, Any], config: Mapping[str, Any], checkpoint: Checkpoint
) -> Iterator[Refusal]:
    length, most = _whole(options.get("max_model_len")), longest(config)
    if length is None or most is None or length <= most:
        return
    if checkpoint.files and "modules.json" in checkpoint.files:
        return  # a sentence transformer, whose own file says its length
    line = f"max_model_len {length} exceeds the model's {most}"
    yield Refusal("option", "options.max_model_len", line, f"set max_model_len to {most} or less")


def longest(config: Mapping[str, Any]) -> int | None:
    """The most tokens that any vLLM version takes for this config.json; `None` if unknown.

    vLLM multiplies by a rope factor depending on its type (`_get_and_verify_max_len` in
    vllm/config/model.py); versions differ for YaRN, so the longest of their readings counts.
    """
    trained = _natural(config.get("max_position_embeddings"))
    if trained is None:
        return None
    readings = [float(trained)]
    for rope in _ropes(config):
        kind = rope.get("rope_type", rope.get("type", "default"))
        if not isinstance(kind, str):
            return None
        if kind in ("llama3", "longrope", "su", "default", "mrope") and "factor" not in rope:
            continue
        factor = rope.get("factor", 1.0)
        if factor is None:
            continue
        if not isinstance(factor, (int, float)) or isinstance(factor, bool):
            return None
        original = rope.get("original_max_position_embeddings")
        if kind not in ("llama3", "longrope", "su"):
            readings.append(trained * factor)
            if "yarn" in kind and isinstance(original, (int, float)):
                readings.append(original * factor)
    said = config.get("model_max_length")
    if said is not None:
        if not isinstance(said, (int, float)):
            return None
        readings.append(said)
    return int(max(readings))


def _ropes(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every table of rope parameters; newer files have one a kind of layer."""
    for key in ("rope_scaling", "rope_parameters"):
        table = config.get(key)
        if isinstance(table, dict):
            yield table
            yield from (inner for inner in table.values() if isinstance(inner, dict))


def _heads(options: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[Refusal]:
    heads = _natural(config.get("num_attention_heads"))
    parts = _natural(options.get("tensor_parallel_size"))
    if heads is None or parts is None or heads % parts == 0:
        return
    fitting = [str(n) for n in range(1, min(heads, 16) + 1) if heads % n == 0]
    line = f"tensor_parallel_size {parts} does not divide the model's {heads} attention heads"
    remedy = f"set it to one of {', '.join(fitting)}"
    yield Refusal("option", "options.tensor_parallel_size", line, remedy)


_WITH_FILE = frozenset({"awq", "awq_marlin", "auto_awq", "gptq", "gptq_marlin", "auto_gptq"})
"""Methods that need a checkpoint made with them, and that say so in a file."""
_TOLD_APART = frozenset({"awq", "gptq", "fp8", "compressed-tensors"})
"""Methods of checkpoints that no vLLM reads as one another."""


def _quantization(
    options: Mapping[str, Any], config: Mapping[str, Any], checkpoint: Checkpoint
) -> Iterator[Refusal]:
    asked = options.get("quantization")
    if not isinstance(asked, str):
        return
    key, remedy = "options.quantization", "take `quantization` out of the model's options"
    table = config.get("quantization_config")
    if table is None and "compression_config" not in config:
        names = checkpoint.files
        if asked in _WITH_FILE and names is not None and not _quantized(names):
            line = f"quantization {shown(asked)}: the model is not quantized, or does not say so"
            yield Refusal("option", key, line, remedy)
        return
    made = table.get("quant_method") if isinstance(table, dict) else None
    if made in _TOLD_APART and asked in _TOLD_APART and made != asked:
        line = f"quantization {shown(asked)}: the model is quantized with {made}"
        yield Refusal("option", key, line, remedy)


def _quantized(names: frozenset[str]) -> bool:
    return any(name.endswith(("quantize_config.json", "quant_config.json")) for name in names)


_FULL_ATTENTION = frozenset({"llama", "qwen2", "qwen3"})
"""Model types that keep a key and a value of every token in every layer, unless a window is set
(without one in config.json; Mistral's configuration has one by default)."""


def _kv_cache(options: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[Refusal]:
    room = _whole(options.get("kv_cache_memory_bytes"))
    length = _whole(options.get("max_model_len"))
    token = kv_bytes_per_token(options, config)
    if not room or length is None or token is None or length * token <= room:
        return
    block = max(_BLOCK, _natural(options.get("block_size")) or 0)
    most = (room // token // block - 1) * block
    enough = (math.ceil(length / block) + 1) * block * token
    line = (
        f"kv_cache_memory_bytes {room:,} is too small for one sequence of max_model_len {length},"
        f" which takes {length * token:,}"
    )
    remedy = f"raise it to {math.ceil(enough / 2**20)}M or more"
    if most > 0:
        remedy += f", or set max_model_len to {most} or less"
    yield Refusal("kv", "options.kv_cache_memory_bytes", line, remedy)


_BLOCK = 128
"""Tokens; vLLM's largest default block, on a CPU. A cache is made of whole ones, and newer versions
keep one of them free."""


def kv_bytes_per_token(options: Mapping[str, Any], config: Mapping[str, Any]) -> int | None:
    """Bytes that one GPU at least keeps of a token: keys and values of its heads and layers.

    `None` where that is not certain: a window, another kind of attention, another data type.
    """
    if config.get("model_type") not in _FULL_ATTENTION or "quantization_config" in config:
        return None
    windowed = config.get("sliding_window") is not None and config.get("use_sliding_window", True)
    kinds = config.get("layer_types") or ["full_attention"]
    if windowed or set(kinds) != {"full_attention"} or "quantization" in options:
        return None
    dtype = options.get("kv_cache_dtype", "auto")
    if dtype not in ("auto", "bfloat16", "float16") and not str(dtype).startswith("fp8"):
        return None
    layers, heads = (_natural(config.get(k)) for k in ("num_hidden_layers", "num_attention_heads"))
    kv_heads, hidden = (_natural(config.get(k)) for k in ("num_key_value_heads", "hidden_size"))
    if layers is None or heads is None or kv_heads is None or hidden is None:
        return None
    head = _natural(config.get("head_dim"))
    if head is None:
        if config["model_type"] == "qwen3":  # whose default is no quotient
            return None
        head = hidden // heads
    tensor, pipeline = (
        _natural(options.get(k, 1)) for k in ("tensor_parallel_size", "pipeline_parallel_size")
    )
    if tensor is None or pipeline is None:
        return None
    size = 1 if str(dtype).startswith("fp8") else 2
    if dtype == "auto" and options.get("dtype") in ("float32", "float"):
        size = 4
    return 2 * max(1, kv_heads // tensor) * head * size * max(1, layers // pipeline)


def _natural(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _whole(value: object) -> int | None:
    """A count as vLLM reads it; `None` for one that it chooses itself, or cannot read."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    try:
        number = human_int(value)
    except ValueError:
        return None
    return number if number > 0 else None
