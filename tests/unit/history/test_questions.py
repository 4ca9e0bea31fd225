"""Answers of the stored past against brute force over the raw samples."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.history.past import EPOCH, Past, sample
from tests.unit.history.test_reading import histogram_quantile
from vllm_console.answer import Answer, Figure, Measured
from vllm_console.errors import InvalidInput, NotFound
from vllm_console.history.asking import question
from vllm_console.history.questions import answer
from vllm_console.history.records import Revision, add_revisions
from vllm_console.history.subjects import Known
from vllm_console.history.when import iso
from vllm_console.telemetry.sample import Histogram, Sample

BOUNDS = tuple(0.01 * 1.25**index for index in range(30))
PERCENTS = (1.0, 50.0, 90.0, 99.9)
KNOWN = Known(
    models={"m": ("alias",), "n": ()}, targets={"m": {"ttft": 0.3}}, gpus={0: "GPU-1"}, alive=True
)


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    past = Past(tmp_path)
    yield past
    past.close()


def ask(past: Past, subject: str, since: float, until: float, **asked: Any) -> Answer:
    """The answer at the end of the past, of a span in seconds of its clock."""
    now = EPOCH + past.at
    asked = {"since": iso(EPOCH + since), "until": iso(EPOCH + until), **asked}
    return answer(past.reader(), question(subject, now=now, **asked), KNOWN, now)


def only(found: Answer) -> Measured:
    (measured,) = found.measured
    return measured


def figure(past: Past, metric: str, since: float, until: float, **asked: Any) -> Figure:
    return only(
        ask(past, asked.pop("subject", "m"), since, until, metrics=[metric], **asked)
    ).figure


# -- the oracle ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Raw:
    """What one scrape said: which process, and what it had counted since its start."""

    at: float
    process: int
    counts: tuple[int, ...]


def counted(raws: Sequence[Raw], since: float, until: float) -> list[int]:
    """Events a bucket between the scrapes around a span, added up from scrape to scrape."""
    inside = [raw for raw in raws if raw.at <= until]
    before = [raw for raw in inside if raw.at <= since]
    if before and since - before[-1].at <= 15.0:
        inside = inside[len(before) - 1 :]
    else:
        inside = inside[len(before) :]
    total = [0] * (len(BOUNDS) + 1)
    for old, new in pairwise(inside):
        for index, count in enumerate(new.counts):
            total[index] += count - old.counts[index] * (old.process == new.process)
    return total


def stream(past: Past, seed: int, seconds: int) -> list[Raw]:
    """Requests of a model with one worker that restarts, is missed, and changes daemons."""
    chance = random.Random(seed)
    process, counts, missing, raws = 1, [0] * (len(BOUNDS) + 1), 0, list[Raw]()
    for _ in range(seconds):
        past.at += 1
        for _ in range(chance.randrange(4)):
            value = chance.lognormvariate(-1.5, 1.0)
            counts[sum(bound < value for bound in BOUNDS)] += 1
        dice = chance.random()
        if dice < 0.01:
            process, counts = process + 1, [0] * len(counts)
        elif dice < 0.02:
            past.restart()
        elif dice < 0.03:
            missing = chance.randrange(1, 40)
        missing -= 1
        if missing < 0:
            raws.append(Raw(past.at, process, tuple(counts)))
            cumulative = [float(sum(counts[: index + 1])) for index in range(len(counts))]
            ttft = Histogram(BOUNDS, tuple(cumulative), float(sum(counts)))
            counters = {"requests_finished": cumulative[-1]}
            gauges = {"process_start_time": float(process)}
            past.tick(("worker/m-1", Sample(past.at, counters, gauges, {"ttft_s": ttft})))
    return raws


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    spans=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 400)), min_size=1, max_size=8),
)
def test_any_span_is_what_brute_force_finds(seed: int, spans: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        past = Past(Path(directory))
        raws = stream(past, seed, 400)
        past.at += 400
        for since, length in spans:
            until = since + length
            counts = counted(raws, since, until)
            cumulative = [sum(counts[: index + 1]) for index in range(len(counts))]
            found = ask(
                past, "m-1", since, until, metrics=["ttft", "requests"],
                quantiles=",".join(map(str, PERCENTS)),
            )  # fmt: skip
            ttft, requests = (measured.figure for measured in found.measured)
            assert (ttft.count or 0) == cumulative[-1]
            assert (requests.values["count"] or 0) == cumulative[-1]
            for percent in PERCENTS:
                value = ttft.values[f"p{percent:g}"]
                if cumulative[-1] == 0:
                    assert value is None
                    continue
                expected = histogram_quantile(percent / 100, BOUNDS, cumulative)
                assert value == pytest.approx(expected, rel=1e-9)
        past.close()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1 << 30), step=st.sampled_from([1, 7, 10, 30, 60, 100]))
def test_each_step_is_what_brute_force_finds(seed: int, step: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        past = Past(Path(directory))
        raws = stream(past, seed, 300)
        found = ask(past, "m-1", 25, 295, metrics=["ttft"], step=f"{step}s", quantiles="95")
        measured = only(found)
        assert len(found.starts) == len(measured.steps) == -(-270 // step)
        for index, each in enumerate(measured.steps):
            since = 25 + index * step
            counts = counted(raws, since, min(295, since + step))
            assert (each.count or 0) == sum(counts)
        past.close()


# -- forms of metrics ------------------------------------------------------------------------


def test_rates_counts_and_parts_are_those_of_the_span(past: Past) -> None:
    for _ in range(300):
        past.at += 1
        counters = {
            "requests_finished": 3 * past.at,
            "requests_finished:stop": 2 * past.at,
            "requests_finished:abort": past.at,
        }
        past.tick(("model/m", Sample(past.at, counters)))
    assert figure(past, "requests", 100, 200) == Figure(
        {"per_s": 3.0, "count": 300.0}, 300, coverage=1.0
    )
    assert figure(past, "aborts", 100, 200).values == {"per_s": 1.0, "count": 100.0}
    assert figure(past, "finish_reasons", 100, 200).values == {"abort": 100.0, "stop": 200.0}
    assert figure(past, "errors", 100, 200).values == {"per_s": None, "count": None}


def test_a_ratio_is_of_what_was_counted_in_the_span(past: Past) -> None:
    for _ in range(200):
        past.at += 1
        hits = max(0.0, past.at - 100)
        counters = {"prefix_cache_queries": 2 * past.at, "prefix_cache_hits": hits}
        past.tick(("model/m", Sample(past.at, counters)))
    assert figure(past, "prefix_cache_hit_rate", 100, 200).values == {"share": 0.5}
    assert figure(past, "prefix_cache_hit_rate", 1, 100).values == {"share": 0.0}
    assert figure(past, "mm_cache_hit_rate", 1, 100).values == {"share": None}


def test_gauges_have_a_mean_and_a_peak(past: Past) -> None:
    past.run(100, subject="model/m")
    assert figure(past, "running", 20, 40).values == {"mean": 4.5, "max": 9.0}
    steps = only(ask(past, "m", 20, 50, metrics=["running"], step="20s")).steps
    assert [step.values["mean"] for step in steps] == [4.5, 4.5]


def test_the_figures_of_a_gpu(past: Past) -> None:
    for _ in range(60):
        past.at += 1
        gauges = {"utilization": 0.5, "memory_used_bytes": 7e9}
        past.tick(("gpu/GPU-1", Sample(past.at, gauges=gauges)))
    found = ask(past, "0", 10, 50)
    assert found.subject == "gpu/GPU-1"
    values = {measured.metric: measured.figure.values["mean"] for measured in found.measured}
    assert values == {"utilization": 0.5, "memory": 7e9, "power": None, "temperature": None}
    with pytest.raises(InvalidInput, match="ttft: is not of a GPU; of one there are utilization"):
        ask(past, "0", 10, 50, metrics=["ttft"])
    with pytest.raises(InvalidInput, match='power: is of a GPU; ask for it by its index, "gpu/0"'):
        ask(past, "m", 10, 50, metrics=["power"])
    with pytest.raises(InvalidInput, match="by worker: is of a model or fleet, not of gpu/GPU-1"):
        ask(past, "0", 10, 50, by="worker")


def test_the_share_within_a_target_is_of_the_bucket_that_holds_it(past: Past) -> None:
    past.run(200, rate=5, subject="model/m")  # one token a second in each of the five buckets
    found = figure(past, "slo", 100, 200)
    assert found.values["share"] == pytest.approx(2 / 5 + 1 / 5 * (0.3 - 0.2) / (0.5 - 0.2))
    assert found.values["missed"] == pytest.approx(500 * (3 / 5 - 1 / 15))
    assert found.between == {"share": (0.4, 0.6)}
    assert found.count == 500
    at_a_bound = figure(past, "slo:ttft:200ms", 100, 200)
    assert (at_a_bound.values["share"], at_a_bound.between) == (0.4, None)
    beyond = figure(past, "slo:ttft:9s", 100, 200)
    assert (beyond.values["share"], beyond.between) == (0.8, {"share": (0.8, 1.0)})
    measured = only(ask(past, "alias", 100, 200, metrics=["slo"]))
    assert (measured.metric, measured.target) == ("slo:ttft", 0.3)


def test_the_targets_of_the_fleet_are_those_of_each_model(past: Past) -> None:
    for _ in range(100):
        past.at += 1
        each = sample(past.at, 5 * past.at)
        past.tick(("model/m", each), ("model/n", each), ("fleet", each))
    found = only(ask(past, "fleet", 20, 100, metrics=["slo"]))
    assert found.figure.count == 400  # of m alone: n has no target
    assert figure(past, "slo:ttft:200ms", 20, 100, subject="fleet").values["share"] == 0.4
    with pytest.raises(InvalidInput, match=r"slo:itl: fleet\.toml sets no such target for model/m"):
        ask(past, "m", 20, 100, metrics=["slo:itl"])
    with pytest.raises(InvalidInput, match=r"slo: .* as \"slo:ttft:300ms\", or set ttft_p95"):
        ask(past, "n", 20, 100, metrics=["slo"])


def test_few_events_make_thin_percentiles_and_wide_buckets_brackets(past: Past) -> None:
    past.run(100, rate=1, subject="model/m")
    found = figure(past, "ttft", 50, 100, quantiles="50,95,99")
    assert found.count == 50
    assert found.thin == ("p95", "p99")
    assert found.between == {"p50": (0.2, 0.5), "p95": (1.0, None), "p99": (1.0, None)}


@pytest.mark.parametrize("fine_first", [False, True])
def test_counts_of_different_buckets_add_up_at_the_bounds_they_share(
    past: Past, fine_first: bool
) -> None:
    for _ in range(200):
        past.at += 1
        later = past.at > 97
        fine = later is not fine_first
        bounds = (0.1, 0.15, 0.2, 0.5, 1.0) if fine else (0.1, 0.2, 0.5, 1.0)
        size = len(bounds) + 1
        tokens = 2 * size * (past.at - 97 * later)
        past.tick(("worker/m-1", sample(past.at, tokens, started=1 + later, bounds=bounds)))
    found = figure(past, "ttft", 20, 200, subject="m-1", quantiles="30")
    # what was counted around the moment of the change is lost: no two rows there have one layout
    each_second = (12, 10) if fine_first else (10, 12)
    whole = each_second[0] * 77 + each_second[1] * 103
    assert whole - 12 * 15 <= (found.count or 0) <= whole
    seconds = (77, 102) if fine_first else (102, 77)  # with fine buckets, and with coarse
    below = (
        2 * sum(seconds),
        6 * seconds[0] + 4 * seconds[1],
    )  # up to 0.1 and 0.2, which both have
    expected = 0.1 + 0.1 * (0.3 * whole - below[0]) / (below[1] - below[0])
    assert found.values["p30"] == pytest.approx(expected, rel=0.02)


def test_how_much_of_a_span_was_observed_is_told(past: Past) -> None:
    past.run(100, subject="model/m")
    past.at += 300
    past.run(100, subject="model/m")
    assert figure(past, "requests", 0, 500).coverage == pytest.approx(198 / 500)
    assert figure(past, "ttft", 150, 350) == Figure(dict.fromkeys(("p50", "p95", "p99")))
    steps = only(ask(past, "m", 0, 500, metrics=["ttft"], step="100s")).steps
    assert [round(step.coverage, 1) for step in steps] == [1.0, 0, 0, 0, 1.0]


# -- parts, comparison, events -----------------------------------------------------------------


def events(past: Past, *told: tuple[float, str, str, str]) -> None:
    """Put events of (second, level, subject, text) into the file."""
    past.connection.executemany(
        "INSERT INTO events (at, level, subject, text) VALUES (?, ?, ?, ?)",
        [(iso(EPOCH + at), *rest) for at, *rest in told],
    )


def test_workers_and_models_are_told_apart(past: Past) -> None:
    for _ in range(100):
        past.at += 1
        each = {f"worker/m-{n}": sample(past.at, n * past.at) for n in (1, 2)}
        past.tick(*each.items(), ("model/m", sample(past.at, 3 * past.at)))
        past.tick(("fleet", sample(past.at, 3 * past.at)))
    found = ask(past, "m", 50, 100, metrics=["generation_tokens"], by="worker", step="25s")
    rates = {each.part: each.figure.values["per_s"] for each in found.measured}
    assert rates == {None: 3.0, "m-1": 1.0, "m-2": 2.0}
    assert all(len(each.steps) == 2 for each in found.measured)
    found = ask(past, "fleet", 50, 100, metrics=["generation_tokens"], by="model")
    assert [each.part for each in found.measured] == [None, "m"]
    with pytest.raises(InvalidInput, match="by model: is of the fleet or gateway, not of model/m"):
        ask(past, "m", 50, 100, by="model")
    with pytest.raises(InvalidInput, match="by revision: is of a model or worker, not of fleet"):
        ask(past, "fleet", 50, 100, by="revision")


def test_a_revision_is_told_by_the_time_in_which_it_served(past: Past) -> None:
    for _ in range(400):
        past.at += 1
        done = past.at + 4 * max(0, past.at - 200) - 4 * max(0, past.at - 300)
        past.tick(("model/m", sample(past.at, done, running=past.at // 100)))
    seen = [Revision(n, f"f{n}", iso(EPOCH + at), {}) for n, at in ((1, 1), (2, 190), (3, 320))]
    past.connection.execute("BEGIN IMMEDIATE")
    add_revisions(past.connection, {"m": seen})
    past.connection.execute("COMMIT")
    events(
        past,
        (200, "ok", "m", "revision 2 serves"),
        (300, "ok", "m", "revision 1 serves"),
        (340, "crit", "m", "revision 3 did not become ready (boom); revision 1 serves"),
    )
    found = ask(past, "m", 100, 400, metrics=["ttft", "generation_tokens", "running"],
                by="revision", step="100s")  # fmt: skip
    counts = {each.part: each.figure.count for each in found.measured[:3]}
    assert counts == {None: 700, "revision 1": 200, "revision 2": 500}
    rates = {each.part: each.figure.values["per_s"] for each in found.measured[3:6]}
    assert rates == {None: 700 / 300, "revision 1": 1.0, "revision 2": 5.0}
    assert [step.count for step in found.measured[1].steps] == [100, None, 100]
    assert [each.figure.coverage for each in found.measured[:3]] == [1.0, 1.0, 1.0]
    means = {each.part: each.figure.values["mean"] for each in found.measured[6:]}
    assert means["revision 2"] == pytest.approx(2.01)
    assert means["revision 1"] == pytest.approx((1.01 + 3.01) / 2)


def test_the_span_before_is_compared(past: Past) -> None:
    past.run(100, rate=2, subject="model/m", requests_finished=0.0)
    for _ in range(100):
        past.at += 1
        done = 200 + 3 * (past.at - 100)
        past.tick(("model/m", sample(past.at, done, requests_finished=0.0)))
    metrics = ["generation_tokens", "requests", "slo", "ttft"]
    found = ask(past, "m", 100, 200, metrics=metrics, compare="previous")
    tokens, requests, slo, ttft = found.measured
    assert tokens.before is not None
    assert tokens.change is not None
    assert tokens.before.values == {"per_s": 2.0, "count": 198.0}
    assert tokens.change["per_s"].absolute == 1.0
    assert tokens.change["per_s"].percent == pytest.approx(50.0)
    assert requests.change is not None
    assert requests.change["per_s"].percent is None  # of nothing there is no share
    assert slo.change is not None
    assert slo.change["share"].absolute == pytest.approx(0.0, abs=0.01)
    assert ttft.figure.between is not None
    assert ttft.change == {}  # percentiles that are not known to a point are not compared


def test_marks_are_what_explains_the_numbers_of_the_subject(past: Past) -> None:
    past.run(100, subject="model/m")
    events(
        past,
        (10, "info", "fleet", "daemon 0.1.0 started"),
        (20, "info", "m-1", "starting"),
        (30, "ok", "m-1", "ready in 10.0 s"),
        (40, "ok", "n-1", "ready in 10.0 s"),
        (50, "ok", "m", "revision 2 serves"),
        (60, "warn", "m-1", "ended, engine-died: boom; again in 1 s"),
        (70, "info", "m-1", "stopped"),
        (80, "info", "m", "load asked for by ada"),
        (200, "ok", "m-1", "ready"),
    )
    kinds = [(mark.kind, mark.subject) for mark in ask(past, "m", 15, 100).marks]
    assert kinds == [("start", "m-1"), ("revision", "m"), ("fault", "m-1"), ("stop", "m-1")]
    kinds = [(mark.kind, mark.subject) for mark in ask(past, "fleet", 1, 45).marks]
    assert kinds == [("daemon", "fleet"), ("start", "m-1"), ("start", "n-1")]


def test_availability_is_told_for_each_step_and_revision(past: Past) -> None:
    past.run(100, subject="model/m")
    events(
        past,
        (0, "info", "fleet", "daemon 0.1.0 started"),
        (10, "info", "m-1", "starting"),
        (20, "ok", "m-1", "ready in 10.0 s"),
        (60, "crit", "m-1", "failed, out-of-memory: boom"),
    )
    found = only(ask(past, "m", 0, 100, metrics=["availability"], step="20s"))
    assert found.figure.values["available"] == pytest.approx(0.4)
    assert found.figure.values["workers"] == pytest.approx(40 / 90)
    assert [s.values["available"] for s in found.steps] == [0, 1, 1, 0, 0]
    assert found.figure.coverage == 1


def test_an_unknown_subject_and_one_without_a_past(past: Past) -> None:
    past.run(50, subject="model/m")
    with pytest.raises(NotFound, match='nothing is known of "x"; there are m, n, fleet'):
        ask(past, "x", 0, 50)
    found = ask(past, "n", 0, 50)
    assert all(not each.figure.coverage for each in found.measured)
    assert all(v is None for each in found.measured for v in each.figure.values.values())
