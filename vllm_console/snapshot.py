"""A frozen picture of the whole fleet at one tick: the only thing a panel draws.

The wire form (`to_json`, `from_json`) is the status object of the control API and of
`vllm-console status --json`: schema `vllm-console/status/1`, additive changes only, described by
`status.schema.json`. Unknown is `None` (JSON `null`), never 0 or NaN. Times are ISO 8601 UTC,
durations seconds, memory bytes, ratios 0..1. Stdlib only, so that `status --json` stays cheap.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

SCHEMA = "vllm-console/status/1"


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Percentiles of one latency or length over a window; `None` where the window had no event."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    count: int = 0
    """Events in the window: P95 of fewer than 60 and P99 of fewer than 300 are mostly noise."""
    p50_between: tuple[float, float | None] | None = None
    """Where the median surely lies, when that is wider than 15 % to either side of its middle: the
    bounds of its bucket, the upper one `None` for the last. `p50` is then a guess inside."""
    p95_between: tuple[float, float | None] | None = None
    p99_between: tuple[float, float | None] | None = None
    thin: tuple[str, ...] = ()
    """Which of these percentiles come of too few events to be more than noise."""


ENOUGH = {"p95": 60, "p99": 300}
"""Events without which a percentile is mostly noise: P99 of 50 requests has a deviation of 28 %."""


def thin(count: int) -> tuple[str, ...]:
    """The percentiles of `count` events (of 0: none, there is no percentile) that are noise."""
    return tuple(name for name, least in ENOUGH.items() if 0 < count < least)


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency percentiles of one window, in seconds."""

    window_s: float = 60.0
    source: str = "engine"
    """Who measured: "engine" is vLLM's own histograms."""
    ttft_s: Quantiles = Quantiles()
    itl_s: Quantiles = Quantiles()
    tpot_s: Quantiles = Quantiles()
    e2e_s: Quantiles = Quantiles()
    queue_s: Quantiles = Quantiles()
    prefill_s: Quantiles = Quantiles()
    decode_s: Quantiles = Quantiles()


@dataclass(frozen=True, slots=True)
class Load:
    """What one worker, or all workers of a model, do now; `None` while there is no sample."""

    running: int | None = None
    waiting: int | None = None
    kv_cache_usage: float | None = None
    generation_tokens_per_s: float | None = None
    prompt_tokens_per_s: float | None = None
    requests_per_s: float | None = None
    prefix_cache_hit_rate: float | None = None
    preemptions_per_s: float | None = None
    aborts_per_s: float | None = None
    batch_fill: float | None = None
    """running / max_num_seqs, 0..1."""
    latency: Latency = Latency()
    prompt_length: Quantiles = Quantiles()
    """Prompt tokens a request, over the same window."""
    output_length: Quantiles = Quantiles()
    """Generated tokens a request, over the same window."""
    step_tokens: tuple[tuple[float, int], ...] = ()
    """Histogram of tokens an engine step over the window: (upper bound, steps) a bucket."""
    finish_reasons: Mapping[str, float] | None = None
    """Requests finished in the window by reason (stop, length, abort, …)."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a worker ended: the cause, the log line that tells it, and what to do."""

    cause: str
    line: str
    remedy: str
    at: str
    exit_code: int | None = None
    log_excerpt: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Engine:
    """The engine of a worker as it really runs: from its startup log and `cache_config_info`."""

    version: str | None = None
    architecture: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None
    data_parallel_size: int | None = None
    block_size: int | None = None
    kv_cache_tokens: int | None = None
    kv_cache_bytes: int | None = None
    kv_cache_dtype: str | None = None
    max_concurrency: float | None = None
    weights_bytes: int | None = None
    prefix_caching: bool | None = None
    chunked_prefill: bool | None = None
    speculative: str | None = None
    enforce_eager: bool | None = None
    gpu_memory_utilization: float | None = None
    attention_backend: str | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """Where a worker's memory went, in bytes; on a GPU by NVML, without one by the host."""

    device: str = "host"
    """"gpu" or "host"."""
    total_bytes: int | None = None
    used_bytes: int | None = None
    weights_bytes: int | None = None
    kv_used_bytes: int | None = None
    kv_free_bytes: int | None = None
    other_bytes: int | None = None
    """Used by this worker and neither weights nor KV cache."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One `vllm serve` process tree."""

    id: str
    state: str
    reason: str | None = None
    stage: str | None = None
    """Startup stage, in vLLM's own order: import, config, weights, compile, kv-cache, graphs,
    serving."""
    progress: float | None = None
    """0..1 of the start, by stages passed and the time earlier starts took; `None` if unknown."""
    elapsed_s: float | None = None
    """Seconds in this start (while starting) or since ready (while serving)."""
    expected_s: float | None = None
    """Seconds earlier starts of this revision took; `None` before the first."""
    pid: int | None = None
    url: str | None = None
    gpus: tuple[int, ...] = ()
    node: str | None = None
    started_at: str | None = None
    restarts: int = 0
    failure: Failure | None = None
    stale_s: float | None = None
    """Age of the newest sample."""
    stale_reason: str | None = None
    """Why the newest scrape gave no sample; `None` when it did."""
    rss_bytes: int | None = None
    """Resident memory of the whole process tree."""
    cpu: float | None = None
    """Cores in use by the whole process tree (1.0 is one core)."""
    running: int | None = None
    waiting: int | None = None
    kv_cache_usage: float | None = None
    generation_tokens_per_s: float | None = None
    prompt_tokens_per_s: float | None = None
    requests_per_s: float | None = None
    prefix_cache_hit_rate: float | None = None
    preemptions_per_s: float | None = None
    aborts_per_s: float | None = None
    batch_fill: float | None = None
    latency: Latency = Latency()


