"""A frozen picture of the whole fleet at one tick: the only thing a panel draws.

The wire form (`to_json`, `from_json`) is the status object of the control API and of
`vllm-console status --json`: schema `vllm-console/status/1`, additive changes only, described by
`status.schema.json`. Unknown is `None` (JSON `null`), never 0 or NaN. Times are ISO 8601 UTC,
durations seconds, memory bytes, ratios 0..1. Stdlib only, so that `status --json` stays cheap; but
`decoded`, which the console calls each second, loads msgspec.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    import msgspec

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
    mean: float | None = None


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
class CacheUse:
    """Where prompts were found instead of computed, over the last minute; `None` if unknown."""

    external_hit_rate: float | None = None
    """Hits of other instances' caches, through a KV connector."""
    multimodal_hit_rate: float | None = None
    """Images and other media found in the multi-modal cache."""
    prompt_tokens_from: Mapping[str, float] | None = None
    """Prompt tokens by where their KV cache came from (local_compute, local_cache_hit, …)."""
    cached_in: Mapping[str, float] | None = None
    """Cached prompt tokens by the tier that had them (device, host, disk, p2p, …)."""


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
    waiting_for: Mapping[str, int] | None = None
    """Waiting requests by what they wait for (capacity, deferred); `None` before vLLM 0.24."""
    rejected_per_s: float | None = None
    """Requests refused because the engine's queue was full; `None` before vLLM 0.32."""
    tokens_per_step: float | None = None
    """Mean tokens an engine step over the window."""
    prompt_lengths: tuple[tuple[float, int], ...] = ()
    """Histogram of prompt tokens a request: (upper bound, requests) a bucket."""
    output_lengths: tuple[tuple[float, int], ...] = ()
    """Histogram of generated tokens a request: (upper bound, requests) a bucket."""
    requests_total: int | None = None
    """Requests finished since the daemon began to count, or since the worker did if it is older."""
    errors: int | None = None
    """Requests of the window that finished with an error or were refused by a full queue."""
    spec_acceptance: float | None = None
    """Share of the drafted tokens that speculative decoding accepted."""
    spec_length: float | None = None
    """Tokens a draft gave on average: those accepted and the one that the model adds."""
    cache: CacheUse = CacheUse()


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
    kv_cache_blocks: int | None = None
    """Blocks of `block_size` tokens that the KV cache has."""
    cuda_graphs: str | None = None
    """What vLLM captures: "none", "piecewise", "full", "full decode only", "full and piecewise"."""
    compilation: str | None = None
    """Mode of torch.compile: "none", "stock torch compile", "dynamo trace once", "vllm compile"."""
    graphs_bytes: int | None = None
    """Memory that the captured graphs took."""
    load_format: str | None = None
    swap_bytes: int | None = None
    """Host memory that blocks of the KV cache may be moved to."""
    sleep_mode: bool | None = None
    """Whether it can give its memory back and stay alive."""
    lora: bool | None = None
    """Whether it takes LoRA adapters."""


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Where the memory of one GPU went, in bytes; the parts are those of one model's workers."""

    node: str
    index: int
    total_bytes: int | None = None
    used_bytes: int | None = None
    """By everybody on this GPU."""
    weights_bytes: int | None = None
    kv_used_bytes: int | None = None
    kv_free_bytes: int | None = None
    other_bytes: int | None = None
    """Used, and neither weights nor KV cache of this model."""


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
    gpus: tuple[GpuMemory, ...] = ()
    """The same GPU by GPU; weights and KV cache in equal parts, as vLLM shards them."""


