"""The latency model and its advice against engines whose law is known."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_console.insight.batching import (
    ENOUGH,
    Bounds,
    Second,
    batching,
    best_batch,
    fit,
    latency_at,
)
from vllm_console.snapshot import Slo

BASE, EACH = 0.008, 0.0001
BOUNDS = Bounds(max_num_seqs=256, slo=Slo(itl_p95_s=0.025), itl_p95_s=0.020, itl_tail=1.25)


def law(running: float) -> float:
    return BASE + EACH * running


def seconds(
    running: Callable[[int], float],
    count: int = 200,
    *,
    noise: float = 0.02,
    **facts: float,
) -> list[Second]:
    """Samples of an engine that follows the law, with noise."""
    rng = random.Random(5)
    given = {"waiting": 0.0, "kv": 0.4, **facts}
    return [
        Second(float(i), running(i), itl_s=law(running(i)) * (1 + rng.gauss(0, noise)), **given)
        for i in range(count)
    ]


def breathing(low: float, high: float) -> Callable[[int], float]:
    return lambda i: low + (high - low) * abs(i % 60 - 30) / 30


def test_a_line_is_found_in_noise() -> None:
    found = fit([(s.running, s.itl_s) for s in seconds(breathing(10, 200), noise=0.05)])
    assert found is not None
    assert found.knee is None
    assert found.base_s == pytest.approx(BASE, rel=0.1)
    assert found.per_request_s == pytest.approx(EACH, rel=0.1)
    assert found.r2 > 0.9
    assert (found.lowest, found.highest) == (10, 200)


def test_a_knee_is_found_where_it_is() -> None:
    def bent(n: float) -> float:
        return 0.01 + 0.00001 * n + 0.0003 * max(0.0, n - 120)

    found = fit([(float(n), bent(n)) for n in range(1, 241)])
    assert found is not None
    assert found.knee == pytest.approx(120, abs=16)
    assert found.beyond_s == pytest.approx(0.0003, rel=0.15)
    assert latency_at(found, 200) == pytest.approx(bent(200), rel=0.03)


@given(
    st.floats(0.001, 0.1),
    st.floats(0.0, 0.001),
    st.lists(st.integers(1, 256), min_size=60, max_size=200),
)
def test_a_law_without_noise_is_found_again(base: float, each: float, sizes: list[int]) -> None:
    found = fit([(float(n), base + each * n) for n in sizes])
    if len(set(sizes)) < 3:
        assert found is None
    elif found is not None:
        for n in (min(sizes), max(sizes)):
            assert latency_at(found, n) == pytest.approx(base + each * n, rel=1e-6)


def test_the_best_batch_is_the_largest_that_holds_the_target() -> None:
    found = fit([(float(n), law(n)) for n in range(1, 201)])
    assert found is not None
    best, words = best_batch(found, replace(BOUNDS, slo=Slo(itl_p95_s=0.0251)))
    assert law(best) * 1.25 <= 0.0251 < law(best + 1) * 1.25
    assert words == "ITL p95 ≤ 25.1 ms"


def test_a_fit_is_not_believed_far_above_what_was_measured() -> None:
    found = fit([(float(n), law(n)) for n in range(1, 41)])
    assert found is not None
    assert best_batch(found, BOUNDS)[0] == 60


def test_a_target_below_one_request_has_no_batch() -> None:
    found = fit([(float(n), law(n)) for n in range(1, 41)])
    assert found is not None
    assert best_batch(found, replace(BOUNDS, slo=Slo(itl_p95_s=0.005)))[0] == 0


def test_without_a_target_the_best_batch_gives_most_of_the_tokens() -> None:
    found = fit([(float(n), law(n)) for n in range(1, 601)])
    assert found is not None
    best, words = best_batch(found, Bounds())
    assert best / law(best) == pytest.approx(0.8 / EACH, rel=0.01)  # 4 BASE / EACH
    assert words == "80% of the most tok/s"


def test_few_samples_advise_nothing_and_say_how_many_they_are() -> None:
    told = batching(seconds(breathing(10, 200), 24), BOUNDS)
    assert told.reason == f"not enough samples yet: 24 of {ENOUGH}"
    assert (told.fit, told.best, told.advice) == (None, None, ())
    assert batching((), Bounds()).reason == f"not enough samples yet: 0 of {ENOUGH}"


def test_a_batch_that_never_changed_has_no_best() -> None:
    told = batching(seconds(lambda i: 3 + i % 2), BOUNDS)
    assert told.best is None
    assert told.reason == "the batch was always 3 to 4: no slope to see"


def test_latency_that_the_batch_does_not_explain_is_no_guide() -> None:
    told = batching(seconds(breathing(10, 14), noise=0.5), BOUNDS)
    assert told.best is None
    assert told.reason is not None
    assert "too little to go by" in told.reason


def test_a_missed_target_lowers_max_num_seqs_to_what_holds_it() -> None:
    late = replace(BOUNDS, itl_p95_s=0.034)
    told = batching(seconds(breathing(10, 250)), late)
    assert told.advice[0].level == "warn"
    assert told.advice[0].text == f"max_num_seqs 256 → {told.best}"
    assert told.advice[0].evidence == f"ITL p95 34 > 25 ms; {told.best} hold it"
    assert law(told.best or 0) * 1.25 == pytest.approx(0.025, rel=0.03)


def test_a_target_that_nothing_holds_is_said_so() -> None:
    late = replace(BOUNDS, slo=Slo(itl_p95_s=0.005))
    told = batching(seconds(breathing(10, 250)), late)
    assert told.advice[0].text == "no batch holds the ITL target"


def test_full_slots_with_a_queue_and_room_in_the_cache_ask_for_more() -> None:
    bounds = Bounds(max_num_seqs=64, slo=Slo(itl_p95_s=0.025), itl_p95_s=0.015, itl_tail=1.0)
    busy = seconds(lambda i: 64.0 if i % 4 else 20.0 + i % 9, waiting=12.0, kv=0.5)
    told = batching(busy, bounds)
    assert [a.level for a in told.advice] == ["info"]
    assert told.advice[0].text == "max_num_seqs 64 → 96"
    assert "KV at most 50%" in told.advice[0].evidence
    full = batching([replace(s, kv=0.74) for s in busy], bounds)
    assert full.advice[0].text == "keep max_num_seqs 64"


def test_preemptions_with_a_full_cache_ask_for_fewer_or_more_cache() -> None:
    told = batching(seconds(breathing(60, 100), kv=0.97, preemptions=0.1), BOUNDS)
    assert told.advice[0].level == "warn"
    assert "or more KV" in told.advice[0].text
    assert told.advice[0].evidence.startswith("20 preemptions")


def test_a_preemption_or_two_change_nothing() -> None:
    calm = seconds(breathing(60, 100), kv=0.97)
    told = batching([replace(calm[0], preemptions=2.0), *calm[1:]], BOUNDS)
    assert told.advice[0].level == "ok"


def test_full_steps_and_a_late_first_token_ask_for_a_larger_budget() -> None:
    bounds = replace(
        BOUNDS, max_num_batched_tokens=2048, slo=Slo(0.3, 0.05), ttft_p95_s=0.9, itl_p95_s=0.02
    )
    told = batching(seconds(breathing(10, 100), tokens_per_step=1900.0), bounds)
    assert told.advice[0].text == "max_num_batched_tokens 2048 → 4096"
    assert told.advice[0].evidence == "TTFT p95 900 > 300 ms; steps full 100% of the time"
    calm = batching(seconds(breathing(10, 100), tokens_per_step=300.0), bounds)
    assert "max_num_batched_tokens" not in calm.advice[0].text


def test_a_long_queue_and_a_late_first_token_ask_for_a_bound_on_the_queue() -> None:
    bounds = replace(BOUNDS, slo=Slo(ttft_p95_s=0.5), ttft_p95_s=3.0, requests_per_s=8.0)
    told = batching(seconds(breathing(10, 100), waiting=20.0), bounds)
    assert told.advice[-1].text == "max_num_queued_reqs 4"
    assert batching(seconds(breathing(10, 100)), bounds).advice[0].level == "ok"
    short = replace(bounds, max_num_queued_reqs=4)
    assert batching(seconds(breathing(10, 100), waiting=20.0), short).advice[0].level == "ok"
    longer = replace(bounds, max_num_queued_reqs=64)
    told = batching(seconds(breathing(10, 100), waiting=20.0), longer)
    assert told.advice[-1].text == "max_num_queued_reqs 64 → 4"


def test_a_model_that_is_well_is_told_to_keep_its_limit() -> None:
    told = batching(seconds(breathing(10, 100)), BOUNDS)
    assert [a.level for a in told.advice] == ["ok"]
    assert told.advice[0].text == "keep max_num_seqs 256"
    assert told.advice[0].evidence.startswith("100 running at most, ITL p95 20 of 25 ms")


@given(
    st.lists(
        st.tuples(st.floats(1, 500), st.floats(0, 500), st.floats(1e-4, 2), st.floats(0, 1)),
        max_size=150,
    )
)
def test_any_samples_are_told_without_an_error(
    rows: list[tuple[float, float, float, float]],
) -> None:
    told = batching(
        [Second(float(i), r, w, itl, kv) for i, (r, w, itl, kv) in enumerate(rows)], BOUNDS
    )
    assert (told.best is None) == (told.reason is not None)
    assert told.fit is None or 0 <= told.fit.r2 <= 1
