"""The selected model: its state, its start or its failure, and what its engine is set to."""

from __future__ import annotations

from typing import Any

from vllm_console.snapshot import Failure, Model, Worker
from vllm_console.ui.format import NONE, age, count, percent, uptime
from vllm_console.ui.rows import (
    Row,
    cell,
    clip,
    cut,
    half_widths,
    length,
    meter,
    pair,
    spread,
    wrap,
)
from vllm_console.ui.states import look
from vllm_console.ui.view import View, staleness

Item = tuple[str, str, str]
"""Label, value, ink."""


_FAILURE_ROWS = 9


def ask(view: View, width: int, height: int) -> int:
    """State and source; room for how a start goes on, and for a failure with its remedy."""
    worker, state = view.worker, view.state
    if state is None:
        return 0
    if look(state).group == "failed" and worker is not None and worker.failure is not None:
        return _FAILURE_ROWS
    return 3 if _progress(worker, state, width) else 2


def draw(view: View, width: int, height: int) -> list[Row]:
    """State and source, then progress or failure, then settings in two columns."""
    model, worker, state = view.model, view.worker, view.state
    if model is None or state is None:
        return []
    rows = [_title(view, model, worker, state, width), _source(model, width)]
    if look(state).group == "failed" and worker is not None and worker.failure is not None:
        return [*rows, *failure_rows(worker.failure, width, height - 2)]
    rows.append(_progress(worker, state, width))
    items = settings(model, worker, view)
    one, two = half_widths(width)
    for a, b in zip(items[::2], items[1::2], strict=True):
        rows.append(pair(_setting(a, one), _setting(b, two), width))
    return rows


def _title(view: View, model: Model, worker: Worker | None, state: str, width: int) -> Row:
    shown = look(state)
    entry = view.entry
    name = worker.id if entry and entry.worker and worker else model.name
    old = staleness(worker)
    end: Row
    if old and shown.group in ("ready", "stalled"):
        end = [("▲ ", "warn!"), (f"sample {old}", "warn")]
    elif state == "starting" and worker is not None:
        end = [(shown.glyph + " ", shown.ink), (worker.stage or state, shown.ink)]
    else:
        many = entry is not None and entry.worker is None and model.wanted > 1
        words = f"{model.ready} of {model.wanted} {state}" if many else state
        end = [(shown.glyph + " ", shown.ink)]
        end.append((words, "label" if shown.ink == "ok" else shown.ink))
        if shown.group == "ready" and worker is not None and worker.elapsed_s is not None:
            number, unit = uptime(worker.elapsed_s)
            up: Row = [("  up ", "dim"), (number, "label"), (" " + unit, "dim")]
            if length(end) + length(up) + len(name) + 2 <= width:
                end += up
    first: Row = [(name, "engines!")]
    if name == model.name and length(end) + len(name) + 7 <= width:
        first.append((f" r{model.revision}", "dim"))
    return spread(first, end, width)


def _source(model: Model, width: int) -> Row:
    end: Row = []
    version = model.engine.version
    if version and len(version) + 6 + len(model.source) + 2 <= width:
        end = [("vLLM ", "dim"), (version, "label")]
    return spread([(model.source, "label")], end, width)


def _progress(worker: Worker | None, state: str, width: int) -> Row:
    """The third row: how far a start is, or why nothing moves."""
    if worker is None:
        return []
    if state == "starting":
        end = elapsed(worker)
        number: Row = [
            (f"{percent(worker.progress):>4}", "value" if worker.progress is not None else "dim")
        ]
        number.append(("%", "dim"))
        room = width - length(number) - length(end) - (2 if end else 0)
        return [*meter(worker.progress, room, "warn"), *number, ("  " if end else "", ""), *end]
    reason = worker.stale_reason if state in ("ready", "stalled") else worker.reason
    if not reason:
        return []
    return clip([(reason, "warn" if state in ("backoff", "queued") else "label")], width)


