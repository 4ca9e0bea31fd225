"""The gateway's /metrics, read back by Prometheus' own parser."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.gateway.fleet_of_two import FakeGateway
from tests.unit.gateway.test_measures import request
from vllm_console.gateway.exposition import BOUNDS, exposition
from vllm_console.gateway.stats import Stats

Found = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(gateway: FakeGateway, now: float = 10.0) -> Found:
    """Every sample of the text, by name and labels in order."""
    stats = Stats(gateway, version="1.2.3", now=0.0, started_at=1e9)
    text = exposition(gateway, stats, now).decode()
    found: Found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def value(found: Found, name: str, **labels: str) -> float:
    return found["vllm_console_gateway_" + name, tuple(sorted(labels.items()))]


def test_a_gateway_without_requests_is_there() -> None:
    found = read(FakeGateway())
    assert value(found, "build_info", version="1.2.3", fleet="lab") == 1
    assert value(found, "start_time_seconds") == 1e9
    assert value(found, "table_version") == 7
    assert value(found, "table_age_seconds") == 10
    assert value(found, "link_up") == 0
    assert value(found, "in_flight", model="qwen") == 0
    assert value(found, "capacity", model="qwen") == 1
    assert value(found, "waiting", **{"model": "qwen", "class": "low"}) == 0
    assert value(found, "refused_total", model="llama", reason="full") == 0
    assert value(found, "worker_ejected", model="qwen", worker="qwen-1") == 0


def test_requests_and_tokens_add_up_over_classes() -> None:
    gateway = FakeGateway()
    for cls in (0, 1, 2):
        gateway.measures.record(request(cls=cls, retries=1, gpu_s=0.5, cost=0.125))
    gateway.measures.record(request(status=499, error="disconnect"))
    found = read(gateway)
    assert value(found, "requests_total", model="qwen", key="alice", code="200") == 3
    assert value(found, "requests_total", model="qwen", key="alice", code="499") == 1
    assert value(found, "tokens_total", model="qwen", key="alice", kind="cached") == 16
    assert value(found, "gpu_seconds_total", model="qwen", key="alice") == 1.5
    assert value(found, "cost_total", model="qwen", key="alice") == 0.375
    assert value(found, "retries_total", model="qwen") == 3


def test_a_histogram_counts_what_is_at_or_below_each_bound() -> None:
    gateway = FakeGateway()
    times = (0.004, 0.2, 0.21, 90.0, 1000.0)
    for seconds in times:
        gateway.measures.record(request(ttft_s=0.001, e2e_s=seconds))
    found = read(gateway)
    for bound in BOUNDS:
        counted = value(found, "request_seconds_bucket", model="qwen", le=f"{bound:.4g}")
        assert counted == sum(seconds <= bound for seconds in times)
    assert value(found, "request_seconds_bucket", model="qwen", le="+Inf") == 5
    assert value(found, "request_seconds_count", model="qwen") == 5
    assert value(found, "request_seconds_sum", model="qwen") == pytest.approx(sum(times))


@pytest.mark.parametrize("name", ['say "hi"', "back\\slash", "two\nlines", "späti"])
def test_any_name_is_read_back_as_it_was(name: str) -> None:
    gateway = FakeGateway()
    gateway.measures.record(request(key=name))
    labels: dict[str, Any] = {"model": "qwen", "key": name, "code": "200"}
    assert value(read(gateway), "requests_total", **labels) == 1


def test_bounds_are_a_handful_from_a_millisecond_to_minutes() -> None:
    assert BOUNDS[0] == pytest.approx(0.001)
    assert BOUNDS[4] == pytest.approx(0.01)
    assert 300 < BOUNDS[-1] < 320
    assert len(BOUNDS) == 23
