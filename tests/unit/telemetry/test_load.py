"""From windows to the numbers of a snapshot."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from vllm_console.snapshot import Latency, Load, to_json
from vllm_console.telemetry.load import load
from vllm_console.telemetry.parse import parse
from vllm_console.telemetry.sample import Histogram, Sample
from vllm_console.telemetry.window import Window

_DATA = Path(__file__).parent / "data"


def _real(name: str, at: float) -> Sample:
    return parse(gzip.decompress((_DATA / f"{name}.txt.gz").read_bytes()), at)


def test_without_a_sample_everything_is_unknown() -> None:
    assert load(None, None, 256, None) == Load(latency=Latency(window_s=60.0))


def test_a_first_sample_gives_gauges_and_no_rate() -> None:
    now = load(None, _real("loaded_peak", 1.0), 16, None)
    assert (now.running, now.waiting) == (9, 15)
    assert now.kv_cache_usage == pytest.approx(0.984, abs=1e-3)
    assert now.batch_fill == 9 / 16
    assert now.generation_tokens_per_s is None
    assert now.latency.ttft_s.p50 is None


def test_a_real_minute_of_overload_gives_every_number() -> None:
    peak, end = _real("loaded_peak", 100.0), _real("loaded", 160.0)
    now = load(Window(replace(peak, at=155.0), end), end, 16, Window(peak, end))
    assert now.generation_tokens_per_s == pytest.approx((48888 - 19201) / 5)
    assert now.prompt_tokens_per_s == pytest.approx((22075 - 12406) / 5)
    assert now.requests_per_s == pytest.approx(31 / 5)
    assert now.preemptions_per_s == pytest.approx((75 - 27) / 5)
    assert now.aborts_per_s == 0
    assert now.prefix_cache_hit_rate == pytest.approx((6016 - 3328) / (22075 - 12406))
    assert now.latency.window_s == 60.0
    assert now.latency.ttft_s.count == 21
    assert now.latency.itl_s.count == 48840 - 19174
    for latency in (
        now.latency.ttft_s,
        now.latency.itl_s,
        now.latency.tpot_s,
        now.latency.e2e_s,
        now.latency.queue_s,
        now.latency.prefill_s,
        now.latency.decode_s,
        now.prompt_length,
        now.output_length,
    ):
        assert latency.p50 is not None
        assert latency.p95 is not None
        assert latency.p99 is not None
        assert 0 < latency.p50 <= latency.p95 <= latency.p99
    assert sum(steps for _, steps in now.step_tokens) == 6846 - 2292
    assert now.finish_reasons == {
        "stop": 0,
        "length": 31,
        "abort": 0,
        "error": 0,
        "repetition": 0,
    }


def test_steps_beyond_the_last_bound_stay_in_json() -> None:
    old = Sample(0.0, histograms={"step_tokens": Histogram((8.0, 16.0), (0.0, 0.0, 0.0), 0.0)})
    new = Sample(60.0, histograms={"step_tokens": Histogram((8.0, 16.0), (1.0, 3.0, 7.0), 0.0)})
    now = load(None, new, None, Window(old, new))
    assert now.step_tokens == ((8.0, 1), (16.0, 2), (16.0, 4))
    json.dumps(to_json(now), allow_nan=False)


def test_an_engine_that_reports_little_leaves_the_rest_unknown() -> None:
    old, new = Sample(0.0, {"prompt_tokens": 0.0}), Sample(5.0, {"prompt_tokens": 50.0})
    now = load(Window(old, new), new, None, Window(old, new))
    assert now.prompt_tokens_per_s == 10
    assert now == Load(prompt_tokens_per_s=10.0, latency=Latency(window_s=5.0))


def test_where_a_real_minute_found_its_prompts() -> None:
    peak, end = _real("loaded_peak", 100.0), _real("loaded", 160.0)
    now = load(Window(peak, end), end, 16, Window(peak, end))
    computed, found = 16059 - 9078, 6016 - 3328
    assert now.cache.prompt_tokens_from == pytest.approx(
        {"local_compute": computed, "local_cache_hit": found, "external_kv_transfer": 0}
    )
    assert now.cache.cached_in is not None
    assert now.cache.cached_in["device"] == found
    assert now.cache.external_hit_rate is None
    assert now.cache.multimodal_hit_rate is None


def test_a_mean_is_the_sum_over_the_count_of_the_window() -> None:
    old = Histogram((1.0,), (2.0, 3.0), 10.0)
    new = Histogram((1.0,), (4.0, 7.0), 18.0)
    window = Window(Sample(0.0, histograms={"e2e_s": old}), Sample(9.0, histograms={"e2e_s": new}))
    assert load(None, None, None, window).latency.e2e_s.mean == 2.0
    none = Window(Sample(0.0, histograms={"e2e_s": old}), Sample(9.0, histograms={"e2e_s": old}))
    assert load(None, None, None, none).latency.e2e_s.mean is None


def test_errors_are_those_that_finished_so_and_those_refused() -> None:
    def between(old: dict[str, float], new: dict[str, float]) -> Load:
        return load(None, None, None, Window(Sample(0.0, old), Sample(9.0, new)))

    assert between({}, {}).errors is None
    finished = {"requests_finished:error": 1.0}, {"requests_finished:error": 4.0}
    assert between(*finished).errors == 3
    was, now = ({**counts, "admission_rejections": 5.0} for counts in finished)
    assert between(was, {**now, "admission_rejections": 7.0}).errors == 5


def test_speculation_is_judged_by_what_was_accepted() -> None:
    old = {"spec_drafts": 10.0, "spec_draft_tokens": 30.0, "spec_accepted_tokens": 12.0}
    new = {"spec_drafts": 110.0, "spec_draft_tokens": 330.0, "spec_accepted_tokens": 162.0}
    now = load(None, None, None, Window(Sample(0.0, old), Sample(9.0, new)))
    assert (now.spec_acceptance, now.spec_length) == (0.5, 2.5)
    still = load(None, None, None, Window(Sample(0.0, old), Sample(9.0, old)))
    assert (still.spec_acceptance, still.spec_length) == (None, None)


def test_all_requests_are_those_counted_so_far() -> None:
    assert load(None, Sample(1.0, {"requests_finished": 41.0}), None, None).requests_total == 41
    assert load(None, Sample(1.0), None, None).requests_total is None
