"""The stored past as OpenMetrics, read back by prometheus_client's strict parser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample as Read

from tests.unit.history.past import EPOCH, Past, sample
from vllm_console.control.openmetrics import openmetrics
from vllm_console.telemetry.sample import Sample


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    past = Past(tmp_path)
    for _ in range(30):
        past.at += 1
        tokens = sample(past.at, 5 * past.at, running=2.0)
        finished = {"requests_finished": past.at, "requests_finished:stop": past.at}
        each = replace(tokens, counters=finished)
        gpu = Sample(past.at, gauges={"utilization": 0.5, "power_w": 300.0})
        past.tick(("worker/a-1", each), ("model/a", each), ("fleet", each), ("gpu/GPU-1", gpu))
    yield past
    past.close()


def read(past: Past, *subjects: str, step: float = 1.0) -> dict[str, list[Read]]:
    """The samples of each family, of the second half of the past.

    Histograms are left out where there are several rows: of a histogram's second moment this
    parser keeps one line only (it takes the others for repeats), and then misses them.
    """
    lines = openmetrics(past.reader(), subjects, EPOCH + 16, EPOCH + 31, step)
    text = "".join(line for line in lines if step >= 100 or "ttft" not in line)
    families = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    return {family.name: family.samples for family in families}


def times(found: list[Read]) -> list[float]:
    return [float(str(sample.timestamp)) for sample in found]


def test_every_subject_has_its_own_names_and_labels(past: Past) -> None:
    found = read(past, "fleet", "gpu/GPU-1", "model/a", "worker/a-1")
    (labels,) = {tuple(s.labels.items()) for s in found["vllm_console_worker_running"]}
    assert labels == (("model", "a"), ("worker", "a-1"))
    assert found["vllm_console_fleet_running"][0].labels == {}
    assert found["vllm_console_gpu_power_watts"][0].labels == {"uuid": "GPU-1"}
    finished = found["vllm_console_model_requests_finished"]
    assert {s.name for s in finished} == {"vllm_console_model_requests_finished_total"}
    assert {s.labels["finished_reason"] for s in finished} == {"stop"}
    assert [s.value for s in finished] == [float(second) for second in range(16, 31)]


def test_times_are_those_of_the_rows(past: Past) -> None:
    found = read(past, "model/a")["vllm_console_model_running"]
    assert times(found) == [EPOCH + second for second in range(16, 31)]
    found = read(past, "model/a", step=10)["vllm_console_model_running"]
    assert times(found) == [EPOCH + 20, EPOCH + 30]


def test_a_histogram_is_cumulative_and_ends_in_its_count(past: Past) -> None:
    found = read(past, "model/a", step=100)["vllm_console_model_ttft_seconds"]
    assert [(s.labels.get("le"), s.value) for s in found] == [
        ("0.1", 30), ("0.2", 60), ("0.5", 90), ("1.0", 120), ("+Inf", 150), (None, 150),
        (None, 37.5),
    ]  # fmt: skip
    lines = list(openmetrics(past.reader(), ["model/a"], EPOCH + 16, EPOCH + 31, 1.0))
    inside = 'vllm_console_model_ttft_seconds_bucket{model="a",le="+Inf"}'
    assert f"{inside} 150 {EPOCH + 30:.3f}\n" in lines


def test_names_are_those_of_the_daemons_own_metrics(past: Past) -> None:
    from vllm_console.control.exposition import wire_name
    from vllm_console.telemetry.names import METRICS

    known = {wire_name(metric).removesuffix("_total") for metric in METRICS}
    assert {*read(past, "model/a", step=100)} <= known


def test_nothing_is_still_a_whole_file(past: Past) -> None:
    assert list(openmetrics(past.reader(), [], EPOCH, EPOCH + 31, 1.0)) == ["# EOF\n"]
