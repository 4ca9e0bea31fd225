"""How samples of several workers add up, and how a restart shows."""

from __future__ import annotations

import pytest

from vllm_console.telemetry.sample import Histogram, Sample, engines_changed, merge, restarted


def _sample(
    at: float = 0.0,
    *,
    tokens: float = 0.0,
    running: float = 0.0,
    usage: float = 0.0,
    start: float | None = None,
    ttft: Histogram | None = None,
    **info: str,
) -> Sample:
    gauges = {"running": running, "kv_cache_usage": usage}
    if start is not None:
        gauges["process_start_time"] = start
    histograms = {} if ttft is None else {"ttft_s": ttft}
    return Sample(at, {"generation_tokens": tokens}, gauges, histograms, info)


def test_nothing_merges_to_none_and_one_to_itself() -> None:
    assert merge([]) is None
    one = _sample(tokens=3, start=7)
    assert merge([one]) is one


def test_counters_and_gauges_add_up_and_usage_is_averaged() -> None:
    merged = merge(
        [
            _sample(1.0, tokens=10, running=2, usage=0.2, start=100, dtype="auto", blocks="64"),
            _sample(2.0, tokens=5, running=1, usage=0.6, start=200, dtype="auto", blocks="32"),
        ]
    )
    assert merged is not None
    assert merged.at == 2.0
    assert merged.counters == {"generation_tokens": 15}
    assert merged.gauges == {"running": 3, "kv_cache_usage": pytest.approx(0.4)}
    assert merged.info == {"dtype": "auto"}


def test_a_name_that_one_worker_lacks_is_that_of_the_others() -> None:
    merged = merge([Sample(0.0, {"preemptions": 4.0}), Sample(0.0, {"prompt_tokens": 1.0})])
    assert merged is not None
    assert merged.counters == {"preemptions": 4.0, "prompt_tokens": 1.0}


def test_histograms_of_equal_bounds_add_up_and_the_rarer_bounds_are_left_out() -> None:
    common = Histogram((1.0, 2.0), (1.0, 2.0, 3.0), 4.0)
    rare = Histogram((5.0,), (100.0, 100.0), 9.0)
    merged = merge([_sample(ttft=common), _sample(ttft=rare), _sample(ttft=common), _sample()])
    assert merged is not None
    assert merged.histograms["ttft_s"] == Histogram((1.0, 2.0), (2.0, 4.0, 6.0), 8.0)


def test_a_restart_shows_by_the_start_time_even_when_every_count_grew() -> None:
    assert restarted(_sample(tokens=5, start=100), _sample(tokens=50, start=160))
    assert not restarted(_sample(tokens=5, start=100), _sample(tokens=50, start=100))


def test_a_restart_shows_by_any_count_that_fell() -> None:
    old, new = Histogram((1.0,), (2.0, 4.0), 1.0), Histogram((1.0,), (0.0, 1.0), 1.0)
    assert restarted(_sample(tokens=5), _sample(tokens=4))
    assert restarted(_sample(ttft=old), _sample(ttft=new))
    assert not restarted(_sample(ttft=new), _sample(ttft=old))
    assert not restarted(Sample(0.0), _sample(tokens=4, ttft=new))
    other = Histogram((9.0,), (0.0, 1.0), 1.0)
    assert not restarted(_sample(tokens=4, ttft=old), _sample(tokens=4, ttft=other))


def _engines(tokens: float, *names: str, start: float | None = None) -> Sample:
    gauges = {} if start is None else {"process_start_time": start}
    apart = {name: {"generation_tokens": 1.0} for name in names}
    return Sample(0.0, {"generation_tokens": tokens}, gauges, engines=apart)


def test_engines_that_go_are_no_restart_though_the_sums_fall() -> None:
    both, one = _engines(100, "0", "1", start=5), _engines(60, start=5)
    assert engines_changed(both, one)
    assert not restarted(both, one)
    assert restarted(both, _engines(60, start=6))
    assert restarted(both, _engines(60, "0", "1", start=5))
    assert not engines_changed(both, _engines(200, "0", "1"))


def test_counters_that_began_later_are_of_another_process() -> None:
    old = Sample(0.0, {"prompt_tokens": 1.0}, {"counting_since": 100.5})
    new = Sample(1.0, {"prompt_tokens": 9.0}, {"counting_since": 160.5})
    assert restarted(old, new)
    assert not restarted(old, Sample(1.0, {"prompt_tokens": 9.0}))


def test_the_marks_of_a_process_are_not_those_of_several() -> None:
    one = Sample(0.0, {}, {"counting_since": 1.0, "process_start_time": 1.0, "running": 1.0})
    merged = merge([one, one])
    assert merged is not None
    assert merged.gauges == {"running": 2}
