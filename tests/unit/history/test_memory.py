"""Windows and series out of memory: across restarts, gaps and a quarter of an hour."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_console.errors import InvalidInput
from vllm_console.history.base import SERIES, History
from vllm_console.history.memory import MemoryHistory
from vllm_console.telemetry.sample import Histogram, Sample

_W = "worker/w-1"


def _sample(
    at: float, tokens: float = 0.0, *, running: float = 0.0, start: float | None = None
) -> Sample:
    """A sample in which every token had a TTFT of its own, between 1 s and 2 s."""
    gauges = {"running": running}
    if start is not None:
        gauges["process_start_time"] = start
    ttft = Histogram((1.0, 2.0), (0.0, tokens, tokens), tokens)
    return Sample(at, {"generation_tokens": tokens}, gauges, {"ttft_s": ttft}, {"dtype": "auto"})


def _steady(seconds: int, rate: float = 10.0) -> MemoryHistory:
    history = MemoryHistory()
    for at in range(seconds + 1):
        history.record(_W, _sample(float(at), rate * at, running=float(at % 10)))
    return history


def test_it_is_a_history() -> None:
    history: History = MemoryHistory()
    assert history.latest(_W) is None
    assert history.window(_W, 60.0) is None
    assert history.series(_W, "running", 5.0, 1.0) == [None] * 5
    history.gap(_W, 1.0)
    history.forget(_W)


def test_one_sample_is_no_window() -> None:
    history = MemoryHistory()
    history.record(_W, _sample(1.0, 5.0))
    assert history.latest(_W) == _sample(1.0, 5.0)
    assert history.window(_W, 60.0) is None


@pytest.mark.parametrize("seconds", [5.0, 30.0, 60.0])
def test_a_window_spans_what_was_asked_and_ends_at_the_newest_sample(seconds: float) -> None:
    window = _steady(300).window(_W, seconds)
    assert window is not None
    assert window.seconds == seconds
    assert window.new.at == 300.0
    assert window.rate("generation_tokens") == 10.0
    assert window.quantiles("ttft_s").count == 10 * seconds


def test_a_young_subject_has_a_window_of_its_age() -> None:
    window = _steady(12).window(_W, 60.0)
    assert window is not None
    assert window.seconds == 12


def test_samples_farther_apart_than_the_window_are_none() -> None:
    history = MemoryHistory()
    history.record(_W, _sample(0.0, 0.0))
    history.record(_W, _sample(300.0, 100.0))
    assert history.window(_W, 60.0) is None
    assert history.window(_W, 300.0) is not None


def test_slow_and_unsteady_scrapes_still_have_a_short_window() -> None:
    history = MemoryHistory()
    for n in range(20):
        history.record(_W, _sample(n * 5.0 + (n % 2) * 0.05, 50.0 * n))
        if n >= 2:
            window = history.window(_W, 5.0)
            assert window is not None
            assert 4.9 < window.seconds < 5.1


@pytest.mark.parametrize("age", [50.0, 300.0, 700.0])
def test_a_window_in_the_past_is_near_to_where_it_was_asked(age: float) -> None:
    window = _steady(1000, rate=3.0).window(_W, 120.0, at=1000.0 - age)
    assert window is not None
    assert window.new.at == pytest.approx(1000.0 - age, abs=30.0)
    assert window.new.at <= 1000.0 - age
    assert window.seconds == pytest.approx(120.0, abs=31.0)
    assert window.rate("generation_tokens") == pytest.approx(3.0)
    assert window.new.info == {"dtype": "auto"}


def test_what_is_older_than_kept_is_gone() -> None:
    history = MemoryHistory(keep_s=100.0)
    for at in range(301):
        history.record(_W, _sample(float(at), 1.0 * at))
    window = history.window(_W, 1000.0)
    assert window is not None
    assert window.seconds <= 100.0
    series = history.series(_W, "running", 300.0, 10.0)
    assert series[-1] is not None


def test_a_window_over_a_restart_counts_both_lives() -> None:
    history = MemoryHistory()
    history.record(_W, _sample(0.0, 100.0, start=1.0))
    history.record(_W, _sample(10.0, 150.0, start=1.0))
    history.record(_W, _sample(20.0, 30.0, start=2.0))
    history.record(_W, _sample(30.0, 200.0, start=2.0))
    history.record(_W, _sample(40.0, 300.0, start=3.0))
    window = history.window(_W, 40.0)
    assert window is not None
    assert window.delta("generation_tokens") == 50 + 200 + 300
    assert window.quantiles("ttft_s").count == 550
    latest = history.latest(_W)
    assert latest is not None
    assert latest.counters["generation_tokens"] == 650


def test_a_restart_with_other_buckets_has_no_percentile_across_and_one_after() -> None:
    history = MemoryHistory()
    history.record(_W, _sample(0.0, 100.0, start=1.0))
    for at, count in ((10.0, 4.0), (20.0, 8.0)):
        fine = Histogram((0.5, 1.0, 2.0), (0.0, count, count, count), 1.0)
        gauges = {"process_start_time": 2.0}
        history.record(_W, Sample(at, {"generation_tokens": count}, gauges, {"ttft_s": fine}))
    across, after = history.window(_W, 20.0), history.window(_W, 10.0)
    assert across is not None
    assert after is not None
    assert across.quantiles("ttft_s").p50 is None
    assert across.delta("generation_tokens") == 8
    assert after.quantiles("ttft_s").count == 4


@settings(deadline=None)
@given(lives=st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=8), min_size=1, max_size=5))
def test_every_window_counts_what_really_happened(lives: list[list[int]]) -> None:
    """Each life is a list of tokens made between two scrapes; the oracle just adds them up."""
    history = MemoryHistory()
    made: list[int] = []
    at = 0.0
    for number, life in enumerate(lives):
        total = 0
        for grown in life:
            total += grown
            made.append(grown)
            history.record(_W, _sample(at, float(total), start=float(number)))
            at += 1.0
    for span in range(1, len(made)):
        window = history.window(_W, float(span))
        assert window is not None
        assert window.delta("generation_tokens") == sum(made[-span:])
        assert window.quantiles("ttft_s").count == sum(made[-span:])


def test_a_sample_out_of_order_is_dropped() -> None:
    history = MemoryHistory()
    history.record(_W, _sample(10.0, 5.0))
    history.record(_W, _sample(10.0, 6.0))
    history.record(_W, _sample(9.0, 7.0))
    assert history.latest(_W) == _sample(10.0, 5.0)


def test_a_series_has_a_value_a_step_with_the_newest_last() -> None:
    history = _steady(20)
    assert history.series(_W, "running", 5.0, 1.0) == [6.0, 7.0, 8.0, 9.0, 0.0]
    assert history.series(_W, "generation_tokens_per_s", 3.0, 1.0) == [10.0] * 3
    assert history.series(_W, "ttft_p95_s", 1.0, 1.0) == [pytest.approx(1.95)]
    assert history.series(_W, "waiting", 2.0, 1.0) == [None, None]


def test_a_coarse_step_is_the_mean_of_its_samples() -> None:
    assert _steady(19).series(_W, "running", 20.0, 10.0) == [4.5, 4.5]


def test_before_the_first_sample_a_series_knows_nothing() -> None:
    assert _steady(2).series(_W, "running", 6.0, 1.0) == [None, None, None, 0.0, 1.0, 2.0]


def test_a_missed_scrape_is_a_hole() -> None:
    history = MemoryHistory()
    for at in range(6):
        if at in (2, 3):
            history.gap(_W, float(at))
        else:
            history.record(_W, _sample(float(at), 10.0 * at, running=5.0))
    assert history.series(_W, "running", 6.0, 1.0) == [5.0, 5.0, None, None, 5.0, 5.0]
    rates = history.series(_W, "generation_tokens_per_s", 6.0, 1.0)
    assert rates == [None, 10.0, None, None, 10.0, 10.0]
    history.gap(_W, 6.0)
    assert history.series(_W, "running", 2.0, 1.0) == [5.0, None]


def test_slow_scrapes_leave_no_hole_and_silence_does() -> None:
    history = MemoryHistory()
    for at in (0.0, 5.0, 10.0, 40.0):
        history.record(_W, _sample(at, running=at))
    assert history.series(_W, "running", 41.0, 1.0) == (
        [0.0] + [5.0] * 5 + [10.0] * 5 + [None] * 29 + [40.0]
    )


def test_what_is_kept_of_a_graph_comes_from_means_of_ten_seconds() -> None:
    history = _steady(1800)
    series = history.series(_W, "running", 900.0, 60.0)
    assert len(series) == 15
    assert series[1:-1] == [pytest.approx(4.5)] * 13


def test_a_gap_outlives_the_thinning() -> None:
    history = MemoryHistory()
    for at in range(900):
        if 100 <= at < 200:
            history.gap(_W, float(at))
        else:
            history.record(_W, _sample(float(at), running=1.0))
    series = history.series(_W, "running", 900.0, 50.0)
    assert series == [1.0, 1.0, None, None] + [1.0] * 14


def test_a_metric_that_is_no_series_is_the_users_mistake() -> None:
    with pytest.raises(InvalidInput, match="no series 'nonsense'; there are running, waiting"):
        MemoryHistory().series(_W, "nonsense", 60.0, 1.0)


def test_a_forgotten_subject_is_gone() -> None:
    history = _steady(5)
    history.forget(_W)
    assert history.latest(_W) is None
    assert all(value is None for name in SERIES for value in history.series(_W, name, 5.0, 1.0))
