"""The blocks of the panel ⁴scaling as text, in every state they can be in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.ui.scripted import GIB, LabFleet, played
from vllm_console.snapshot import (
    Autoscale,
    Daemon,
    GpuProcess,
    Health,
    Latency,
    Load,
    Quantiles,
    Scale,
    Snapshot,
)
from vllm_console.ui.blocks import BLOCKS
from vllm_console.ui.blocks.cluster import free_gpus, load_of
from vllm_console.ui.rows import text_of
from vllm_console.ui.view import View

SNAPSHOT, TRENDS = played(LabFleet(fourth="failed"), 3)
QWEN = SNAPSHOT.models[1]
BARE = Snapshot(at="2026-11-20T12:04:31+00:00", fleet="bare", daemon=Daemon(True))


def drawn(
    block: str,
    width: int = 35,
    height: int = 9,
    snapshot: Snapshot | None = SNAPSHOT,
    selected: str | None = "model/qwen3-32b",
    lost: str | None = None,
) -> str:
    view = View(snapshot, TRENDS, selected, lost=lost)
    return text_of(BLOCKS[block].draw(view, width, height))


def asked(block: str, width: int, height: int, snapshot: Snapshot) -> int:
    ask = BLOCKS[block].ask
    assert ask is not None
    return ask(View(snapshot, TRENDS, None), width, height)


def test_the_cluster_tells_nodes_load_workers_and_free_gpus() -> None:
    assert (
        drawn("cluster")
        == """\
cluster          lab-a-1 · 64 cores
nodes 1/1 active  load          82%
workers   2 of 5  GPU free   3 of 8
host CPU     40%  host mem      41%"""
    )


def test_a_cluster_of_which_nothing_is_known_invents_nothing() -> None:
    lines = drawn("cluster", snapshot=BARE).splitlines()
    assert lines[0] == "cluster"
    assert lines[1].split() == ["nodes", "0/1", "active", "load", "–"]
    assert lines[2].split() == ["workers", "0", "of", "0", "GPU", "free", "–"]
    assert len(lines) == 3


def test_a_gpu_is_free_when_it_answers_and_nobody_is_on_it_or_has_it() -> None:
    assert [gpu.index for gpu in free_gpus(SNAPSHOT)] == [4, 6, 7]
    four, six = SNAPSHOT.gpus[4], SNAPSHOT.gpus[6]
    gpus = (
        replace(four, processes=(GpuProcess(77),)),
        replace(six, fault="fallen off the bus"),
        SNAPSHOT.gpus[7],
    )
    assert [gpu.index for gpu in free_gpus(replace(SNAPSHOT, gpus=gpus))] == [7]


def test_load_is_of_the_slots_of_workers_that_tell_both() -> None:
    one = replace(QWEN, ready=2, load=replace(QWEN.load, running=200, waiting=56))
    silent = replace(QWEN, name="other", load=Load())
    assert load_of(replace(SNAPSHOT, models=(one, silent))) == 0.5
    assert load_of(replace(SNAPSHOT, models=(silent,))) is None


def test_the_fleets_requests_and_percentiles() -> None:
    lines = drawn("service").splitlines()
    assert lines[0] == "req/s 7.30        p50    p95    p99"
    assert lines[1] == "TTFT    ms        148    311    503"
    assert [line.split()[0] for line in lines] == ["req/s", "TTFT", "ITL", "E2E"]
    assert drawn("service", 60).startswith("requests 7.30 /s ")
    nothing = drawn("service", snapshot=replace(SNAPSHOT, load=Load()))
    assert nothing.count("–") == 10
    assert drawn("service", snapshot=BARE) == ""
    assert asked("service", 35, 40, BARE) == 0


def test_a_thin_percentile_of_the_fleet_is_dim() -> None:
    few = Quantiles(0.1, 0.2, 0.3, 20, thin=("p95", "p99"))
    load = Load(requests_per_s=0.4, latency=Latency(60.0, ttft_s=few))
    rows = BLOCKS["service"].draw(View(replace(SNAPSHOT, load=load), TRENDS, None), 35, 4)
    assert [ink for _, ink in rows[1][2:]] == ["text", "dim", "dim"]


def test_health_tells_the_worst_alert_and_what_happened_in_a_day() -> None:
    assert (
        drawn("health")
        == """\
