"""Draws the fleet as it is now into one frozen snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from vllm_console.control.insights import lora
from vllm_console.control.observe import Observation
from vllm_console.control.served import Actor, ServedModel
from vllm_console.devices.nvml import NvmlReading
from vllm_console.snapshot import (
    Alert,
    Engine,
    Gpu,
    GpuMemory,
    Host,
    Load,
    Memory,
    Model,
    Scale,
    Slo,
    Worker,
)
from vllm_console.snapshot import Canary as CanaryView
from vllm_console.workers.launch import iso
from vllm_console.workers.states import SERVING, State

STALE_S = 10.0
"""A serving worker whose newest sample is older than this raises an alert."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one worker's process tree uses of the host."""

    rss_bytes: int | None = None
    cpu: float | None = None
    gpu_bytes: int | None = None


def model_picture(
    served: ServedModel,
    observation: Observation,
    usage: Mapping[str, Usage],
    devices: NvmlReading,
    host: Host | None,
) -> Model:
    """One model with its workers, as of now."""
    config = served.config
    workers = tuple(
        _worker(
            actor,
            observation,
            usage.get(actor.view.id, Usage()),
            served.config_of(actor.id)[0].options,
        )
        for actor in served.workers.values()
    )
    engine = next(
        (
            engine_facts(actor, observation.info(actor.view.id), config.options)
            for actor in served.own
        ),
        Engine(),
    )
    if engine.weights_bytes is None and served.weights_bytes is not None:
        engine = replace(engine, weights_bytes=served.weights_bytes)
    serving = sum(worker.state in SERVING for worker in workers)
    slots = engine.max_num_seqs * serving if engine.max_num_seqs else None
    load = observation.model_load(served.name, slots)
    scale = config.scale
    return Model(
        name=served.name,
        source=config.source,
        revision=served.revision,
        state=served.state.value,
        wanted=served.wanted,
        ready=served.ready,
        aliases=tuple(config.aliases),
        autostart=config.autostart,
        can_sleep=served.can_sleep,
        pinned=served.pinned,
        canary=_canary(served),
        engine_environment=served.engine_environment,
        command=served.command,
        engine=engine,
        memory=memory(workers, engine, load, usage, devices, host),
        lora=lora(observation.info(worker.id) for worker in workers),
        load=load,
        slo=Slo(config.slo.ttft_p95_s, config.slo.itl_p95_s, config.slo.e2e_p95_s),
        scale=Scale(scale.min, scale.max, scale.target) if scale else Scale(0, config.workers),
        options=dict(config.options),
        workers=workers,
    )


def _canary(served: ServedModel) -> CanaryView | None:
    canary = served.canary
    if canary is None:
        return None
    return CanaryView(canary.revision, canary.share, canary.worker, iso(canary.since))


def engine_facts(actor: Actor, info: Mapping[str, str], options: Mapping[str, Any]) -> Engine:
    """The engine as it runs: what its log said, else its metrics, else the options it was given."""
    known = actor.engine
    found: dict[str, Any] = {
        "block_size": _integer(info.get("block_size")),
        "kv_cache_tokens": _integer(info.get("kv_cache_size_tokens")),
        "kv_cache_bytes": _integer(info.get("kv_cache_memory_bytes")),
        "kv_cache_dtype": info.get("cache_dtype"),
        "max_concurrency": _number(info.get("kv_cache_max_concurrency")),
        "prefix_caching": _flag(info.get("enable_prefix_caching")),
        "gpu_memory_utilization": _number(info.get("gpu_memory_utilization")),
        "kv_cache_blocks": _integer(info.get("num_gpu_blocks")),
        "swap_bytes": _gibibytes(info.get("kv_offloading_size")),
    }
    for field in fields(Engine):
        if found.get(field.name) is None and field.name in options:
            found[field.name] = _option(field.name, options[field.name])
    missing = {
        name: value
        for name, value in found.items()
        if value is not None and getattr(known, name) is None
    }
    return replace(known, **missing)


def memory(
    workers: Sequence[Worker],
    engine: Engine,
    load: Load,
    usage: Mapping[str, Usage],
    devices: NvmlReading,
    host: Host | None,
) -> Memory:
    """Where the memory of a model's workers went; parts that are not known stay `None`."""
    used_by = [usage[w.id] for w in workers if w.id in usage and w.pid is not None]
    gpus = {index for worker in workers if worker.pid is not None for index in worker.gpus}
    if gpus:
        mine = [gpu for gpu in devices.gpus if gpu.index in gpus]
        total = _sum(gpu.memory_total_bytes for gpu in mine)
        used = _sum(u.gpu_bytes for u in used_by)
        device = "gpu"
    else:
        total = host.memory_total_bytes if host else None
        used = _sum(u.rss_bytes for u in used_by)
        device = "host"
    count = sum(w.state in SERVING for w in workers)
    weights = engine.weights_bytes * count if engine.weights_bytes is not None and count else None
    kv_total = engine.kv_cache_bytes * count if engine.kv_cache_bytes and count else None
    kv_used = None
    if kv_total is not None and load.kv_cache_usage is not None:
        kv_used = round(kv_total * load.kv_cache_usage)
    other = None
    if used is not None and weights is not None:
        other = max(0, used - weights - (kv_total or 0))
    return Memory(
        device=device,
        total_bytes=total,
        used_bytes=used,
        weights_bytes=weights,
        kv_used_bytes=kv_used,
        kv_free_bytes=kv_total - kv_used if kv_total is not None and kv_used is not None else None,
        other_bytes=other,
        gpus=gpu_memory(workers, engine, devices),
    )


