"""What the gateway says of itself, second by second, on a clock that the test turns."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.unit.gateway.fleet_of_two import FakeGateway
from tests.unit.gateway.test_measures import request
from vllm_console.gateway.admission import LOW, NORMAL, Waiting
from vllm_console.gateway.stats import KEYS, ROUND, Stats


class Clocked:
    """A gateway and its numbers, one second after another."""

    def __init__(self) -> None:
        self.now = 100.0
        self.gateway = FakeGateway(now=self.now)
        self.stats = Stats(self.gateway, version="1.2.3", now=self.now, started_at=1e9)

    def seconds(self, count: int, *served: Any) -> dict[str, Any]:
        """So many ticks, each after these requests; the last message."""
        message: dict[str, Any] = {}
        for _ in range(count):
            self.now += 1.0
            for record in served:
                self.gateway.measures.record(record)
            message = self.stats.tick(self.now)
        return message


def model(message: dict[str, Any], name: str = "qwen") -> dict[str, Any]:
    (found,) = (each for each in message["models"] if each["name"] == name)
    return dict(found)


def latency(clocked: Clocked) -> dict[str, Any]:
    """The model's times as GET /stats has them."""
    return dict(model(clocked.stats.picture(clocked.now + 0.5))["latency"])


def test_before_the_first_request_nothing_is_known_and_all_is_zero() -> None:
    message = Clocked().seconds(1)
    assert message["schema"] == "vllm-console/gateway-stats/1"
    assert message["fleet"] == "lab"
    assert message["table_version"] == 7
    assert message["uptime_s"] == 1.0
    assert message["total"]["requests"] == 0
    assert message["total"]["requests_per_s"] == 0
    assert model(message)["latency"]["ttft_s"] == {
        "p50": None,
        "p95": None,
        "p99": None,
        "count": 0,
    }


def test_rates_are_of_five_seconds() -> None:
    clocked = Clocked()
    message = clocked.seconds(20, request(), request())
    assert model(message)["requests_per_s"] == pytest.approx(2.0)
    assert model(message)["generation_tokens_per_s"] == pytest.approx(22.0)
    assert message["total"]["requests_per_s"] == pytest.approx(2.0)
    assert model(clocked.seconds(6))["requests_per_s"] == 0


def test_percentiles_forget_what_is_older_than_a_minute() -> None:
    clocked = Clocked()
    clocked.seconds(30, request(ttft_s=4.0, e2e_s=5.0))
    assert latency(clocked)["ttft_s"]["p50"] == pytest.approx(4.0, rel=0.01)
    clocked.seconds(30, request(ttft_s=0.1))
    assert latency(clocked)["ttft_s"]["p99"] == pytest.approx(4.0, rel=0.01)
    clocked.seconds(40, request(ttft_s=0.1))
    found = latency(clocked)
    assert found["ttft_s"]["p99"] == pytest.approx(0.1, rel=0.01)
    assert 60 <= found["window_s"] <= 65.5
    assert 60 <= found["ttft_s"]["count"] <= 66
    clocked.seconds(70)
    assert latency(clocked)["ttft_s"]["count"] == 0


def test_who_runs_and_who_waits_is_shown_by_class() -> None:
    clocked = Clocked()
    queue = clocked.gateway.models["qwen"].queue
    assert queue.enter(NORMAL, clocked.now)
    slot = clocked.gateway.models["qwen"].balance.pick(0, 0, clocked.now)
    assert slot is not None
    slot.begin(10.0, clocked.now)
    for cls in (LOW, NORMAL):
        assert not queue.enter(cls, clocked.now)
        assert queue.wait(Waiting(cls, 100, clocked.now, list, lambda reason: None)) is None
    assert queue.wait(Waiting(LOW, 100, clocked.now, list, lambda reason: None)) == "full"
    message = clocked.seconds(3)
    shown = model(message)
    assert shown["in_flight"] == shown["capacity"] == 1
    assert shown["waiting"] == {"high": 0, "normal": 1, "low": 1}
    assert shown["waiting_bytes"] == 200
    assert shown["oldest_s"] == pytest.approx(3.0)
    assert shown["refused"]["full"] == 1
    assert message["total"]["waiting"] == {"high": 0, "normal": 1, "low": 1}
    assert message["total"]["oldest_s"] == pytest.approx(3.0)
    workers = {worker["id"]: worker for worker in message["workers"]}
    assert workers["qwen-1"] == {
        "id": "qwen-1", "model": "qwen", "revision": 1, "in_flight": 1,
        "draining": False, "ejected": False,
    }  # fmt: skip
    assert workers["qwen-2"]["draining"]


