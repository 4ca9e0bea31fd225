"""What the scripted fleet's models say of their engines, caches, targets and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vllm_console.control.insights import efficiency
from vllm_console.snapshot import (
    Attainment,
    CacheUse,
    Gpu,
    GpuMemory,
    Host,
    Limits,
    LogErrors,
    Lora,
    Model,
    Quantiles,
)

GIB = 2**30
_SHARES: tuple[Mapping[str, float], ...] = (
    {"none": 0.46, "kv-memory": 0.27, "compute": 0.18, "token-budget": 0.09},
    {"sequence-slots": 0.41, "none": 0.22, "kv-memory": 0.21, "compute": 0.11, "power": 0.05},
    {"none": 0.81, "compute": 0.19},
    {"idle": 0.64, "none": 0.36},
)
_ERROR = "Error in preprocessing prompt inputs: the prompt is longer than 32768 tokens"
_HOUR_COST = 2.10


def completed(model: Model, gpus: Sequence[Gpu], host: Host | None, kind: int) -> Model:
    """One of the scripted models with all that is derived; `kind` is its place among the four."""
    if model.engine.version is None:
        return model
    ready = model.load.running is not None
    engine = replace(
        model.engine,
        attention_backend="FLASH_ATTN",
        kv_cache_blocks=25_760,
        kv_cache_dtype="fp8" if kind == 1 else "auto",
        max_concurrency=12.58,
        cuda_graphs="full and piecewise",
        compilation="vllm compile",
        graphs_bytes=int((0.6 + kind * 0.3) * GIB),
        load_format="auto",
        data_parallel_size=1,
        enforce_eager=False,
        sleep_mode=False,
        lora=kind == 1,
    )
    if not ready:
        return replace(model, engine=engine)
    load = model.load
    late = kind == 1
    model = replace(
        model,
        engine=engine,
        load=replace(
            load,
            latency=replace(load.latency, e2e_s=_mean(load.latency.e2e_s)),
            requests_total=1_204_311 - kind * 340_000,
            errors=0,
            spec_acceptance=0.71 if kind == 0 else None,
            spec_length=2.42 if kind == 0 else None,
            cache=CacheUse(
                0.12 if kind == 0 else None,
                None,
                {
                    "local_compute": 1000 * (1 - (load.prefix_cache_hit_rate or 0)),
                    "local_cache_hit": 1000 * (load.prefix_cache_hit_rate or 0) - 40 * (kind == 0),
                    "external_kv_transfer": 40.0 * (kind == 0),
                },
            ),
        ),
        attainment=Attainment(300.0, 0.921 if late else 0.993, 0.964, None, 0.921)
        if late
        else Attainment(300.0, 0.993, 0.987, None, 0.987),
        limits=Limits(300.0, 300.0, max(_SHARES[kind], key=_SHARES[kind].__getitem__),
                      _SHARES[kind]),
        lora=Lora(4, ("support-de", "summarise"), ()) if kind == 1 else None,
        workers=tuple(
            replace(
                w,
                log_errors=LogErrors(2, 5, 86_000.0, _ERROR, 512.0) if kind == 0 else LogErrors(),
            )
            for w in model.workers
        ),
    )  # fmt: skip
    model = replace(model, memory=replace(model.memory, gpus=_by_gpu(model, gpus)))
    return replace(model, efficiency=efficiency(model, gpus, host, _HOUR_COST))


def _mean(quantiles: Quantiles) -> Quantiles:
    return replace(quantiles, mean=None if quantiles.p50 is None else quantiles.p50 * 1.14)


def _by_gpu(model: Model, gpus: Sequence[Gpu]) -> tuple[GpuMemory, ...]:
    """The parts of the model's memory in equal shares on the GPUs of its ready workers."""
    indexes = sorted({g for w in model.workers if w.state == "ready" for g in w.gpus})
    mine = [gpu for gpu in gpus if gpu.index in indexes]
    memory, many = model.memory, len(mine) or 1

    def part(size: int | None) -> int | None:
        return None if size is None else size // many

    return tuple(
        GpuMemory(
            gpu.node, gpu.index, gpu.memory_total_bytes, part(memory.used_bytes),
            part(memory.weights_bytes), part(memory.kv_used_bytes), part(memory.kv_free_bytes),
            part(memory.other_bytes),
        )
        for gpu in mine
    )  # fmt: skip
