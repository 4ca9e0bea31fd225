"""The daemon's own /metrics, read back by prometheus_client."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from vllm_console.control.exposition import exposition, wire_name
from vllm_console.snapshot import Alert, Daemon, Gpu, Model, Snapshot, Worker
from vllm_console.telemetry.names import METRICS
from vllm_console.telemetry.sample import Histogram, Sample

FLEET = Snapshot(
    at="2026-11-21T00:00:00Z",
    fleet='a "quoted" fleet',
    daemon=Daemon(True, 1, "0.1.0", 2.5),
    models=(
        Model(
            name="qwen",
            source="Qwen/Qwen3-32B",
            revision=3,
            state="ready",
            wanted=2,
            ready=1,
            workers=(
                Worker("qwen-1", "ready", restarts=2, stale_s=0.4),
                Worker("qwen-2", "backoff"),
            ),
        ),
    ),
    gpus=(Gpu("box", 0, "GPU-1", "H100", 0.5, 10, 20, fault="fallen off the bus"),),
    alerts=(Alert("warn", "fleet", "x"),),
)
TOTALS = {
    "qwen": Sample(
        1.0,
        counters={
            "generation_tokens": 123456789012.0,
            "requests_finished": 3.0,
            "requests_finished:stop": 2.0,
            "requests_finished:length": 1.0,
        },
        gauges={
            "waiting_for:capacity": 2.0,
            "running": 3.0,
            "kv_cache_usage": 0.25,
            "process_start_time": 5.0,
        },
        histograms={"ttft_s": Histogram((0.001, 0.1234567), (1.0, 3.0, 4.0), 7.5)},
    )
}


def read(text: bytes) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def values(family: Metric) -> dict[tuple[str, ...], float]:
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


def test_every_value_reads_back_as_it_is() -> None:
    got = read(exposition(FLEET, TOTALS, started_at=1_700_000_000.5))
    assert values(got["vllm_console_build_info"]) == {("0.1.0", 'a "quoted" fleet'): 1.0}
    assert values(got["vllm_console_start_time_seconds"]) == {(): 1_700_000_000.5}
    assert values(got["vllm_console_alerts"]) == {("warn",): 1.0, ("crit",): 0.0}
    assert values(got["vllm_console_model_workers_wanted"]) == {("qwen",): 2.0}
    assert values(got["vllm_console_model_workers_ready"]) == {("qwen",): 1.0}
    assert values(got["vllm_console_model_generation_tokens"]) == {("qwen",): 123456789012.0}
    assert values(got["vllm_console_model_requests_finished"]) == {
        ("qwen", "stop"): 2.0,
        ("qwen", "length"): 1.0,
    }
    assert values(got["vllm_console_model_kv_cache_usage_ratio"]) == {("qwen",): 0.25}
    assert values(got["vllm_console_model_waiting_for"]) == {("qwen", "capacity"): 2.0}
    assert values(got["vllm_console_gpu_faulty"]) == {("box", "0", "GPU-1", "H100"): 1.0}


def test_a_worker_is_in_one_state() -> None:
    states = values(read(exposition(FLEET, {}))["vllm_console_worker_state"])
    assert {key for key, value in states.items() if value} == {
        ("qwen", "qwen-1", "ready"),
        ("qwen", "qwen-2", "backoff"),
    }


def test_what_is_not_known_is_absent() -> None:
    got = read(exposition(FLEET, {}))
    assert values(got["vllm_console_worker_stale_seconds"]) == {("qwen", "qwen-1"): 0.4}
    assert not any("power" in sample.name for f in got.values() for sample in f.samples)
    assert "vllm_console_model_ttft_seconds" not in got


def test_a_histogram_keeps_its_bounds_apart() -> None:
    family = read(exposition(FLEET, TOTALS))["vllm_console_model_ttft_seconds"]
    buckets = {s.labels["le"]: s.value for s in family.samples if s.name.endswith("_bucket")}
    assert buckets == {"0.001": 1.0, "0.1234567": 3.0, "+Inf": 4.0}
    assert [s.value for s in family.samples if s.name.endswith("_sum")] == [7.5]


@pytest.mark.parametrize("shipped", ["grafana.json", "rules.yml"])
def test_what_ships_for_grafana_and_prometheus_names_metrics_that_are_there(shipped: str) -> None:
    text = (files("vllm_console.control") / "monitoring" / shipped).read_text()
    named = set(re.findall(r"vllm_console_\w+", text))
    told = set(re.findall(r"^# TYPE (\w+)", exposition(FLEET, {}).decode(), re.MULTILINE))
    known = told | {wire_name(metric) for metric in METRICS}
    assert named
    assert {name.removesuffix("_bucket") for name in named} <= known


def test_no_two_metrics_share_a_name() -> None:
    names = [wire_name(metric) for metric in METRICS]
    assert len(set(names)) == len(names)