def test_what_names_no_model_counts_for_the_whole_alone() -> None:
    clocked = Clocked()
    message = clocked.seconds(1, request(model="", key="", worker="", status=404, error="x"))
    assert message["total"]["requests"] == 1
    assert sum(each["requests"] for each in message["models"]) == 0
    assert message["counted"]["total"]["counters"]["requests_finished:refused"] == 1
    sent = [message, *(clocked.seconds(1) for _ in range(ROUND))]
    assert all(each["counted"]["models"] == each["counted"]["keys"] == {} for each in sent)


def test_everything_for_the_history_is_sent_once_a_round() -> None:
    clocked = Clocked()
    clocked.seconds(1, request(), request(model="llama", key="bob"), request(key="carol"))
    sent = [clocked.seconds(1)["counted"] for _ in range(2 * ROUND)]
    for part, names in (("models", {"qwen", "llama"}), ("keys", {"alice", "bob", "carol"})):
        assert sorted(name for each in sent for name in each[part]) == sorted([*names, *names])
        turns = [index for index, each in enumerate(sent) for name in each[part]]
        assert {turn + ROUND for turn in turns if turn < ROUND} <= set(turns)
    assert sum("total" in each for each in sent) == 2


def test_counts_for_the_history_are_cumulative_and_fine() -> None:
    clocked = Clocked()
    clocked.seconds(6, request())
    sent = [clocked.seconds(1)["counted"] for _ in range(ROUND)]
    (total,) = (each["total"] for each in sent if "total" in each)
    (of_model,) = (each["models"]["qwen"] for each in sent if each["models"])
    (of_key,) = (each["keys"]["alice"] for each in sent if each["keys"])
    for part in (total, of_model, of_key):
        assert part["counters"] == {
            "requests_finished": 6,
            "requests_finished:stop": 6,
            "prompt_tokens": 60,
            "prompt_tokens_cached": 24,
            "generation_tokens": 66,
        }
        assert [count for _, count in part["histograms"]["ttft_s"]["buckets"]] == [6]
        assert part["histograms"]["e2e_s"]["sum"] == pytest.approx(7.2)
    assert of_model["gauges"] == total["gauges"] == {"running": 0, "waiting": 0}


def test_of_many_keys_the_most_used_are_kept() -> None:
    clocked = Clocked()
    for number in range(KEYS + 20):
        for _ in range(1 + number // 10):
            clocked.gateway.measures.record(request(key=f"key-{number}"))
    sent = [clocked.seconds(1)["counted"]["keys"] for _ in range(ROUND)]
    keys = {name for each in sent for name in each}
    assert len(keys) == sum(map(len, sent)) == KEYS
    assert f"key-{KEYS + 19}" in keys
    assert "key-0" not in keys


def test_no_second_has_all_the_percentiles_to_work_out() -> None:
    clocked = Clocked()
    clocked.seconds(3, request())
    for _ in range(ROUND):
        shown = model(clocked.seconds(1))["latency"]["e2e_s"]["count"]
        assert 0 < shown <= 3
    clocked.seconds(1, request())
    counts = {model(clocked.seconds(1))["latency"]["e2e_s"]["count"] for _ in range(ROUND)}
    assert max(counts) == 4


def test_a_picture_is_json_and_is_given_again_for_a_moment() -> None:
    clocked = Clocked()
    clocked.seconds(3, request())
    picture = clocked.stats.picture(clocked.now)
    assert json.loads(msgspec.json.encode(picture))["models"][0]["requests"] == 3
    clocked.gateway.measures.record(request())
    assert clocked.stats.picture(clocked.now + 0.1) is picture
    assert clocked.stats.picture(clocked.now + 0.3)["total"]["requests"] == 4


def test_the_age_of_the_table_is_since_it_changed() -> None:
    clocked = Clocked()
    assert clocked.seconds(9)["table_age_s"] == 9.0
    clocked.gateway.table = msgspec.structs.replace(clocked.gateway.table, version=8)
    assert clocked.seconds(1)["table_age_s"] == 0.0
    assert clocked.seconds(2)["table_age_s"] == 2.0