def gpu_memory(
    workers: Sequence[Worker], engine: Engine, devices: NvmlReading
) -> tuple[GpuMemory, ...]:
    """Each GPU of a model's workers; vLLM gives every rank an equal part of weights and cache."""
    known = {gpu.index: gpu for gpu in devices.gpus}
    parts: dict[int, list[tuple[int | None, int | None, float | None]]] = {}
    for worker in workers:
        serves = worker.state in SERVING
        for index in worker.gpus if worker.pid is not None else ():
            share = len(worker.gpus)
            weights = engine.weights_bytes // share if serves and engine.weights_bytes else None
            cache = engine.kv_cache_bytes // share if serves and engine.kv_cache_bytes else None
            parts.setdefault(index, []).append((weights, cache, worker.kv_cache_usage))
    return tuple(_on_gpu(known[index], parts[index]) for index in sorted(parts) if index in known)


def _on_gpu(gpu: Gpu, parts: list[tuple[int | None, int | None, float | None]]) -> GpuMemory:
    weights = _sum(part[0] for part in parts)
    cache = _sum(part[1] for part in parts)
    used_of_cache = _sum(
        None if size is None or usage is None else round(size * usage) for _, size, usage in parts
    )
    free = None if cache is None or used_of_cache is None else cache - used_of_cache
    other = None
    if gpu.memory_used_bytes is not None and weights is not None:
        other = max(0, gpu.memory_used_bytes - weights - (cache or 0))
    return GpuMemory(
        gpu.node, gpu.index, gpu.memory_total_bytes, gpu.memory_used_bytes, weights,
        used_of_cache, free, other,
    )  # fmt: skip


def slots_of(models: Iterable[Model]) -> int | None:
    """Requests that all serving workers may run at once; `None` where one does not tell."""
    total = 0
    for model in models:
        serving = sum(worker.state in SERVING for worker in model.workers)
        if serving and not model.engine.max_num_seqs:
            return None
        total += serving * (model.engine.max_num_seqs or 0)
    return total or None


def alerts(
    models: Iterable[Model], trouble: Iterable[str], gpus: Iterable[Gpu] = ()
) -> tuple[Alert, ...]:
    """What a person should look at, the worst first."""
    found = [Alert("warn", "history", text) for text in trouble]
    found += [Alert("crit", f"GPU {gpu.index}", gpu.fault) for gpu in gpus if gpu.fault]
    for model in models:
        for worker in model.workers:
            if worker.state in (State.FAILED, State.CRASH_LOOP) and worker.failure:
                found.append(Alert("crit", worker.id, _failure(worker)))
            elif worker.state == State.BACKOFF and worker.failure:
                found.append(Alert("warn", worker.id, _failure(worker)))
            elif worker.state in SERVING and (worker.stale_s or 0.0) > STALE_S:
                why = f": {worker.stale_reason}" if worker.stale_reason else ""
                found.append(Alert("warn", worker.id, f"no sample for {worker.stale_s:.0f} s{why}"))
        found += _slo_alerts(model)
    return tuple(sorted(found, key=lambda alert: alert.level != "crit"))


def _slo_alerts(model: Model) -> list[Alert]:
    latency = model.load.latency
    found = []
    for name, target, quantiles in (
        ("TTFT", model.slo.ttft_p95_s, latency.ttft_s),
        ("ITL", model.slo.itl_p95_s, latency.itl_s),
        ("E2E", model.slo.e2e_p95_s, latency.e2e_s),
    ):
        between = quantiles.p95_between
        value = between[0] if between else quantiles.p95  # what is sure of it
        late = target and value and (value >= target if between else value > target)
        if target and value and late and "p95" not in quantiles.thin:
            over = "over " if between else ""
            text = f"{name} p95 {over}{value * 1e3:,.0f} ms > {target * 1e3:,.0f} ms"
            found.append(Alert("warn", model.name, text))
    return found


def _failure(worker: Worker) -> str:
    assert worker.failure is not None
    return f"{worker.state}: {worker.failure.cause}"


def _worker(
    actor: Actor, observation: Observation, used: Usage, options: Mapping[str, Any]
) -> Worker:
    view = actor.view
    engine = engine_facts(actor, observation.info(view.id), options)
    load = observation.worker_load(view.id, engine.max_num_seqs)
    stale_s, stale_reason = observation.stale(view.id)
    return replace(
        view,
        stale_s=stale_s,
        stale_reason=stale_reason,
        rss_bytes=used.rss_bytes,
        cpu=used.cpu,
        running=load.running,
        waiting=load.waiting,
        kv_cache_usage=load.kv_cache_usage,
        generation_tokens_per_s=load.generation_tokens_per_s,
        prompt_tokens_per_s=load.prompt_tokens_per_s,
        requests_per_s=load.requests_per_s,
        prefix_cache_hit_rate=load.prefix_cache_hit_rate,
        preemptions_per_s=load.preemptions_per_s,
        aborts_per_s=load.aborts_per_s,
        batch_fill=load.batch_fill,
        latency=load.latency,
    )


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _integer(text: str | None) -> int | None:
    number = _number(text)
    return None if number is None else int(number)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None  # the label says "None" where vLLM has not decided


def _gibibytes(text: str | None) -> int | None:
    """`kv_offloading_size` is given in GiB (vLLM config/cache.py)."""
    number = _number(text)
    return None if number is None else round(number * 2**30)


def _flag(text: str | None) -> bool | None:
    return {"True": True, "False": False}.get(text or "")


_WHOLE = ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "block_size")
_PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


def _option(name: str, value: Any) -> Any:
    """An option as a fact, where the file gives it in a form that is one."""
    if name in (*_WHOLE, *_PARALLEL):
        return value if isinstance(value, int) and not isinstance(value, bool) else None
    return value if isinstance(value, (str, bool, float, int)) else None