@dataclass(frozen=True, slots=True)
class LogErrors:
    """Errors that a worker's engine has logged since this daemon reads along."""

    errors: int = 0
    """A traceback counts once."""
    warnings: int = 0
    since_s: float = 0.0
    """For how long the log has been read."""
    newest: str | None = None
    """The newest error, secrets blanked."""
    newest_age_s: float | None = None


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
    log_errors: LogErrors | None = None
    """`None` while nobody has looked at its log, and of a worker whose log is not here."""


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
class Attainment:
    """Share of what was served within its target, over the last minutes; `None` without one."""

    window_s: float = 300.0
    ttft: float | None = None
    """Of the requests, by time to first token."""
    itl: float | None = None
    """Of the tokens, by inter-token latency."""
    e2e: float | None = None
    """Of the requests, by end-to-end latency."""
    overall: float | None = None
    """The lowest of them."""
    goal: float = 0.95
    """What a target of a P95 asks for."""


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What a model makes of its hardware; formulas in `vllm_console.insight.definitions`."""

    busy: float | None = None
    """Mean utilisation of its GPUs; without GPUs its share of the host's cores."""
    memory: float | None = None
    """Used share of the memory of its GPUs, or of the host."""
    batch_fill: float | None = None
    prefix_hit: float | None = None
    served: float | None = None
    """Share of the finished requests that ended by stop or length."""
    tokens_per_joule: float | None = None
    """Generated tokens a second and watt of its GPUs."""
    cost_per_million: float | None = None
    """Price of a million generated tokens, in the unit of gpu_hour_cost."""
    overall: float | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What held a model back, as shares of the time that was seen of the last minutes."""

    span_s: float = 300.0
    seen_s: float = 0.0
    now: str | None = None
    """The limit of the newest second; `None` while there is no sample."""
    shares: Mapping[str, float] | None = None
    """By limit: kv-memory, sequence-slots, token-budget, power, compute, network; none is the time
    it worked below every limit, idle that without a request."""


@dataclass(frozen=True, slots=True)
class Lora:
    """LoRA adapters of a model's engines."""

    max: int | None = None
    """Adapters a batch may hold, of one worker."""
    running: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Autoscale:
    """What scaling by load wants of a model; all `None` while nothing scales it."""

    wanted: int | None = None
    why: str | None = None
    """One line: "31 waiting > 16 for 30 s"."""
    next_s: float | None = None
    """Seconds until the next decision."""
    cold_start_s: float | None = None
    """Seconds a new worker needs until it is ready, by earlier starts of this revision."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Requests a second expected over the next `ahead_s` seconds."""

    per_s: float
    error_per_s: float
    """Root mean square of the errors that the same method made over what is remembered."""
    ahead_s: float
    method: str
    """The method whose past errors were the least: "level", "trend" or "season"."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How requests come to a model, from what is remembered of the last half hour."""

    per_s: float | None = None
    """Requests a second over the last minute."""
    forecast: Forecast | None = None
    pattern: str | None = None
    """"steady", "bursty" or "periodic"; `None` until `enough_s` are remembered."""
    dispersion: float | None = None
    """Variance over mean of the requests in 5 s; 1 for independent arrivals of one rate."""
    period_s: float | None = None
    """Of periodic arrivals, seconds from one peak to the next."""
    remembered_s: float = 0.0
    enough_s: float = 300.0
    """Seconds below which no pattern and no forecast is told."""
    oldest_waiting_s: float | None = None
    """Since when the first in the queue waits, if first come is first served; to about 1 s."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Inter-token latency as a function of the batch, fitted to what was measured.

    `base_s + per_request_s * running`, and above `knee` also `beyond_s * (running - knee)`.
    """

    base_s: float
    per_request_s: float
    knee: int | None
    beyond_s: float
    r2: float
    lowest: int
    """The smallest and the largest batch measured: the fit speaks of these."""
    highest: int


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing to change, or to keep, and the numbers it rests on."""

    level: str
    """"warn" where a target is missed, "info" for a gain, "ok" for nothing to do."""
    text: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Batching:
    """How a model's engines batch, and what its measured steps say about the limits."""

    policy: str = "continuous"
    """"continuous": vLLM's own limits alone; "limited": fleet.toml sets one; "adaptive" and
    "predictive": a gateway moves it."""
    limit: int | None = None
    """Requests a batch holds at most, of one worker."""
    queue_limit: int | None = None
    """Requests that may wait in one worker; `None` for any number."""
    samples: int = 0
    """Seconds of a busy engine that were measured."""
    enough: int = 60
    measured_s: float = 0.0
    """From the first of the samples to the newest."""
    fit: StepTime | None = None
    reason: str | None = None
    """Why there is no fit or no best batch yet; `None` where there is one."""
    best: int | None = None
    """The largest batch of one worker that holds the target."""
    best_for: str | None = None
    """What `best` holds: "ITL p95 ≤ 50 ms"."""
    advice: tuple[Advice, ...] = ()


@dataclass(frozen=True, slots=True)
class Queued:
    """Requests waiting in the gateway by class; `None` while there is no gateway."""

    high: int | None = None
    normal: int | None = None
    low: int | None = None


@dataclass(frozen=True, slots=True)
class Canary:
    """A worker of a revision that is tried with a share of a model's requests."""

    revision: int
    share: float
    """Of the model's requests, 0..1."""
    worker: str
    """Its id."""
    since: str
    """When it became ready, or until then was begun."""


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
    canary: Canary | None = None
    """A worker of another revision, tried beside those that `wanted` and `ready` count."""
    can_sleep: bool = False
    """Whether its workers can be put to sleep, their weights off the GPU, and be woken."""
    engine_environment: str | None = None
    """Which engine the workers run, and where it was found."""
    command: tuple[str, ...] = ()
    """The exact `vllm serve` command line; holds no secret."""
    engine: Engine = Engine()
    memory: Memory = Memory()
    load: Load = Load()
    slo: Slo = Slo()
    scale: Scale = Scale()
    attainment: Attainment = Attainment()
    efficiency: Efficiency = Efficiency()
    limits: Limits = Limits()
    lora: Lora | None = None
    """`None` where the engine takes no adapter, or does not tell."""
    balancing: str | None = None
    """How requests are spread over its workers; `None` while there is no gateway to do so."""
    queued: Queued = Queued()
    """Requests for it that wait in the gateway."""
    in_flight: int | None = None
    """Requests that its workers have from the gateway; `None` while there is none."""
    autoscale: Autoscale = Autoscale()
    arrivals: Arrivals = Arrivals()
    batching: Batching = Batching()
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