health                   ✖ 3 alerts
daemon up 25.8 h  errors          2
restarts       1  recoveries      1
adopted        3  in the last 24 h"""
    )
    warned = replace(SNAPSHOT, alerts=SNAPSHOT.alerts[:1])
    assert drawn("health", snapshot=warned).splitlines()[0].endswith("▲ 1 alert")
    assert (
        drawn("health", snapshot=replace(SNAPSHOT, alerts=())).splitlines()[0].endswith("● healthy")
    )
    assert drawn("health", lost="nobody answers").splitlines()[0].endswith("▲ no daemon")


def test_the_past_is_not_called_healthy_for_want_of_alerts() -> None:
    past = View(replace(SNAPSHOT, alerts=()), TRENDS, None, past=True)
    assert text_of(BLOCKS["health"].draw(past, 35, 1)).split() == ["health", "–"]


def test_health_that_nobody_counted_is_unknown_and_none_is_not_amber() -> None:
    assert drawn("health", snapshot=BARE).count("–") == 5
    calm = replace(SNAPSHOT, health=Health(errors=0, restarts=0, recoveries=0, adopted=0))
    inks = {ink for row in BLOCKS["health"].draw(View(calm), 35, 4)[1:] for _, ink in row}
    assert "warn!" not in inks


def test_autoscale_tells_the_cold_start_even_while_it_is_off() -> None:
    text = drawn("autoscale", selected="model/llama-70b")
    assert text.splitlines()[0].split() == ["autoscale", "off"]
    assert "cold start                 2.35 min" in text
    unknown = replace(QWEN, scale=Scale(0, 1), autoscale=Autoscale())
    assert drawn("autoscale", snapshot=replace(SNAPSHOT, models=(unknown,))).endswith("–")


def test_autoscale_with_a_target_says_that_nothing_acts_on_it_yet() -> None:
    lines = drawn("autoscale").splitlines()
    assert lines[2].split() == ["target", "64", "cold", "start", "94.2", "s"]
    assert lines[3] == "this version does not act on it"


def test_autoscale_tells_what_is_wanted_why_and_when_it_decides_next() -> None:
    told = Autoscale(3, "31 waiting > 16 for 30 s", 12.0, 94.0)
    snapshot = replace(SNAPSHOT, models=(replace(QWEN, autoscale=told),))
    lines = drawn("autoscale", snapshot=snapshot).splitlines()
    assert lines[3].split() == ["wanted", "3", "next", "12", "s"]
    assert lines[4] == "31 waiting > 16 for 30 s"


def test_wide_pools_have_target_and_cold_start() -> None:
    lines = drawn("pools", 56, 5).splitlines()
    assert lines[0].split() == ["pools", "ready", "load", "range", "target", "cold"]
    assert lines[1].split()[-3:] == ["–", "2.35", "min"]
    assert lines[2].split()[-3:] == ["64", "94.2", "s"]
    assert lines[4].split()[-2:] == ["–", "–"]


def held(throttle: str | None) -> Snapshot:
    one, two, *_ = SNAPSHOT.gpus
    first = (GpuProcess(51_000, 60 * GIB, "llama-70b-1", "VLLM::Worker_TP"),)
    return replace(SNAPSHOT, gpus=(replace(one, processes=first, throttle=throttle), two))


def test_a_gpu_that_is_held_down_says_what_holds_it_where_there_is_room() -> None:
    lines = drawn("devices", snapshot=held("power cap")).splitlines()
    assert lines[1].endswith("▾606")
    assert lines[2] == "   ▾ held down: power cap"
    assert lines[3].split() == ["llama-70b-1", "60.0"]
    low = drawn("devices", height=3, snapshot=held("power cap")).splitlines()
    assert [line.split()[0] for line in low] == ["GPUs", "0", "1"]
    assert low[1].endswith("▾606")
    assert "▾" not in drawn("devices", snapshot=held(None))


def test_a_wide_row_counts_the_processes_of_a_gpu() -> None:
    lines = drawn("devices", 50, 3, held(None)).splitlines()
    assert lines[0].split()[-1] == "proc"
    assert [line.split()[-1] for line in lines[1:]] == ["1", "–"]
    assert drawn("devices", 50).splitlines()[5].split()[-1] == "0"


def test_more_than_eight_gpus_are_a_row_a_node_unless_there_is_room() -> None:
    sixteen = LabFleet(models=64, gpus=16).at(140)
    assert asked("devices", 35, 40, sixteen) == 3
    assert asked("devices", 35, 60, sixteen) == 17
    lines = drawn("devices", height=3, snapshot=sixteen).splitlines()
    assert [line.split()[0] for line in lines] == ["nodes", "lab-a-1", "lab-a-2"]


@pytest.mark.parametrize("block", ["cluster", "service", "health", "autoscale", "pools", "devices"])
@pytest.mark.parametrize("width", [35, 47, 80])
def test_no_row_is_wider_than_the_block(block: str, width: int) -> None:
    for snapshot in (SNAPSHOT, LabFleet(models=64, gpus=64).at(140), BARE):
        for line in drawn(block, width, 12, snapshot).splitlines():
            assert len(line) <= width


@pytest.mark.parametrize("block", ["cluster", "service", "health", "autoscale"])
def test_without_a_snapshot_a_block_is_empty(block: str) -> None:
    assert drawn(block, snapshot=None) == ""
