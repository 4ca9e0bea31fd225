"""One vocabulary for what vLLM 0.6.1 … 0.32 export: our names, and the vLLM names behind each."""

from __future__ import annotations

from vllm_console.telemetry.metric import (
    Kind,
    Metric,
    Source,
    counter,
    gauge,
    histogram,
    wire_names,
)

__all__ = [
    "AVERAGED",
    "COUNTING_SINCE",
    "DERIVED",
    "MARKS",
    "METRICS",
    "PROCESS_START",
    "VERSIONS",
    "Kind",
    "Metric",
    "Source",
    "wire_names",
]

VERSIONS = ("0.6.1", "0.8.5", "0.10.2", "0.12.0", "0.17.0", "0.24.0", "0.32.0")
"""The vLLM releases whose sources the table was read from, oldest first."""

_SPEC = "vllm/v1/spec_decode/metrics.py"
_PERF = "vllm/v1/metrics/perf.py"
_SLEEP = "vllm/entrypoints/serve/dev/sleep/metrics.py"
_V0 = "vllm/engine/metrics.py"
_V0_SPEC = "vllm/spec_decode/metrics.py"
_CLIENT = "prometheus_client/process_collector.py"
_CREATED = "prometheus_client/exposition.py"

PROCESS_START = "process_start_time"
COUNTING_SINCE = "counting_since"
MARKS = frozenset({PROCESS_START, COUNTING_SINCE})
"""Gauges that mark one process and mean nothing for several."""

_TRAFFIC = (
    gauge(
        "running",
        "requests",
        "Requests in the batch.",
        Source("vllm:num_requests_running", "0.6.1"),
        by_engine=True,
    ),
    gauge(
        "waiting",
        "requests",
        "Requests queued in the engine.",
        Source("vllm:num_requests_waiting", "0.6.1"),
        by_engine=True,
    ),
    gauge(
        "waiting_for",
        "requests",
        "Requests queued by what they wait for: waiting_for:capacity, :deferred.",
        Source("vllm:num_requests_waiting_by_reason", "0.24.0"),
        split="reason",
        whole=False,
    ),
    gauge(
        "kv_fetch",
        "requests",
        "Queued requests by how far the load of their KV cache from a connector is.",
        Source("vllm:num_requests_kv_fetch_by_stage", "0.32.0"),
        split="stage",
        whole=False,
    ),
    gauge(
        "swapped",
        "requests",
        "Requests whose KV cache was moved to the host.",
        Source("vllm:num_requests_swapped", "0.6.1", "0.8.5", _V0),
    ),
    counter(
        "admission_rejections",
        "requests",
        "Requests refused because a queue was full; by reason as admission_rejections:REASON.",
        Source("vllm:admission_rejections", "0.32.0"),
        split="reason",
    ),
    counter(
        "preemptions",
        "requests",
        "Times a running request was pushed out for lack of KV cache.",
        Source("vllm:num_preemptions", "0.6.1"),
    ),
    counter(
        "requests_finished",
        "requests",
        "Requests finished; by reason as requests_finished:stop, :length, :abort, …",
        Source("vllm:request_success", "0.6.1"),
        split="finished_reason",
    ),
    counter(
        "corrupted_requests",
        "requests",
        "Requests with NaN among their logits, where vLLM was told to look.",
        Source("vllm:corrupted_requests", "0.12.0"),
    ),
    gauge(
        "sleep",
        "engines",
        "Engines by how deep they sleep: sleep:awake, :weights_offloaded, :discard_all.",
        Source("vllm:engine_sleep_state", "0.12.0"),
        split="sleep_state",
        whole=False,
    ),
    gauge(
        "sleep_operations",
        "operations",
        "Sleep and wake calls under way.",
        Source("vllm:sleep_mode_operations_in_flight", "0.32.0", file=_SLEEP),
    ),
)