STARTS = "starts"
"""The reason of a gateway that is on its way."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """The OpenAI endpoint of the fleet."""

    running: bool = False
    url: str | None = None
    requests_per_s: float | None = None
    queued: Queued = Queued()
    oldest_s: float | None = None
    """How long the first in its queues waits."""
    rejected_per_s: float | None = None
    """Requests refused because a queue was full or a deadline could not be held."""
    pid: int | None = None
    version: str | None = None
    uptime_s: float | None = None
    started_at: str | None = None
    in_flight: int | None = None
    """Requests that are with a worker now."""
    reason: str | None = None
    """Why it does not run, or what is wrong with it; `None` while all is well."""


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
class Health:
    """What went wrong and was put right lately, counted from the events; `None` if unknown."""

    hours: float = 24.0
    """How far back it is counted."""
    errors: int | None = None
    """Workers that ended, failed or stalled, and any other event of level "crit"."""
    restarts: int | None = None
    """Starts of a worker that had been up or had failed, and was not unloaded between."""
    recoveries: int | None = None
    """Times a worker was ready again after it had ended, failed or stalled."""
    adopted: int | None = None
    """Workers a new daemon took over as they ran."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole fleet at one tick."""

    at: str
    fleet: str
    daemon: Daemon
    models: tuple[Model, ...] = ()
    load: Load = Load()
    """What all workers of all models do together."""
    health: Health = Health()
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
    kind = type(value)
    if kind in _PLAIN:
        return value
    names = _names(kind)  # type: ignore[arg-type]
    if names is not None:
        return {name: to_json(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {k: to_json(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(v) for v in value]
    return value


def from_json(cls: type[T], data: Mapping[str, Any]) -> T:
    """The inverse of `to_json`; fields this version does not know are passed over."""
    values = {}
    for name, read in _readers(cls):  # type: ignore[arg-type]
        if name in data:
            value = data[name]
            values[name] = value if read is None or value is None else read(value)
    return cls(**values)


def decoded(line: bytes) -> Snapshot:
    """The snapshot of its JSON, as `from_json` makes it.

    What fits the types is decoded straight into them: with 256 models that takes a sixth of the
    time and none of the memory of the dicts between. A daemon of another version may send what does
    not fit; `from_json` takes that as it is. Raises `ValueError` for what is not JSON.
    """
    import msgspec

    try:
        return _decoder().decode(line)
    except msgspec.ValidationError:
        return from_json(Snapshot, json.loads(line))


@cache
def _decoder() -> msgspec.json.Decoder[Snapshot]:
    import msgspec

    return msgspec.json.Decoder(Snapshot)


_PLAIN = frozenset({str, int, float, bool, type(None)})


@cache
def _names(cls: type) -> tuple[str, ...] | None:
    """Names of a dataclass's fields; `None` of any other type."""
    return tuple(f.name for f in fields(cls)) if is_dataclass(cls) else None


@cache
def _readers(cls: Any) -> tuple[tuple[str, Callable[[Any], Any] | None], ...]:
    """Each field of a dataclass, and what makes its value of JSON; `None` takes it as it is."""
    kinds = get_type_hints(cls)
    return tuple((f.name, _reader(kinds[f.name])) for f in fields(cls))


def _reader(kind: Any) -> Callable[[Any], Any] | None:
    """What makes a value of this type of its JSON form; chosen once a field, not once a value."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _reader(next(a for a in args if a is not type(None)))
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return _each(_reader(args[0]))
    if origin is tuple:
        return _row(tuple(_reader(a) for a in args))
    if origin is Mapping:
        return _entries(_reader(args[1]))
    if is_dataclass(kind):
        return lambda data: from_json(kind, data)  # type: ignore[arg-type]
    return None


def _each(read: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    if read is None:
        return tuple
    return lambda data: tuple([None if v is None else read(v) for v in data])


def _row(reads: tuple[Callable[[Any], Any] | None, ...]) -> Callable[[Any], Any]:
    if not any(reads):
        return tuple
    return lambda data: tuple(
        v if read is None or v is None else read(v) for read, v in zip(reads, data, strict=True)
    )


def _entries(read: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    if read is None:
        return dict
    return lambda data: {k: None if v is None else read(v) for k, v in data.items()}
