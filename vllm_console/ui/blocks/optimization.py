"""How the selected model's engine is set up to be fast: paging, batching, graphs, precision."""

from __future__ import annotations

from typing import Any

from vllm_console.snapshot import Load, Model
from vllm_console.ui.format import NONE, count, percent
from vllm_console.ui.rows import Row, cell, cut, half_widths, head, pair
from vllm_console.ui.view import View

Item = tuple[str, str, str]
"""Label, value, ink."""

_DTYPES = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "float32": "fp32",
    "half": "fp16",
    "float": "fp32",
    "fp8_e4m3": "fp8",
    "fp8_e5m2": "fp8 e5",
}
_GRAPHS = {"full and piecewise": "full+piece", "full decode only": "decode"}
_POOR = 0.4
"""Below this share of accepted tokens a draft costs more than it gives."""


def ask(view: View, width: int, height: int) -> int:
    """A title and a row a pair of facts."""
    model = view.model
    return 0 if model is None else 1 + len(items(model, model.load)) // 2


def draw(view: View, width: int, height: int) -> list[Row]:
    """Title with the architecture, and two columns: as the engine runs, else as it is asked to."""
    model, load = view.model, view.load
    if model is None or load is None:
        return []
    end = model.engine.architecture or ("" if model.engine.version else "as fleet.toml asks")
    rows = [head("optimization", width, (cut(end, max(0, width - 14)), "dim"))]
    one, two = half_widths(width)
    found = items(model, model.load)
    for a, b in zip(found[::2], found[1::2], strict=True):
        rows.append(pair(_item(a, one), _item(b, two), width))
    return rows[:height]


def items(model: Model, load: Load) -> list[Item]:
    """Facts, two a row; how speculation does only where there is some."""
    engine, options = model.engine, model.options or {}
    runs = engine.version is not None

    def value(name: str, option: str = "") -> Any:
        real = getattr(engine, name)
        return options.get(option or name) if real is None else real

    sizes = [value(f"{kind}_parallel_size") for kind in ("tensor", "pipeline", "data")]
    told = any(size is not None for size in sizes)
    parallel = "×".join(str(size or 1) for size in sizes) if told else NONE
    quantization, speculative = value("quantization"), engine.speculative
    accept = load.spec_acceptance
    length = load.spec_length
    found = [
        ("TP×PP×DP", parallel, "value"),
        ("dtype", _dtype(value("dtype")), "value"),
        ("quant", str(quantization) if quantization else "none" if runs else NONE,
         "value" if quantization else "dim"),
        ("KV dtype", _dtype(value("kv_cache_dtype")), "value"),
        ("KV block", _whole(value("block_size")), "value"),
        ("blocks", count(engine.kv_cache_blocks), "value"),
        ("chunked", *_switch(value("chunked_prefill", "enable_chunked_prefill"))),
        ("step tok", _whole(value("max_num_batched_tokens")), "value"),
        ("prefix", *_switch(value("prefix_caching", "enable_prefix_caching"))),
        ("max seqs", _whole(value("max_num_seqs")), "value"),
        ("attn", engine.attention_backend or NONE, "value"),
        ("graphs", *_graphs(engine.cuda_graphs, value("enforce_eager"))),
        ("spec", speculative or ("off" if runs else NONE), "value" if speculative else "dim"),
        ("max len", _whole(value("max_model_len")), "value"),
    ]  # fmt: skip
    if speculative:
        poor = accept is not None and accept < _POOR
        found += [
            (
                "accept",
                NONE if accept is None else f"{percent(accept)}%",
                "warn!" if poor else "value",
            ),
            ("tok/draft", NONE if length is None else f"{length:.2f}", "value"),
        ]
    return found


def _graphs(mode: str | None, eager: Any) -> tuple[str, str]:
    """What is captured; without CUDA graphs it runs eagerly."""
    if eager or mode == "none":
        return "eager" if eager else "none", "dim"
    return (NONE, "dim") if mode is None else (_GRAPHS.get(mode, mode), "value")


def _dtype(value: Any) -> str:
    name = "" if value is None else str(value).removeprefix("torch.")
    return _DTYPES.get(name, name) or NONE


def _whole(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return NONE if value is None else str(value)
    return count(value)


def _switch(value: Any) -> tuple[str, str]:
    return (NONE, "dim") if value is None else ("on", "text") if value else ("off", "dim")


def _item(item: Item, width: int) -> Row:
    label, value, ink = item
    return cell(label, cut(value, max(3, width - len(label) - 1)), "", ink, width)
