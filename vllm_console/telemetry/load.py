"""From windows to the numbers of a snapshot: the one place that decides what a rate is of."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_console.snapshot import CacheUse, Latency, Load, Quantiles
from vllm_console.telemetry.sample import Sample
from vllm_console.telemetry.window import Window

RATE_WINDOW_S = 5.0
"""Rates are of a window this long: long enough to be steady, short enough to follow."""
LATENCY_WINDOW_S = 60.0
"""Percentiles, lengths and shares need events; they are of a window this long."""
FINISHED = "requests_finished"


def load(
    window: Window | None,
    sample: Sample | None,
    max_num_seqs: int | None,
    window60: Window | None,
) -> Load:
    """What one worker, or all workers of a model, do now.

    `window` spans about `RATE_WINDOW_S` and gives the rates, `window60` about `LATENCY_WINDOW_S`
    and gives percentiles, lengths, shares and finish reasons; `sample` is the newest and gives the
    gauges; `max_num_seqs` is that of all the workers that `sample` speaks for, summed. Whatever
    is not known stays `None`. A history has a window only between two samples, so the caller
    passes `None` for both windows when the newest sample is too old to be called now.
    """
    gauges = {} if sample is None else sample.gauges
    running = gauges.get("running")
    return Load(
        running=_whole(running),
        waiting=_whole(gauges.get("waiting")),
        kv_cache_usage=gauges.get("kv_cache_usage"),
        generation_tokens_per_s=_rate(window, "generation_tokens"),
        prompt_tokens_per_s=_rate(window, "prompt_tokens"),
        requests_per_s=_rate(window, FINISHED),
        prefix_cache_hit_rate=(
            None
            if window60 is None
            else window60.ratio("prefix_cache_hits", "prefix_cache_queries")
        ),
        preemptions_per_s=_rate(window, "preemptions"),
        aborts_per_s=_rate(window, f"{FINISHED}:abort"),
        batch_fill=None if running is None or not max_num_seqs else running / max_num_seqs,
        latency=latency(window60),
        prompt_length=Quantiles() if window60 is None else window60.quantiles("prompt_length"),
        output_length=Quantiles() if window60 is None else window60.quantiles("output_length"),
        step_tokens=() if window60 is None else step_tokens(window60),
        finish_reasons=None if window60 is None else finish_reasons(window60),
        waiting_for=waiting_for(gauges),
        rejected_per_s=_rate(window, "admission_rejections"),
        tokens_per_step=None if window60 is None else mean(window60, "step_tokens"),
        prompt_lengths=() if window60 is None else distribution(window60, "prompt_length"),
        output_lengths=() if window60 is None else distribution(window60, "output_length"),
        requests_total=None if sample is None else _whole(sample.counters.get(FINISHED)),
        errors=errors(window60),
        spec_acceptance=_ratio(window60, "spec_accepted_tokens", "spec_draft_tokens"),
        spec_length=spec_length(window60),
        cache=cache_use(window60),
    )


def latency(window: Window | None) -> Latency:
    """Latency percentiles of a window; `window_s` is the span really covered, to 0.1 s."""
    if window is None:
        return Latency(window_s=LATENCY_WINDOW_S)
    return Latency(
        window_s=round(window.seconds, 1),
        ttft_s=window.quantiles("ttft_s"),
        itl_s=window.quantiles("itl_s"),
        tpot_s=window.quantiles("tpot_s"),
        e2e_s=window.quantiles("e2e_s"),
        queue_s=window.quantiles("queue_s"),
        prefill_s=window.quantiles("prefill_s"),
        decode_s=window.quantiles("decode_s"),
    )


def step_tokens(window: Window) -> tuple[tuple[float, int], ...]:
    """Engine steps by tokens a step, as (upper bound, steps); see `distribution`."""
    return distribution(window, "step_tokens")


def distribution(window: Window, histogram: str) -> tuple[tuple[float, int], ...]:
    """Observations a bucket of a histogram, as (upper bound, count).

    JSON has no infinity: those beyond the last bound come last and repeat that bound, and are left
    out when there are none.
    """
    buckets = window.buckets(histogram)
    if len(buckets) < 2:
        return ()
    *finite, (_, beyond) = buckets
    return (*finite, (finite[-1][0], beyond)) if beyond else tuple(finite)


def mean(window: Window, histogram: str) -> float | None:
    """The mean of a histogram's observations in the window; `None` where there was none."""
    return window.mean(histogram)


def waiting_for(gauges: Mapping[str, float]) -> dict[str, int] | None:
    """Waiting requests by what they wait for; `None` where the engine does not say."""
    found = {
        reason: round(value)
        for name, value in gauges.items()
        if (reason := name.removeprefix("waiting_for:")) != name
    }
    return found or None


def finish_reasons(window: Window) -> dict[str, float] | None:
    """Requests finished in the window by reason; `None` where the engine does not say."""
    return window.deltas(FINISHED) or None


def errors(window: Window | None) -> int | None:
    """Requests that finished with an error or were refused; `None` where neither is counted."""
    if window is None:
        return None
    counted = (window.delta(name) for name in (f"{FINISHED}:error", "admission_rejections"))
    known = [number for number in counted if number is not None]
    return round(sum(known)) if known else None


def spec_length(window: Window | None) -> float | None:
    """Tokens a draft of speculative decoding gave: those accepted, and the model's own one."""
    accepted = _ratio(window, "spec_accepted_tokens", "spec_drafts")
    return None if accepted is None else 1 + accepted


def cache_use(window: Window | None) -> CacheUse:
    """Where prompts were found in the window instead of computed."""
    if window is None:
        return CacheUse()
    return CacheUse(
        external_hit_rate=_ratio(window, "external_cache_hits", "external_cache_queries"),
        multimodal_hit_rate=_ratio(window, "mm_cache_hits", "mm_cache_queries"),
        prompt_tokens_from=window.deltas("prompt_tokens_from") or None,
        cached_in=window.deltas("prompt_tokens_cached_in") or None,
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _rate(window: Window | None, counter: str) -> float | None:
    return None if window is None else window.rate(counter)


def _ratio(window: Window | None, part: str, whole: str) -> float | None:
    return None if window is None else window.ratio(part, whole)
