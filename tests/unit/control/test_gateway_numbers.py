"""The gateway's counts on their way into the history, and questions to them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.unit.gateway.fleet_of_two import FakeGateway
from tests.unit.gateway.test_measures import request
from tests.unit.history.past import EPOCH, Past
from vllm_console.answer import Answer
from vllm_console.control.gateway_numbers import GatewayNumbers
from vllm_console.control.openmetrics import openmetrics
from vllm_console.errors import InvalidInput, NotFound
from vllm_console.gateway.measures import Record
from vllm_console.gateway.stats import KEYS, ROUND, Stats
from vllm_console.history.asking import question
from vllm_console.history.ingest import Taken
from vllm_console.history.questions import answer
from vllm_console.history.subjects import Known
from vllm_console.history.when import iso
from vllm_console.telemetry.sample import Sample

KNOWN = Known(models={"qwen": ("q",)}, targets={"qwen": {"ttft": 0.3}}, alive=True)


def served(ttft_s: float = 0.2, **more: Any) -> Record:
    """A request that was streamed for a second after its first token."""
    return request(ttft_s=ttft_s, e2e_s=ttft_s + 1.0, **more)


class FakeStore:
    """Keeps what is recorded until the second is over."""

    def __init__(self) -> None:
        self.taken: list[Taken] = []

    def record(self, subject: str, sample: Sample) -> None:
        self.taken.append(Taken(subject, sample))

    def begin(self, subject: str, sample: Sample) -> None:
        self.taken.append(Taken(subject, sample, opening=True))


class Running:
    """A gateway, a daemon and a history, second by second; each may be replaced at any time."""

    def __init__(self, past: Past) -> None:
        self.past = past
        self.past.at = 1000.0
        self.recorded = 0
        self.restart_gateway()
        self.restart_daemon(keep_file=True)

    def restart_gateway(self) -> None:
        self.gateway = FakeGateway(now=self.past.at)
        self.stats = Stats(
            self.gateway, version="1", now=self.past.at, started_at=EPOCH + self.past.at
        )

    def restart_daemon(self, *, keep_file: bool = False) -> None:
        if not keep_file:
            self.past.restart()
        self.store = FakeStore()
        self.numbers = GatewayNumbers(self.store, lambda: self.past.at)  # type: ignore[arg-type]

    def seconds(self, count: int, *over: Record, heard: bool = True) -> None:
        for _ in range(count):
            self.past.at += 1.0
            for record in over:
                self.gateway.measures.record(record)
            message = msgspec.json.decode(msgspec.json.encode(self.stats.tick(self.past.at)))
            if heard:
                self.numbers.take(message)
            self.recorded += len(self.store.taken)
            self.past.tick(*self.store.taken)
            self.store.taken.clear()

    def settle(self) -> None:
        """Have all that is counted heard."""
        self.seconds(2 * ROUND)

    def ask(self, subject: str, *metrics: str, since: float = 1000.0, **asked: Any) -> Answer:
        now = EPOCH + self.past.at
        span = {"since": iso(EPOCH + since), "until": iso(now)}
        asked = span | {"metrics": metrics} | asked
        return answer(self.past.reader(), question(subject, now=now, **asked), KNOWN, now)

    def one(self, subject: str, metric: str, value: str, **asked: Any) -> float | None:
        (measured,) = self.ask(subject, metric, **asked).measured
        return measured.figure.values[value]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    past = Past(tmp_path)
    yield Running(past)
    past.close()


@pytest.mark.parametrize(
    ("asked", "subject"),
    [
        ("gateway", "gateway"),
        ("gateway/qwen", "gateway/model/qwen"),
        ("gateway/q", "gateway/model/qwen"),
        ("gateway/alice", "gateway/key/alice"),
        ("gateway/key/alice", "gateway/key/alice"),
    ],
)
def test_every_request_is_found_by_model_and_by_key(
    running: Running, asked: str, subject: str
) -> None:
    running.seconds(16, request(), served(0.4))
    running.settle()
    found = running.ask(asked)
    assert found.subject == subject
    values = {measured.metric: measured.figure.values for measured in found.measured}
    assert list(values) == ["requests", "generation_tokens", "queue", "ttft", "tpot", "e2e"]
    assert values["requests"]["count"] == 32
    assert values["generation_tokens"]["count"] == 352
    assert values["ttft"]["p50"] == pytest.approx(0.2, rel=0.01)
    assert values["ttft"]["p99"] == pytest.approx(0.4, rel=0.01)


def test_percentiles_of_any_span_are_within_one_percent(running: Running) -> None:
    seed = random.Random(7)
    times: list[float] = []
    for step in range(300):
        slow = 30.0 if step > 200 else 1.0
        times.append(slow * seed.lognormvariate(-1.0, 1.5))
        running.seconds(1, served(times[-1]))
    running.settle()
    (found,) = running.ask("gateway/qwen", "ttft", quantiles="10,50,90,99").measured
    assert found.figure.count == 300
    assert found.figure.between is None
    for percent in (10, 50, 90, 99):
        exact = sorted(times)[math.ceil(percent / 100 * 300) - 1]
        assert found.figure.values[f"p{percent}"] == pytest.approx(exact, rel=0.0101)


def test_a_wider_range_loses_nothing_of_what_came_before(running: Running) -> None:
    running.seconds(10, served(0.1))
    running.seconds(10, served(25.0))
    running.seconds(10, served(0.0004))
    running.settle()
    (found,) = running.ask("gateway/qwen", "ttft", quantiles="10,50,90").measured
    assert found.figure.count == 30
    assert found.figure.values["p10"] == pytest.approx(0.0004, rel=0.01)
    assert found.figure.values["p50"] == pytest.approx(0.1, rel=0.01)
    assert found.figure.values["p90"] == pytest.approx(25.0, rel=0.01)
    (early,) = running.ask("gateway/qwen", "ttft", until=iso(EPOCH + 1016)).measured
    assert 16 - ROUND <= (early.figure.count or 0) <= 16


def test_a_new_gateway_counts_on_from_what_the_old_one_counted(running: Running) -> None:
    running.seconds(16, request())
    running.settle()
    running.restart_gateway()
    running.seconds(16, served(3.0))
    running.settle()
    assert running.one("gateway/qwen", "requests", "count") == 32
    assert running.one("gateway", "ttft", "p99") == pytest.approx(3.0, rel=0.01)
    assert running.one("gateway/alice", "ttft", "p50") == pytest.approx(0.2, rel=0.01)


def test_a_new_daemon_goes_on_where_the_old_one_was(running: Running) -> None:
    running.seconds(16, request())
    running.seconds(10, served(3.0), heard=False)
    running.restart_daemon()
    running.seconds(10, request())
    running.settle()
    assert running.one("gateway/qwen", "requests", "count") == 36
    assert running.one("gateway", "ttft", "p99") == pytest.approx(3.0, rel=0.01)


def test_a_daemon_that_is_new_soon_after_the_gateway_counts_nothing_twice(
    running: Running,
) -> None:
    running.seconds(6, request())
    running.restart_daemon()
    running.seconds(2, request(), request(key="bob"))
    running.settle()
    assert running.one("gateway/qwen", "requests", "count") == 10
    assert running.one("gateway/bob", "requests", "count") == 2


def test_both_may_be_new(running: Running) -> None:
    running.seconds(16, request())
    running.settle()
    running.restart_daemon()
    running.restart_gateway()
    running.seconds(16, served(0.004))
    running.settle()
    assert running.one("gateway/qwen", "requests", "count") == 32
    assert running.one("gateway/qwen", "ttft", "p99") == pytest.approx(0.2, rel=0.01)


def test_a_key_that_comes_later_is_counted_from_its_first_request(running: Running) -> None:
    running.seconds(21, request())
    running.seconds(5, request(key="bob"))
    running.settle()
    assert running.one("gateway/bob", "requests", "count") == 5


def test_a_key_that_moves_up_among_many_brings_no_requests_of_before(running: Running) -> None:
    keys = [request(key=f"key-{number}") for number in range(KEYS)]
    running.seconds(11, *keys, *keys)
    running.seconds(5, request(key="late"))
    running.seconds(5, *[request(key="late")] * 40)
    running.seconds(2 * ROUND)
    before = running.one("gateway/key/late", "requests", "count")
    assert before in (None, 0.0)
    running.seconds(5, request(key="late"))
    running.settle()
    assert running.one("gateway/key/late", "requests", "count") == 5


def test_how_requests_ended_is_told(running: Running) -> None:
    gone = request(status=499, error="disconnect")
    broken = request(status=200, error="worker-died")
    running.seconds(11, request(), gone, broken, request(status=429, error="rate_limit"))
    running.settle()
    assert running.one("gateway/qwen", "errors", "count") == 11
    assert running.one("gateway/qwen", "aborts", "count") == 11
    assert running.one("gateway/qwen", "requests:refused", "count") == 11
    (found,) = running.ask("gateway/qwen", "finish_reasons").measured
    assert found.figure.values["stop"] == 11


def test_parts_are_told_by_model_and_by_key(running: Running) -> None:
    running.seconds(11, request(), request(key="bob", model="llama"))
    running.settle()
    for by, names in (("model", ["llama", "qwen"]), ("key", ["alice", "bob"])):
        found = running.ask("gateway", "requests", by=by).measured
        assert sorted(m.part for m in found if m.part is not None) == names
        assert [m.figure.values["count"] for m in found] == [22, 11, 11]
    with pytest.raises(InvalidInput, match="by key: is of the gateway, not of model/qwen"):
        running.ask("qwen", "requests", by="key")
    with pytest.raises(InvalidInput, match="by worker: is of a model or fleet"):
        running.ask("gateway/qwen", "requests", by="worker")


def test_targets_are_held_against_what_clients_waited(running: Running) -> None:
    running.seconds(11, served(0.2), served(0.5))
    for subject in ("gateway/qwen", "gateway"):
        share = running.one(subject, "slo:ttft", "share")
        assert share == pytest.approx(0.5)


def test_an_unknown_name_is_answered_by_the_nearest(running: Running) -> None:
    with pytest.raises(NotFound, match="it has served no request yet"):
        running.ask("gateway/qwem", since=0.0)
    running.seconds(6, request())
    with pytest.raises(NotFound, match='did you mean "gateway/qwen"'):
        running.ask("gateway/qwem")


def test_a_quiet_gateway_costs_little_and_is_seen(running: Running) -> None:
    running.seconds(6, request())
    before = running.recorded
    running.seconds(60)
    assert running.recorded - before <= 3 * 7
    running.seconds(60)
    (found,) = running.ask("gateway/qwen", "requests").measured
    assert found.figure.coverage > 0.9


def test_what_is_packed_into_the_file_goes_on_with_wider_bounds_too(running: Running) -> None:
    running.seconds(300, served(0.1))
    running.seconds(300, served(25.0))
    running.seconds(300, served(0.0004))
    running.settle()
    now = EPOCH + running.past.at
    asked = question(
        "gateway/qwen", metrics=["ttft"], quantiles="10,50,90", since=iso(EPOCH + 1000), now=now
    )
    assert running.past.chunks()[1] > 0
    for reader in (running.past.reader(), running.past.alone()):
        (found,) = answer(reader, asked, KNOWN, now).measured
        assert found.figure.count == 900
        assert found.figure.values["p10"] == pytest.approx(0.0004, rel=0.01)
        assert found.figure.values["p50"] == pytest.approx(0.1, rel=0.01)
        assert found.figure.values["p90"] == pytest.approx(25.0, rel=0.01)


def test_the_past_is_exported_under_names_of_its_own(running: Running) -> None:
    running.seconds(11, request())
    running.settle()
    reader = running.past.reader()
    since, until = EPOCH + 1000, EPOCH + running.past.at + 1
    text = "".join(openmetrics(reader, reader.subjects(), since, until, 1.0))
    assert 'vllm_console_gateway_model_ttft_seconds_count{model="qwen"} 11 ' in text
    assert 'vllm_console_gateway_key_requests_finished_total{key="alice"' in text
    assert "vllm_console_gateway_generation_tokens_total{} 121 " in text


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"counted": None, "started_at": 1.0, "uptime_s": 1.0},
        {"counted": {"total": {"counters": {"a": "b"}}}, "started_at": 1.0, "uptime_s": 1.0},
        {
            "counted": {"total": {"histograms": {"ttft_s": {"buckets": [[99999, 1]]}}}},
            "started_at": 1.0,
            "uptime_s": 1.0,
        },
        {"counted": {"total": {}}, "started_at": None, "uptime_s": 1.0},
    ],
)
def test_what_is_no_count_changes_nothing(running: Running, message: dict[str, Any]) -> None:
    running.numbers.take(json.loads(json.dumps(message)))
    assert running.store.taken == []
