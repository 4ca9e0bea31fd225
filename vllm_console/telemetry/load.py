"""From windows to the numbers of a snapshot: the one place that decides what a rate is of."""

from __future__ import annotations

from vllm_console.snapshot import Latency, Load, Quantiles
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
    """Engine steps by tokens a step, as (upper bound, steps).

    JSON has no infinity: steps beyond the last bound come last and repeat that bound, and are left
    out when there are none.
    """
    buckets = window.buckets("step_tokens")
    if len(buckets) < 2:
        return ()
    *finite, (_, beyond) = buckets
    return (*finite, (finite[-1][0], beyond)) if beyond else tuple(finite)


def finish_reasons(window: Window) -> dict[str, float] | None:
    """Requests finished in the window by reason; `None` where the engine does not say."""
    found = {}
    for name in window.new.counters:
        finished, _, reason = name.partition(":")
        delta = window.delta(name) if finished == FINISHED and reason else None
        if delta is not None:
            found[reason] = delta
    return found or None


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _rate(window: Window | None, counter: str) -> float | None:
    return None if window is None else window.rate(counter)