_TOKENS = (
    counter(
        "generation_tokens",
        "tokens",
        "Tokens generated.",
        Source("vllm:generation_tokens", "0.6.1"),
        by_engine=True,
    ),
    counter(
        "prompt_tokens",
        "tokens",
        "Prompt tokens processed, those from the prefix cache included.",
        Source("vllm:prompt_tokens", "0.6.1"),
    ),
    counter(
        "prompt_tokens_from",
        "tokens",
        "Prompt tokens by where their KV cache came from: prompt_tokens_from:local_compute, …",
        Source("vllm:prompt_tokens_by_source", "0.17.0"),
        split="source",
        whole=False,
    ),
    counter(
        "prompt_tokens_cached",
        "tokens",
        "Prompt tokens that were not computed, but found in this engine's cache or another's.",
        Source("vllm:prompt_tokens_cached", "0.17.0"),
    ),
    counter(
        "prompt_tokens_cached_in",
        "tokens",
        "Cached prompt tokens by the tier that had them: prompt_tokens_cached_in:device, :host, …",
        Source("vllm:prompt_tokens_cached_by_source", "0.32.0"),
        split="source",
        whole=False,
    ),
    counter(
        "estimated_flops",
        "FLOP",
        "Floating point operations a GPU, as vLLM estimates them.",
        Source("vllm:estimated_flops_per_gpu", "0.17.0", file=_PERF),
    ),
    counter(
        "estimated_read_bytes",
        "bytes",
        "Bytes a GPU read from its memory, as vLLM estimates them.",
        Source("vllm:estimated_read_bytes_per_gpu", "0.17.0", file=_PERF),
    ),
    counter(
        "estimated_write_bytes",
        "bytes",
        "Bytes a GPU wrote to its memory, as vLLM estimates them.",
        Source("vllm:estimated_write_bytes_per_gpu", "0.17.0", file=_PERF),
    ),
)

_CACHES = (
    gauge(
        "kv_cache_usage",
        "ratio",
        "Share of the KV cache in use, 0..1.",
        Source("vllm:kv_cache_usage_perc", "0.10.2"),
        Source("vllm:gpu_cache_usage_perc", "0.6.1", "0.10.2"),
        averaged=True,
        by_engine=True,
    ),
    gauge(
        "host_kv_cache_usage",
        "ratio",
        "Share of the KV cache on the host in use, 0..1.",
        Source("vllm:cpu_cache_usage_perc", "0.6.1", "0.8.5", _V0),
        averaged=True,
    ),
    counter(
        "prefix_cache_queries",
        "tokens",
        "Prompt tokens looked up in the prefix cache (blocks, where the old name is all there is).",
        Source("vllm:prefix_cache_queries", "0.10.2"),
        Source("vllm:gpu_prefix_cache_queries", "0.8.5", "0.10.2"),
    ),
    counter(
        "prefix_cache_hits",
        "tokens",
        "Prompt tokens found in the prefix cache (blocks, where the old name is all there is).",
        Source("vllm:prefix_cache_hits", "0.10.2"),
        Source("vllm:gpu_prefix_cache_hits", "0.8.5", "0.10.2"),
    ),
    counter(
        "external_cache_queries",
        "tokens",
        "Prompt tokens looked up in other instances' caches, through a KV connector.",
        Source("vllm:external_prefix_cache_queries", "0.12.0"),
    ),
    counter(
        "external_cache_hits",
        "tokens",
        "Prompt tokens found in other instances' caches, through a KV connector.",
        Source("vllm:external_prefix_cache_hits", "0.12.0"),
    ),
    counter(
        "mm_cache_queries",
        "items",
        "Images and other media looked up in the multi-modal cache.",
        Source("vllm:mm_cache_queries", "0.12.0"),
    ),
    counter(
        "mm_cache_hits",
        "items",
        "Images and other media found in the multi-modal cache.",
        Source("vllm:mm_cache_hits", "0.12.0"),
    ),
    Metric(
        "cache_config_info",
        Kind.INFO,
        "",
        "The engine's cache configuration (num_gpu_blocks, block_size, kv_cache_size_tokens, …).",
        (Source("vllm:cache_config_info", "0.6.1"),),
    ),
    Metric(
        "lora_info",
        Kind.STAMPED,
        "",
        "LoRA adapters of now: max_lora, running_lora_adapters, waiting_lora_adapters.",
        (Source("vllm:lora_requests_info", "0.8.5"),),
    ),
    histogram(
        "kv_block_lifetime_s",
        "s",
        "From a KV block's first use to its eviction, of sampled blocks.",
        Source("vllm:kv_block_lifetime_seconds", "0.12.0"),
    ),
    histogram(
        "kv_block_idle_s",
        "s",
        "From a KV block's last use to its eviction, of sampled blocks.",
        Source("vllm:kv_block_idle_before_evict_seconds", "0.12.0"),
    ),
    histogram(
        "kv_block_reuse_gap_s",
        "s",
        "From one use of a KV block to its next, of sampled blocks.",
        Source("vllm:kv_block_reuse_gap_seconds", "0.12.0"),
    ),
)