@dataclass(frozen=True, slots=True)
class Slo:
    """Targets in seconds; `None` where fleet.toml sets none."""

    ttft_p95_s: float | None = None
    itl_p95_s: float | None = None
    e2e_p95_s: float | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """How many workers a model may have."""

    min: int = 0
    max: int = 1
    target: float | None = None
    """Requests in flight and queued a worker; `None` when the fleet file sets no scaling."""


@dataclass(frozen=True, slots=True)
class Model:
    """One entry of the fleet and its workers."""

    name: str
    source: str
    revision: int
    state: str
    wanted: int
    ready: int
    aliases: tuple[str, ...] = ()
    autostart: bool = True
    pinned: bool = False
    engine_environment: str | None = None
    """Which engine the workers run, and where it was found."""
    command: tuple[str, ...] = ()
    """The exact `vllm serve` command line; holds no secret."""
    engine: Engine = Engine()
    memory: Memory = Memory()
    load: Load = Load()
    slo: Slo = Slo()
    scale: Scale = Scale()
    options: Mapping[str, Any] | None = None
    """Engine options that fleet.toml sets, snake_case."""
    workers: tuple[Worker, ...] = ()


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that computes on a GPU."""

    pid: int
    """As the driver counts: in a container this may be a pid of the host."""
    memory_bytes: int | None = None
    """What it holds on this GPU; `None` where the driver does not tell."""
    worker: str | None = None
    """The worker it belongs to; `None` for a process that is not of this fleet."""
    name: str | None = None
    """`None` for a process that has ended or is of another PID namespace."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as NVML sees it; `None` where this GPU does not tell."""

    node: str
    index: int
    uuid: str
    name: str
    utilization: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    throttle: str | None = None
    """What holds the clocks down ("thermal (hardware)", "power cap", …)."""
    fault: str | None = None
    """Why this GPU answers no more ("fallen off the bus"); `None` while it does."""
    processes: tuple[GpuProcess, ...] = ()
    """Who computes on it, the most memory first."""


@dataclass(frozen=True, slots=True)
class Host:
    """The machine the daemon runs on, by psutil."""

    node: str
    cpu: float | None = None
    """Share of all cores, 0..1."""
    cores: int | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    load_1m: float | None = None


@dataclass(frozen=True, slots=True)
class Daemon:
    """The control plane process."""

    running: bool
    pid: int | None = None
    version: str | None = None
    uptime_s: float | None = None


@dataclass(frozen=True, slots=True)
class Queued:
    """Requests waiting in the gateway by class; `None` while there is no gateway."""

    high: int | None = None
    normal: int | None = None
    low: int | None = None


@dataclass(frozen=True, slots=True)
class Gateway:
    """The OpenAI endpoint of the fleet."""

    running: bool = False
    url: str | None = None
    requests_per_s: float | None = None
    queued: Queued = Queued()


@dataclass(frozen=True, slots=True)
class Alert:
    """Something a person should look at."""

    level: str
    """"warn" or "crit"."""
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the fleet; `seq` grows by one an event and never repeats."""

    seq: int
    at: str
    level: str
    """"ok", "info", "warn" or "crit"."""
    subject: str
    text: str
    failure: Failure | None = None
    """Of a worker that failed, with its log excerpt; `None` for any other event, and in a snapshot,
    whose workers carry their failures themselves."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A command that reached the daemon: who asked, for what, and what came of it."""

    seq: int
    at: str
    client: str
    """The program that asked ("vllm-console/0.1.0 load"), by its own word or by /proc; or a
    signal's name."""
    verb: str
    arguments: Mapping[str, Any]
    outcome: str
    """"ok", or the one line that says why not."""
    seconds: float
    uid: int | None = None
    """Whose process asked; `None` for a signal."""
    user: str | None = None
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole fleet at one tick."""

    at: str
    fleet: str
    daemon: Daemon
    models: tuple[Model, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    gpus_reason: str | None = None
    """Why there is no GPU in the picture; `None` when there is one."""
    host: Host | None = None
    gateway: Gateway = Gateway()
    alerts: tuple[Alert, ...] = ()
    events: tuple[Event, ...] = ()
    """The newest few, newest first."""
    interval_s: float = 1.0
    """Seconds between two snapshots."""
    schema: str = SCHEMA


T = TypeVar("T")


def to_json(value: Any) -> Any:
    """The JSON form of a snapshot or any part of it: dicts, lists, strings, numbers, None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {k: to_json(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(v) for v in value]
    return value


def from_json(cls: type[T], data: Mapping[str, Any]) -> T:
    """The inverse of `to_json`; fields this version does not know are passed over."""
    kinds = _kinds(cls)  # type: ignore[arg-type]
    return cls(**{k: _value(kinds[k], v) for k, v in data.items() if k in kinds})


@cache
def _kinds(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def _value(kind: Any, data: Any) -> Any:
    if data is None:
        return None
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _value(next(a for a in get_args(kind) if a is not type(None)), data)
    if origin is tuple:
        args = get_args(kind)
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_value(args[0], v) for v in data)
        return tuple(_value(a, v) for a, v in zip(args, data, strict=True))
    if origin is Mapping:
        return {k: _value(get_args(kind)[1], v) for k, v in data.items()}
    if is_dataclass(kind):
        return from_json(kind, data)  # type: ignore[arg-type]
    return data