def elapsed(worker: Worker) -> Row:
    """`31 of 94 s` of a start; only what is known of it."""
    if worker.elapsed_s is None:
        return []
    if worker.expected_s is None:
        return [
            (age(worker.elapsed_s).partition(" ")[0], "label"),
            (" " + age(worker.elapsed_s).partition(" ")[2], "dim"),
        ]
    return [
        (f"{worker.elapsed_s:.0f}", "label"),
        (" of ", "dim"),
        (f"{worker.expected_s:.0f}", "label"),
        (" s", "dim"),
    ]


def failure_rows(failure: Failure, width: int, height: int) -> list[Row]:
    """Cause, the log line that tells it, and the remedy; the remedy is never cut away."""
    title: Row = [("✖ ", "crit"), (failure.cause, "crit!")]
    end: Row = []
    if failure.exit_code is not None:
        end = [("exit ", "dim"), (str(failure.exit_code), "label")]
    remedy = [
        [("  ", ""), *row] for row in wrap(failure.remedy, width - 2, "text", max(1, height - 2))
    ]
    if remedy:
        remedy[0][0] = ("→ ", "label")
    room = max(0, height - 1 - len(remedy))
    line = (
        [[("  ", ""), *row] for row in wrap(failure.line, width - 2, "label", room)] if room else []
    )
    return [spread(title, end, width), *line, *remedy]


def settings(model: Model, worker: Worker | None, view: View) -> list[Item]:
    """Twelve settings: as the engine says it runs, else as fleet.toml asks for."""
    engine, options = model.engine, model.options or {}

    def value(name: str) -> Any:
        real = getattr(engine, name, None)
        return options.get(name) if real is None else real

    tensor, pipeline = value("tensor_parallel_size"), value("pipeline_parallel_size")
    gpus = ",".join(str(g) for g in worker.gpus) if worker else ""
    on_host = model.memory.device == "host" and worker is not None and not gpus
    running = engine.version is not None
    quantization = value("quantization")
    prefix = engine.prefix_caching
    if prefix is None:
        prefix = options.get("enable_prefix_caching")
    chunked = engine.chunked_prefill
    if chunked is None:
        chunked = options.get("enable_chunked_prefill")
    utilization = value("gpu_memory_utilization")
    spec = engine.speculative
    sized = tensor is not None or pipeline is not None
    quant = str(quantization) if quantization else "none" if running else NONE
    if utilization is None or model.memory.device == "host":
        last = ("KV tokens", _whole(engine.kv_cache_tokens), "value")
    else:
        last = ("mem util", _ratio(utilization), "value")
    return [
        ("TP × PP", f"{tensor or 1} × {pipeline or 1}" if sized else NONE, "value"),
        ("GPUs", gpus or ("none" if on_host else NONE), "value" if gpus else "dim"),
        ("dtype", _dtype(value("dtype")), "value"),
        ("quant", quant, "value" if quantization else "dim"),
        ("max len", _whole(value("max_model_len")), "value"),
        ("max seqs", _whole(value("max_num_seqs")), "value"),
        ("step tok", _whole(value("max_num_batched_tokens")), "value"),
        ("block", _whole(value("block_size")), "value"),
        ("prefix", *_switch(prefix)),
        ("chunked", *_switch(chunked)),
        ("spec", spec or ("off" if running else NONE), "value" if spec else "dim"),
        last,
    ]


def _dtype(value: Any) -> str:
    short = {
        "bfloat16": "bf16",
        "float16": "fp16",
        "float32": "fp32",
        "half": "fp16",
        "float": "fp32",
    }
    name = "" if value is None else str(value).removeprefix("torch.")
    return short.get(name, name) or NONE


def _whole(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return NONE if value is None else str(value)
    return count(value)


def _ratio(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, (int, float)) else str(value)


def _switch(value: Any) -> tuple[str, str]:
    return (NONE, "dim") if value is None else ("on", "text") if value else ("off", "dim")


def _setting(item: Item, width: int) -> Row:
    label, value, ink = item
    return cell(label, cut(value, max(3, width - len(label) - 1)), "", ink, width)
