"""One vocabulary for what vLLM 0.6.1 … 0.32 export: our names, and the vLLM names behind each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a metric is on the wire, and so where a `Sample` keeps it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"
    """Its labels are the information; its value is always 1."""


@dataclass(frozen=True, slots=True)
class Source:
    """A name in vLLM, and the versions that have it, among those looked at (`VERSIONS`).

    The name is that of the metric family: on the wire a counter ends in `_total`, a histogram in
    `_bucket`, `_sum` and `_count`.
    """

    name: str
    first: str
    last: str | None = None
    """`None`: the newest version still has it."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A row of the vocabulary. Of several sources in one text the first one listed counts."""

    name: str
    kind: Kind
    unit: str
    meaning: str
    sources: tuple[Source, ...]
    split: str | None = None
    """A label whose values become names of their own beside the total: `name:value`."""
    averaged: bool = False
    """Several engines, and several workers, are averaged instead of summed."""


VERSIONS = ("0.6.1", "0.8.5", "0.10.2", "0.12.0", "0.17.0", "0.24.0", "0.32.0")
"""The vLLM releases whose sources the table was read from, oldest first."""

METRICS: tuple[Metric, ...] = (
    Metric(
        "generation_tokens",
        Kind.COUNTER,
        "tokens",
        "Tokens generated.",
        (Source("vllm:generation_tokens", "0.6.1"),),
    ),
    Metric(
        "prompt_tokens",
        Kind.COUNTER,
        "tokens",
        "Prompt tokens processed, those from the prefix cache included.",
        (Source("vllm:prompt_tokens", "0.6.1"),),
    ),
    Metric(
        "prefix_cache_queries",
        Kind.COUNTER,
        "tokens",
        "Prompt tokens looked up in the prefix cache (blocks, where the old name is all there is).",
        (
            Source("vllm:prefix_cache_queries", "0.10.2"),
            Source("vllm:gpu_prefix_cache_queries", "0.8.5", "0.10.2"),
        ),
    ),
    Metric(
        "prefix_cache_hits",
        Kind.COUNTER,
        "tokens",
        "Prompt tokens found in the prefix cache (blocks, where the old name is all there is).",
        (
            Source("vllm:prefix_cache_hits", "0.10.2"),
            Source("vllm:gpu_prefix_cache_hits", "0.8.5", "0.10.2"),
        ),
    ),
    Metric(
        "preemptions",
        Kind.COUNTER,
        "requests",
        "Times a running request was pushed out for lack of KV cache.",
        (Source("vllm:num_preemptions", "0.6.1"),),
    ),
    Metric(
        "requests_finished",
        Kind.COUNTER,
        "requests",
        "Requests finished; by reason as requests_finished:stop, :length, :abort, …",
        (Source("vllm:request_success", "0.6.1"),),
        split="finished_reason",
    ),
    Metric(
        "running",
        Kind.GAUGE,
        "requests",
        "Requests in the batch.",
        (Source("vllm:num_requests_running", "0.6.1"),),
    ),
    Metric(
        "waiting",
        Kind.GAUGE,
        "requests",
        "Requests queued in the engine.",
        (Source("vllm:num_requests_waiting", "0.6.1"),),
    ),
    Metric(
        "kv_cache_usage",
        Kind.GAUGE,
        "ratio",
        "Share of the KV cache in use, 0..1.",
        (
            Source("vllm:kv_cache_usage_perc", "0.10.2"),
            Source("vllm:gpu_cache_usage_perc", "0.6.1", "0.10.2"),
        ),
        averaged=True,
    ),
    Metric(
        "process_start_time",
        Kind.GAUGE,
        "s",
        "When the API server started, seconds since the epoch; absent with several API servers.",
        (Source("process_start_time_seconds", "0.6.1"),),
    ),
    Metric(
        "ttft_s",
        Kind.HISTOGRAM,
        "s",
        "Time to first token.",
        (Source("vllm:time_to_first_token_seconds", "0.6.1"),),
    ),
    Metric(
        "itl_s",
        Kind.HISTOGRAM,
        "s",
        "Inter-token latency: from one token of a request to its next.",
        (
            Source("vllm:inter_token_latency_seconds", "0.10.2"),
            Source("vllm:time_per_output_token_seconds", "0.6.1", "0.12.0"),
        ),
    ),
    Metric(
        "tpot_s",
        Kind.HISTOGRAM,
        "s",
        "Time per output token: one value a request, its mean after the first token.",
        (Source("vllm:request_time_per_output_token_seconds", "0.12.0"),),
    ),
    Metric(
        "e2e_s",
        Kind.HISTOGRAM,
        "s",
        "From arrival to the last token.",
        (Source("vllm:e2e_request_latency_seconds", "0.6.1"),),
    ),
    Metric(
        "queue_s",
        Kind.HISTOGRAM,
        "s",
        "Time queued in the engine.",
        (
            Source("vllm:request_queue_time_seconds", "0.8.5"),
            Source("vllm:time_in_queue_requests", "0.8.5", "0.8.5"),
        ),
    ),
    Metric(
        "prefill_s",
        Kind.HISTOGRAM,
        "s",
        "Time from the start of the prefill to the first token.",
        (Source("vllm:request_prefill_time_seconds", "0.8.5"),),
    ),
    Metric(
        "decode_s",
        Kind.HISTOGRAM,
        "s",
        "Time from the first token to the last.",
        (Source("vllm:request_decode_time_seconds", "0.8.5"),),
    ),
    Metric(
        "prompt_length",
        Kind.HISTOGRAM,
        "tokens",
        "Prompt tokens a request.",
        (Source("vllm:request_prompt_tokens", "0.6.1"),),
    ),
    Metric(
        "output_length",
        Kind.HISTOGRAM,
        "tokens",
        "Generated tokens a request.",
        (Source("vllm:request_generation_tokens", "0.6.1"),),
    ),
    Metric(
        "step_tokens",
        Kind.HISTOGRAM,
        "tokens",
        "Tokens an engine step; its count is the number of steps.",
        (Source("vllm:iteration_tokens_total", "0.8.5"),),
    ),
    Metric(
        "cache_config_info",
        Kind.INFO,
        "",
        "The engine's cache configuration (num_gpu_blocks, block_size, kv_cache_size_tokens, …).",
        (Source("vllm:cache_config_info", "0.6.1"),),
    ),
)

AVERAGED = frozenset(m.name for m in METRICS if m.averaged)
PROCESS_START = "process_start_time"
"""The one gauge that marks a process and means nothing for several."""


def wire_names(metric: Metric, source: Source) -> tuple[str, ...]:
    """The sample names that a source has in Prometheus text."""
    match metric.kind:
        case Kind.COUNTER:
            return (source.name + "_total",)
        case Kind.HISTOGRAM:
            return (source.name + "_bucket", source.name + "_sum")
        case _:
            return (source.name,)
