"""What each number on the screen is: its name, its formula and what it means, block by block.

The one place where derived values are defined. The console's `?` shows these rows for the panel
that has the focus; `vllm_console.insight` computes the values.
"""

from __future__ import annotations

from typing import NamedTuple


class Definition(NamedTuple):
    """One number of a block."""

    name: str
    """As the block writes it."""
    formula: str
    """How it is computed, and over which span."""
    meaning: str
    """What it tells, and what to do about it."""


DEFINITIONS: dict[str, tuple[Definition, ...]] = {
    "models": (
        Definition("ready", "workers that take requests / workers wanted",
                   "amber while some are missing"),
        Definition("GPU", "indexes of the GPUs its workers use / GPUs there are", ""),
        Definition("GiB", "memory used by its workers, on GPUs or on the host", ""),
        Definition("KV", "blocks in use / blocks of the KV cache", "100 % pushes requests out"),
        Definition("run+wait", "requests in the batch + requests queued", "of all its workers"),
        Definition("tok/s", "tokens generated / s, last 5 s", "what clients receive"),
        Definition("38%  58 s", "share of a start that has passed, and what is left of it",
                   "by what earlier starts of this revision took, else by vLLM's stages"),
    ),
    "optimization": (
        Definition("TP×PP×DP", "tensor × pipeline × data parallel ranks", "GPUs of one worker"),
        Definition("KV block", "tokens a block of the paged KV cache", "taken as a whole"),
        Definition("blocks", "blocks of the KV cache", "× tokens a block: what it holds"),
        Definition("step tok", "max_num_batched_tokens", "with chunked prefill a prompt is split"),
        Definition("accept", "accepted / drafted tokens, last 60 s",
                   "below about 40 % a draft costs more than it gives"),
        Definition("tok/draft", "1 + accepted tokens / drafts", "tokens a step of one request"),
        Definition("graphs", "what vLLM captured as CUDA graphs",
                   "eager starts sooner and decodes slower"),
    ),
    "memory": (
        Definition("weights", "what vLLM said loading took, spread over its GPUs", "fixed"),
        Definition("KV used", "KV cache size × KV usage", "grows with tokens in flight"),
        Definition("KV free", "KV cache size − KV used", "taken from the GPU, held for requests"),
        Definition("other", "used − weights − KV cache", "activations, graphs, others on the GPU"),
        Definition("full length", "KV tokens / max_model_len",
                   "requests of max_model_len that fit at once"),
        Definition("offload", "kv_offloading_size", "host memory for blocks of the KV cache"),
    ),
    "advanced": (
        Definition("cache hits", "prompt tokens found / looked up, last 60 s",
                   "in this engine's own prefix cache"),
        Definition("ext", "the same of other instances' caches", "absent without a KV connector"),
        Definition("media", "the same of images and other media", "absent without media"),
        Definition("new", "prompt tokens that were computed / all, last 60 s", ""),
        Definition("local", "those found in this engine's cache / all", "not computed again"),
        Definition("preload", "when it is loaded: at start, on load; pinned: never evicted", ""),
        Definition("balance", "how requests are spread over its workers", "absent: no gateway"),
        Definition("adaptive", "requests a batch that the gateway lets in now",
                   "absent: no gateway"),
        Definition("LoRA", "adapters with a request in the batch of those it may hold", ""),
    ),
    "monitoring": (
        Definition("SLA", "within the target / all, last 5 min: the lowest of TTFT, ITL, E2E",
                   "of requests by TTFT and E2E, of tokens by ITL; a P95 target asks for 95 %"),
        Definition("alerts", "alerts about it or one of its workers", ""),
        Definition("log errors", "ERROR lines since the daemon reads along",
                   "a traceback counts once"),
    ),
    "dashboard": (
        Definition("requests", "requests finished in the last 60 s", "of every finish reason"),
        Definition("all", "requests finished since they are counted", ""),
        Definition("a second", "requests finished / s, last 5 s", ""),
        Definition("errors", "finished with an error + refused by a full queue, last 60 s", ""),
        Definition("mean", "sum of latencies / requests, last 60 s", "far above p50: a long tail"),
    ),
    "throughput": (
        Definition("generated", "generated tokens / s, last 5 s", ""),
        Definition("prompt", "prompt tokens / s, last 5 s", "those from a cache included"),
        Definition("max", "the highest of the span drawn", ""),
        Definition("a GPU", "tok/s / GPUs of its workers", "compares layouts of one model"),
    ),
    "ttft": (
        Definition("TTFT p95", "95th percentile of the last 60 s; the graph: of 30 s", "amber is "
                   "over the target"),
    ),
    "latency": (
        Definition("TTFT", "arrival → first token", "queue + prefill"),
        Definition("ITL", "one token → the next, of every token", "what a reader sees"),
        Definition("TPOT", "(E2E − TTFT) / (tokens − 1), one a request", "its mean ITL"),
        Definition("E2E", "arrival → last token", ""),
        Definition("queue", "arrival → into the batch", "long: too few slots or workers"),
        Definition("prefill", "into the batch → first token", "long: long prompts"),
        Definition("decode", "first → last token", "long: long answers, full batch"),
        Definition("p99", "from bucket deltas of the window", "dim below 300 requests; ≤ where a "
                   "bucket is too wide"),
    ),
    "efficiency": (
        Definition("overall", "busy × batch fill × served",
                   "share of what the hardware could do that became whole answers"),
        Definition("GPU busy", "mean utilisation of its GPUs (NVML)",
                   "a kernel ran; without GPUs: cores used / cores"),
        Definition("batch fill", "running / (max_num_seqs × workers)", "room for more requests"),
        Definition("served", "(stop + length) / finished, last 60 s", "the rest was in vain"),
        Definition("memory", "used / total of its GPUs", ""),
        Definition("prefix hit", "prompt tokens found / looked up", "work that was not done twice"),
        Definition("tok/s W", "generated tok/s / watts of its GPUs", "tokens a joule"),
        Definition("$ 1M tok", "GPUs × gpu_hour_cost / 3600 / tok/s × 10⁶",
                   "[fleet] gpu_hour_cost sets the price"),
        Definition("tok/s GPU", "generated tok/s / GPUs of its workers", ""),
    ),
    "bottlenecks": (
        Definition("KV memory", "preemptions, or KV ≥ 95 % with requests waiting",
                   "shorter max_model_len, more memory, fp8 KV, another worker"),
        Definition("sequence slots", "running ≥ max_num_seqs with requests waiting",
                   "raise max_num_seqs while KV and ITL allow"),
        Definition("token budget", "tokens a step ≥ 90 % of max_num_batched_tokens",
                   "prompts queue for steps: raise it, ITL grows"),
        Definition("power, heat", "a GPU slowed by power or temperature", "cool it, raise its cap"),
        Definition("compute", "GPU ≥ 90 % busy and none of those", "another worker or GPU"),
        Definition("network", "KV cache on its way from another instance", "a faster connector"),
        Definition("no limit", "working below every limit", "it can take more"),
        Definition("idle", "no request runs or waits", ""),
        Definition("share", "seconds of the last 5 min in which it was the first that held",
                   "asked in this order"),
    ),
    "occupancy": (
        Definition("running", "requests in the batch of max_num_seqs × ready workers", ""),
        Definition("waiting", "requests queued in the engines", "amber from the panel's limit on"),
        Definition("p95 wait", "95th percentile of the time queued, last 60 s", ""),
    ),
    "batch": (
        Definition("tok/step", "tokens / engine steps, last 60 s", "decodes and prefill chunks"),
        Definition("oldest", "now − arrival of request number (arrived − waiting + 1)",
                   "first come first served; to about 1 s, 10 min at most"),
        Definition("for slots", "waiting for room in the batch", "max_num_seqs, budget or KV"),
        Definition("deferred", "waiting for something else", "LoRA adapters, KV on its way"),
        Definition("preempt", "requests pushed out of the batch / min", "KV memory is short"),
    ),
    "queue": (
        Definition("high, norm, low", "requests waiting in the gateway by class",
                   "absent without a gateway"),
        Definition("rejected", "refused by a full queue / min, last 5 s",
                   "by the gateway, else by the engines"),
    ),
    "strategies": (
        Definition("continuous", "vLLM's own: a request joins at any step", "no limit is set"),
        Definition("limited", "max_num_seqs or max_num_queued_* set in fleet.toml", ""),
        Definition("adaptive, predictive", "the limit follows latency, or the forecast",
                   "needs the gateway"),
    ),
    "steps": (
        Definition("median", "upper bound of the bucket of the middle step, last 60 s",
                   "of max_num_batched_tokens"),
    ),
    "analytics": (
        Definition("arrivals", "growth of finished + running + waiting / s, last 60 s", ""),
        Definition("forecast", "smoothing, damped trend or season: least past error",
                   "± root mean square of those errors"),
        Definition("periodic", "autocorrelation of 5 s counts ≥ 0.35, peak and echo",
                   "and the rate swings by a fifth or more"),
        Definition("bursty", "variance / mean of 5 s counts surely over 1",
                   "and the rate swings by a fifth or more"),
        Definition("steady", "neither", "1 is that of independent arrivals"),
    ),
    "insights": (
        Definition("fit", "least squares of ITL over running, a second each, one knee at most",
                   "r²: share of the variance it explains"),
        Definition("best batch", "largest n with fit(n) × ITL p95 / mean ≤ target",
                   "at most half above what was measured"),
        Definition("no target", "n that gives 80 % of the most tok/s the slope allows", ""),
    ),
    "cluster": (
        Definition("nodes active", "nodes with a worker / nodes", ""),
        Definition("load", "(running + waiting) / (max_num_seqs × ready workers)",
                   "over 100 % requests queue"),
        Definition("GPU free", "answers, no process on it, no worker's", ""),
    ),
    "pools": (
        Definition("load", "(running + waiting) / (target × ready)",
                   "max_num_seqs where no target is set"),
        Definition("cold", "median of the last starts of this revision", ""),
    ),
    "autoscale": (
        Definition("target", "requests in flight and queued a worker", "scale.target"),
        Definition("cold start", "median of the last starts of this revision",
                   "what a decision to scale up costs"),
    ),
    "devices": (
        Definition("busy", "share of time a kernel ran (NVML)", "▾ the clocks are held down"),
    ),
    "service": (
        Definition("req/s", "requests finished / s by all models, last 5 s", ""),
        Definition("p50 p95 p99", "of all models, last 60 s", "dim where too few stand behind it"),
    ),
    "health": (
        Definition("errors", "workers that ended, failed, stalled + critical events", "24 h"),
        Definition("restarts", "starts of a worker not unloaded before", "24 h"),
        Definition("recoveries", "ready again after it ended, failed or stalled", "24 h"),
        Definition("adopted", "workers a new daemon took over as they ran", "24 h"),
    ),
}  # fmt: skip
"""By the name of a block."""
