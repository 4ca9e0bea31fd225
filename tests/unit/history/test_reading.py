"""Windows, charts and gauges of the stored past, against plain arithmetic."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from tests.unit.history.past import EPOCH, Past, sample
from vllm_console.history.codec import NotAChunk
from vllm_console.history.reading import Reader
from vllm_console.telemetry.sample import Histogram, Sample

_W = "worker/w"
_TOKENS = "generation_tokens"


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    past = Past(tmp_path)
    yield past
    past.close()


def histogram_quantile(q: float, bounds: Sequence[float], counts: Sequence[float]) -> float:
    """Prometheus' answer (promql/quantile.go, bucketQuantile), for buckets cumulative over le."""
    buckets = [*zip(bounds, counts, strict=False), (math.inf, counts[-1])]
    rank = q * buckets[-1][1]
    index = next(i for i, (_, count) in enumerate(buckets[:-1] + buckets[-1:]) if count >= rank)
    if index == len(buckets) - 1:
        return buckets[-2][0]
    if index == 0 and buckets[0][0] <= 0:
        return buckets[0][0]
    start = buckets[index - 1][0] if index else 0.0
    end, count = buckets[index]
    if index:
        count -= buckets[index - 1][1]
        rank -= buckets[index - 1][1]
    return start + (end - start) * (rank / count)


def test_percentiles_of_any_window_are_those_of_prometheus(past: Past) -> None:
    chance = random.Random(7)
    bounds = tuple(0.01 * 1.25**index for index in range(30))
    counts = [0] * (len(bounds) + 1)
    at_each = [[0.0] * len(counts)]
    for _ in range(900):
        past.at += 1
        for _ in range(chance.randrange(6)):
            value = chance.lognormvariate(-1.5, 1.0)
            counts[sum(bound < value for bound in bounds)] += 1
        running = 0
        cumulative = [float(running := running + count) for count in counts]
        at_each.append(cumulative)
        ttft = Histogram(bounds, tuple(cumulative), 1.0)
        past.tick((_W, Sample(past.at, {}, {}, {"ttft_s": ttft})))
    reader = past.reader()
    for since, until in ((1, 900), (100, 160), (840, 900), (33, 877)):
        window = reader.window(_W, EPOCH + since, EPOCH + until)
        assert window is not None
        found = window.quantiles("ttft_s")
        counts_then = [b - a for a, b in zip(at_each[since], at_each[until], strict=True)]
        expected = [histogram_quantile(q, bounds, counts_then) for q in (0.5, 0.95, 0.99)]
        assert [found.p50, found.p95, found.p99] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("step", [1.0, 5.0, 10.0, 15.0, 60.0, 300.0])
def test_the_steps_of_a_chart_are_its_windows(past: Past, step: float) -> None:
    past.run(1800)
    reader = past.reader()
    steps = reader.steps(_W, EPOCH + 600, EPOCH + 1800, step)
    assert len(steps) == 1200 / step
    edges = [600 + step * index for index in range(len(steps) + 1)]
    for (since, until), found in zip(pairwise(edges), steps, strict=True):
        alone = reader.window(_W, EPOCH + since, EPOCH + until)
        assert found is not None
        assert alone is not None
        assert found.delta(_TOKENS) == alone.delta(_TOKENS) == 3 * step
        assert found.quantiles("ttft_s") == alone.quantiles("ttft_s")


def test_a_step_can_look_farther_back_than_it_is_long(past: Past) -> None:
    past.run(100)
    steps = past.reader().steps(_W, EPOCH + 50, EPOCH + 100, 1.0, span=30.0)
    assert [step and step.seconds for step in steps] == [30.0] * 50


