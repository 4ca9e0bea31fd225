"""A model's cumulative sample: workers come, restart and go, and nothing jumps."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_console.history.memory import MemoryHistory
from vllm_console.history.resets import Unbroken
from vllm_console.history.totals import Totals as OfUnbroken
from vllm_console.telemetry.sample import Histogram, Sample


class Totals(OfUnbroken):
    """Totals of workers that restart: each one's samples are corrected, as a history does."""

    def __init__(self, **options: float) -> None:
        super().__init__(**options)
        self._unbroken: dict[str, Unbroken] = {}

    def add(self, worker_id: str, sample: Sample) -> None:
        super().add(worker_id, self._unbroken.setdefault(worker_id, Unbroken()).add(sample))


def _sample(
    at: float,
    tokens: float,
    *,
    start: float = 1.0,
    running: float = 1.0,
    bounds: tuple[float, ...] = (1.0, 2.0),
) -> Sample:
    counts = (0.0,) * (len(bounds) - 1) + (tokens, tokens)
    return Sample(
        at,
        {"generation_tokens": tokens},
        {"running": running, "kv_cache_usage": running / 10, "process_start_time": start},
        {"ttft_s": Histogram(bounds, counts, 0.0)},
    )


def _tokens(totals: Totals, at: float) -> float:
    sample = totals.sample(at)
    assert sample is not None
    assert sample.histograms["ttft_s"].count == sample.counters["generation_tokens"]
    return sample.counters["generation_tokens"]


def test_nobody_is_no_sample() -> None:
    assert Totals().sample(0.0) is None


def test_a_worker_counts_from_its_first_sample_on() -> None:
    totals = Totals()
    totals.add("a", _sample(0.0, 1_000_000.0))
    assert _tokens(totals, 0.0) == 0
    totals.add("a", _sample(1.0, 1_000_010.0))
    assert _tokens(totals, 1.0) == 10
    totals.add("b", _sample(2.0, 5_000.0))
    assert _tokens(totals, 2.0) == 10
    totals.add("b", _sample(3.0, 5_007.0))
    assert _tokens(totals, 3.0) == 17


def test_what_a_worker_counted_stays_when_it_leaves() -> None:
    totals = Totals()
    for at, tokens in ((0.0, 0.0), (1.0, 50.0)):
        totals.add("a", _sample(at, tokens))
        totals.add("b", _sample(at, tokens))
    totals.leave("a")
    totals.leave("nobody")
    assert _tokens(totals, 1.0) == 100
    sample = totals.sample(1.0)
    assert sample is not None
    assert sample.gauges["running"] == 1


def test_a_restart_takes_nothing_away() -> None:
    totals = Totals()
    for at, tokens, start in (
        (0.0, 0.0, 1.0),
        (1.0, 50.0, 1.0),
        (2.0, 60.0, 2.0),
        (3.0, 65.0, 2.0),
    ):
        totals.add("a", _sample(at, tokens, start=start))
    assert _tokens(totals, 3.0) == 115


def test_engines_that_come_and_go_add_what_was_counted_while_they_were_there() -> None:
    totals = Totals()
    two = {"0": {"generation_tokens": 1.0}, "1": {"generation_tokens": 1.0}}
    for at, tokens, engines in (
        (0.0, 100.0, {}),
        (1.0, 110.0, {}),
        (2.0, 900.0, two),
        (3.0, 905.0, two),
        (4.0, 120.0, {}),
        (5.0, 121.0, {}),
    ):
        totals.add("a", replace(_sample(at, tokens), engines=engines))
    assert _tokens(totals, 5.0) == 10 + 5 + 1


def test_gauges_are_those_of_fresh_workers() -> None:
    totals = Totals(fresh_s=10.0)
    totals.add("a", _sample(0.0, 0.0, running=4.0))
    totals.add("b", _sample(8.0, 0.0, running=2.0))
    both, one = totals.sample(9.0), totals.sample(15.0)
    assert both is not None
    assert one is not None
    assert both.gauges == {"running": 6.0, "kv_cache_usage": pytest.approx(0.3)}
    assert one.gauges == {"running": 2.0, "kv_cache_usage": pytest.approx(0.2)}
    assert one.at == 15.0
    assert totals.sample(30.0) is None


def test_the_buckets_are_those_that_most_fresh_workers_have() -> None:
    totals = Totals()
    for at in (0.0, 1.0):
        totals.add("a", _sample(at, 10.0 * at))
        totals.add("b", _sample(at, 1.0 * at, bounds=(0.5, 1.0, 2.0)))
        totals.add("c", _sample(at, 1.0 * at, bounds=(0.5, 1.0, 2.0)))
    sample = totals.sample(1.0)
    assert sample is not None
    assert sample.histograms["ttft_s"].bounds == (0.5, 1.0, 2.0)
    assert sample.histograms["ttft_s"].count == 2


def test_a_series_that_appears_later_counts_in_full() -> None:
    totals = Totals()
    totals.add("a", Sample(0.0, {"requests_finished": 5.0}))
    totals.add("a", Sample(1.0, {"requests_finished": 8.0, "requests_finished:abort": 3.0}))
    sample = totals.sample(1.0)
    assert sample is not None
    assert sample.counters == {"requests_finished": 3.0, "requests_finished:abort": 3.0}


def test_in_a_history_a_restart_of_the_only_worker_is_no_restart_of_the_model() -> None:
    totals, history = Totals(), MemoryHistory()
    for at, tokens, start in ((0.0, 7.0, 1.0), (1.0, 17.0, 1.0), (2.0, 4.0, 2.0)):
        totals.add("a", _sample(at, tokens, start=start))
        sample = totals.sample(at)
        assert sample is not None
        history.record("model/m", sample)
    window = history.window("model/m", 2.0)
    assert window is not None
    assert window.delta("generation_tokens") == 14


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["scrape", "scrape", "scrape", "restart", "leave"]),
        st.integers(0, 100),
    ),
    max_size=40,
)


@given(steps=_STEPS)
def test_totals_are_what_members_counted_while_they_were_members(
    steps: list[tuple[str, str, int]],
) -> None:
    """The oracle keeps one number: tokens made by a member after its first sample."""
    totals = Totals(fresh_s=1e9)
    counts = {"a": 1000, "b": 2000, "c": 3000}
    starts = dict.fromkeys(counts, 0)
    members: set[str] = set()
    truth = 0
    seen = [0.0]
    for at, (worker, what, made) in enumerate(steps):
        if what == "leave":
            totals.leave(worker)
            members.discard(worker)
            continue
        if what == "restart":
            counts[worker], starts[worker] = 0, at + 1
        counts[worker] += made
        totals.add(worker, _sample(at, counts[worker], start=starts[worker]))
        truth += made if worker in members else 0
        members.add(worker)
        seen.append(_tokens(totals, at))
        assert seen[-1] == truth
    assert all(a <= b for a, b in pairwise(seen))