_SPECULATION = (
    counter(
        "spec_drafts",
        "drafts",
        "Drafts made by speculative decoding.",
        Source("vllm:spec_decode_num_drafts", "0.8.5", file=_SPEC),
    ),
    counter(
        "spec_draft_tokens",
        "tokens",
        "Tokens drafted.",
        Source("vllm:spec_decode_num_draft_tokens", "0.6.1", file=_SPEC),
    ),
    counter(
        "spec_accepted_tokens",
        "tokens",
        "Drafted tokens that were accepted.",
        Source("vllm:spec_decode_num_accepted_tokens", "0.6.1", file=_SPEC),
    ),
    counter(
        "spec_accepted_at",
        "tokens",
        "Drafted tokens accepted by their place in the draft: spec_accepted_at:0, :1, …",
        Source("vllm:spec_decode_num_accepted_tokens_per_pos", "0.8.5", file=_SPEC),
        split="position",
        whole=False,
    ),
    counter(
        "spec_emitted_tokens",
        "tokens",
        "Tokens that speculative decoding gave, bonus tokens included.",
        Source("vllm:spec_decode_num_emitted_tokens", "0.6.1", "0.8.5", _V0_SPEC),
    ),
)

_TIMES = (
    histogram(
        "ttft_s",
        "s",
        "Time to first token.",
        Source("vllm:time_to_first_token_seconds", "0.6.1"),
    ),
    histogram(
        "itl_s",
        "s",
        "Inter-token latency: from one token of a request to its next.",
        Source("vllm:inter_token_latency_seconds", "0.10.2"),
        Source("vllm:time_per_output_token_seconds", "0.6.1", "0.12.0"),
    ),
    histogram(
        "tpot_s",
        "s",
        "Time per output token: one value a request, its mean after the first token.",
        Source("vllm:request_time_per_output_token_seconds", "0.12.0"),
    ),
    histogram(
        "e2e_s",
        "s",
        "From arrival to the last token.",
        Source("vllm:e2e_request_latency_seconds", "0.6.1"),
    ),
    histogram(
        "queue_s",
        "s",
        "Time queued in the engine.",
        Source("vllm:request_queue_time_seconds", "0.8.5"),
        Source("vllm:time_in_queue_requests", "0.8.5", "0.8.5", _V0),
    ),
    histogram(
        "inference_s",
        "s",
        "Time in the batch: prefill and decode.",
        Source("vllm:request_inference_time_seconds", "0.8.5"),
    ),
    histogram(
        "prefill_s",
        "s",
        "Time from the start of the prefill to the first token.",
        Source("vllm:request_prefill_time_seconds", "0.8.5"),
    ),
    histogram(
        "decode_s",
        "s",
        "Time from the first token to the last.",
        Source("vllm:request_decode_time_seconds", "0.8.5"),
    ),
)

_SIZES = (
    histogram(
        "prompt_length",
        "tokens",
        "Prompt tokens a request.",
        Source("vllm:request_prompt_tokens", "0.6.1"),
    ),
    histogram(
        "output_length",
        "tokens",
        "Generated tokens a request.",
        Source("vllm:request_generation_tokens", "0.6.1"),
    ),
    histogram(
        "prefill_tokens",
        "tokens",
        "Prompt tokens a request that were computed, those from a cache left out.",
        Source("vllm:request_prefill_kv_computed_tokens", "0.17.0"),
    ),
    histogram(
        "step_tokens",
        "tokens",
        "Tokens an engine step; its count is the number of steps.",
        Source("vllm:iteration_tokens_total", "0.8.5"),
    ),
    histogram(
        "max_tokens",
        "tokens",
        "The max_tokens that requests ask for.",
        Source("vllm:request_params_max_tokens", "0.8.5"),
    ),
    histogram(
        "answers",
        "answers",
        "The n that requests ask for: answers a request.",
        Source("vllm:request_params_n", "0.6.1"),
    ),
    histogram(
        "request_preemptions",
        "times",
        "How often a request was pushed out before it finished.",
        Source("vllm:request_num_preemptions", "0.32.0"),
    ),
)

_MARKS = (
    gauge(
        PROCESS_START,
        "s",
        "When the API server started, seconds since the epoch; absent with several API servers.",
        Source("process_start_time_seconds", "0.6.1", file=_CLIENT),
    ),
    gauge(
        COUNTING_SINCE,
        "s",
        "When its counters began, seconds since the epoch; absent with several API servers.",
        Source("vllm:generation_tokens_created", "0.6.1", file=_CREATED),
    ),
)

METRICS: tuple[Metric, ...] = (
    *_TRAFFIC, *_TOKENS, *_CACHES, *_SPECULATION, *_TIMES, *_SIZES, *_MARKS,
)  # fmt: skip

DERIVED = {
    "kv_cache_tokens": "Tokens the KV cache holds, of cache_config_info: kv_cache_size_tokens, "
    "else num_gpu_blocks x block_size; summed over engines.",
    "lora_running": "LoRA adapters with a request in the batch, of lora_info.",
    "lora_waiting": "LoRA adapters with a queued request, of lora_info.",
}
"""Gauges that stand in labels instead of values, and where they are read from."""

AVERAGED = frozenset(m.name for m in METRICS if m.averaged)