def test_a_moment_just_before_a_row_has_the_row_before_it(past: Past) -> None:
    times = []
    for second in range(600):
        past.at = second + second * 37 % 100 / 1000
        past.tick((_W, sample(past.at, 3 * second)))
        times.append(past.at)
    reader = past.reader()
    for earlier, later in pairwise(times[1:]):
        window = reader.window(_W, EPOCH, EPOCH + later - 0.001)
        assert window is not None
        assert window.new.at == pytest.approx(EPOCH + earlier, abs=1e-4)


def test_a_gap_is_none_and_what_it_held_is_in_no_step(past: Past) -> None:
    past.run(100)
    past.at += 200
    past.run(100)
    steps = past.reader().steps(_W, EPOCH + 50, EPOCH + 350, 10.0)
    assert [step is None for step in steps] == [False] * 5 + [True] * 20 + [False] * 5
    assert steps[25] is not None
    assert steps[25].delta(_TOKENS) == 27  # from the first sample after the gap
    assert all(step.delta(_TOKENS) == 30 for step in steps[:5] + steps[26:] if step)


def test_nothing_is_known_of_who_was_never_seen(past: Past) -> None:
    past.run(3)
    reader = past.reader()
    assert reader.window("worker/x", EPOCH, EPOCH + 3) is None
    assert reader.steps("worker/x", EPOCH, EPOCH + 3, 1.0) == [None] * 3
    assert reader.gauges("worker/x", "running", EPOCH, EPOCH + 3, 1.0) == [None] * 3
    assert reader.gauges(_W, "waiting", EPOCH, EPOCH + 3, 3.0) == [None]
    assert reader.window(_W, EPOCH - 100, EPOCH - 50) is None
    assert reader.window(_W, EPOCH + 2, EPOCH + 2) is None


@pytest.mark.parametrize("length", [1800, 8400])
def test_a_gauge_has_a_mean_and_a_peak_over_any_span(past: Past, length: int) -> None:
    for second in range(length):
        past.at += 1
        value = 50.0 if second % 600 == 300 else 2.0
        past.tick((_W, sample(past.at, past.at, running=value)))
    reader = past.reader()
    begin = EPOCH + length - 1200
    (whole,) = reader.gauges(_W, "running", begin, begin + 1200, 1200)
    assert whole is not None
    assert whole.mean == pytest.approx(2 + 2 * 48 / 1200, rel=0.02)
    assert whole.max == 50
    each = reader.gauges(_W, "running", begin, begin + 1200, 300)
    assert [gauge and gauge.max for gauge in each] == [2.0, 50.0, 2.0, 50.0]


def test_a_gauge_keeps_its_peak_in_coarse_rows(past: Past) -> None:
    for second in range(4000):
        past.at += 1
        past.tick((_W, sample(past.at, past.at, running=9.0 if second == 745 else 1.0)))
    for _ in range(60):  # two days and more, so that only coarse rows are left of the first hour
        past.at += 3600
        past.tick((_W, sample(past.at, past.at, running=1.0)))
    assert past.chunks()[2] > 0
    reader = past.reader()
    (gauge,) = reader.gauges(_W, "running", EPOCH, EPOCH + 3600, 3600)
    assert gauge is not None
    assert gauge.max == 9
    assert gauge.mean == pytest.approx(1 + 8 / 3600, rel=0.05)


def test_chunks_are_opened_again_when_the_cache_is_small(past: Past) -> None:
    past.run(1000)
    small = Reader(past.ingest, past.connection, cache_bytes=1)
    large = past.reader()
    for since in (10, 300, 10, 600):
        a, b = (r.window(_W, EPOCH + since, EPOCH + 990) for r in (small, large))
        assert a is not None
        assert b is not None
        assert a.delta(_TOKENS) == b.delta(_TOKENS) == 3 * (990 - since)


def test_a_chunk_that_is_damaged_is_told(past: Past) -> None:
    past.run(400)
    past.connection.execute("UPDATE chunk SET rows = x'0102'")
    with pytest.raises(NotAChunk):
        past.reader().window(_W, EPOCH + 10, EPOCH + 400)
