"""Every block as text, in every state it can be in."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import UTC

import pytest

from tests.ui.scripted import GIB, LabFleet, played
from vllm_console.snapshot import (
    Alert,
    Canary,
    Daemon,
    Efficiency,
    Engine,
    GpuProcess,
    Latency,
    Load,
    Memory,
    Model,
    Quantiles,
    Scale,
    Snapshot,
    Worker,
)
from vllm_console.ui.blocks import BLOCKS, alert_line, events, fleet_line, worker, worker_line
from vllm_console.ui.blocks.key_line import Notice, rows
from vllm_console.ui.panels import load_panels
from vllm_console.ui.percentile import percentile
from vllm_console.ui.rows import length, text_of
from vllm_console.ui.trends import Trends
from vllm_console.ui.view import Limit, View

LIMITS = {name: limit for spec in load_panels() for name, limit in spec.limits.items()}
SNAPSHOT, TRENDS = played(LabFleet(fourth="failed"))
STOPPED, _ = played(LabFleet(), 3)


def view(selected: str | None = "model/llama-70b", snapshot: Snapshot | None = SNAPSHOT) -> View:
    return View(snapshot, TRENDS, selected, limits=LIMITS, zone=UTC)


def drawn(block: str, width: int = 35, height: int = 9, of: View | None = None) -> str:
    return text_of(BLOCKS[block].draw(of or view(), width, height))


def with_model(model: Model, snapshot: Snapshot = SNAPSHOT) -> View:
    return view(f"model/{model.name}", replace(snapshot, models=(model,)))


LLAMA = SNAPSHOT.models[0]
NOTHING = Model("empty", "a/b", 1, "ready", 1, 1, workers=(Worker("empty-1", "ready"),))
"""A model of which nothing is known."""


def test_the_model_list_with_workers_progress_and_failure() -> None:
    assert (
        drawn("models")
        == """\
  model          KV run+wait  tok/s
● llama-70b     34%    224+5  1,122
● qwen3-32b     49%   154+38    771
├ ● worker 1    49%   154+38    771
└ ◐ worker 2      compile 62%  36 s
◐ mistral-24b     weights 38%  58 s
✖ phi-4               out-of-memory"""
    )


def test_a_wide_model_list_has_more_columns() -> None:
    lines = drawn("models", 90, 4).splitlines()
    assert re.split(" +", lines[0].strip()) == [
        "model", "rev", "ready", "GPU/8", "GiB", "KV", "run+wait", "hit", "TTFT", "ms", "req/s",
        "tok/s",
    ]  # fmt: skip
    assert lines[1].split()[2:] == [
        "r3", "1/1", "0,1", "254", "34%", "224+5", "49%", "261", "3.02", "1,122",
    ]  # fmt: skip
    assert lines[3].split()[2:] == ["r3", "0/1", "3", "–", "weights", "38%", "58", "s"]


def test_a_model_with_missing_workers_is_amber_where_they_are_counted() -> None:
    rows_ = BLOCKS["models"].draw(view(), 60, 9)
    assert "warn!" not in [ink.rstrip("@") for _, ink in rows_[1]]
    assert ("    1", "warn!") in rows_[2]
    assert ("    0", "warn!") in rows_[5]


def test_the_time_left_of_a_start_is_told_only_where_earlier_starts_tell_it() -> None:
    first = replace(SNAPSHOT.models[2].workers[0], expected_s=None)
    model = replace(SNAPSHOT.models[2], workers=(first,))
    assert drawn("models", of=with_model(model)).endswith("weights 38%")
    late = replace(SNAPSHOT.models[2].workers[0], elapsed_s=99.0)
    model = replace(SNAPSHOT.models[2], workers=(late,))
    assert drawn("models", of=with_model(model)).endswith("weights 38%")


def test_the_selected_row_is_on_another_ground_and_keeps_its_state_colour() -> None:
    rows_ = BLOCKS["models"].draw(view("model/phi-4"), 35, 9)
    assert all(ink.endswith("@") for _, ink in rows_[6])
    assert rows_[6][0] == ("✖ ", "crit@")
    assert not any(ink.endswith("@") for _, ink in rows_[1])


def test_a_short_list_lets_ready_workers_go_before_what_loads_or_failed() -> None:
    lines = drawn("models", height=6).splitlines()
    assert [line.split()[1] for line in lines[1:]] == [
        "llama-70b", "qwen3-32b", "◐", "mistral-24b", "phi-4"
    ]  # fmt: skip
    assert lines[3].startswith("└ ◐ worker 2")
    assert "worker" not in drawn("models", height=5)
    chosen = drawn("models", height=6, of=view("worker/qwen3-32b-1"))
    assert "└ ● worker 1" in chosen


def test_a_long_list_scrolls_to_the_selected_row() -> None:
    snapshot, _ = played(LabFleet(models=64), 1)
    text = drawn("models", 35, 9, view("model/phi-4-16", snapshot))
    assert text.splitlines()[-1].startswith("● phi-4-16")
    assert len(text.splitlines()) == 9


def test_long_and_wide_names_are_cut_to_their_column() -> None:
    for name in ("a-model-with-a-name-that-never-ends", "模型模型模型模型模型", "emo🙂ji🙂" * 3):
        rows_ = BLOCKS["models"].draw(with_model(replace(LLAMA, name=name)), 35, 3)
        assert [length(row) for row in rows_] == [35, 35]
        assert "…" in text_of(rows_)


def test_an_empty_fleet_says_what_to_do() -> None:
    empty = replace(SNAPSHOT, models=())
    assert "no models yet" in drawn("models", of=view(None, empty))
    assert "add [models.NAME] to fleet.toml" in drawn("models", of=view(None, empty))


def test_a_filter_that_matches_nothing_says_so() -> None:
    text = drawn("models", of=replace(view(None), filter="zzz"))
    assert "nothing matches “zzz”" in text
    assert "esc clears" in text


def test_an_old_sample_stands_in_place_of_its_numbers() -> None:
    old = replace(LLAMA.workers[0], stale_s=12.4, stale_reason="timed out after 0.8 s")
    model = replace(LLAMA, workers=(old,))
    assert "▲ 12 s old" in drawn("models", of=with_model(model))
    text = drawn("config", of=with_model(model))
    assert "▲ sample 12 s old" in text
    assert "timed out after 0.8 s" in text


def test_settings_of_a_ready_model() -> None:
    assert (
        drawn("config")
        == """\
llama-70b r3      ● ready  up 3.1 d
meta-llama/Llama-3.3-70B-Instruct

TP × PP    2 × 1  GPUs          0,1
dtype       bf16  quant        none
max len   32,768  max seqs      256
step tok   8,192  block          16
prefix        on  chunked        on
spec      eagle3  mem util     0.90"""
    )


def test_settings_of_a_loading_model_show_how_far_it_is() -> None:
    lines = drawn("config", of=view("model/mistral-24b")).splitlines()
    assert lines[0].endswith("◐ weights")
    assert lines[2].endswith("38%  36 of 94 s")


def test_a_first_start_shows_only_its_elapsed_seconds() -> None:
    first = replace(SNAPSHOT.models[2].workers[0], progress=None, expected_s=None, elapsed_s=41.2)
    model = replace(SNAPSHOT.models[2], workers=(first,))
    line = drawn("config", of=with_model(model)).splitlines()[2]
    assert line.startswith("╌╌╌")
    assert line.endswith("–%  41 s")


def test_a_failed_model_shows_cause_line_and_remedy() -> None:
    assert (
        drawn("config", of=view("model/phi-4"))
        == """\
phi-4 r3                   ✖ failed
microsoft/phi-4         vLLM 0.11.2
✖ out-of-memory              exit 1
  torch.OutOfMemoryError: CUDA out
  of memory. Tried to allocate 2.50
  GiB. GPU 0 has a total capacity…
→ lower gpu_memory_utilization, or
  give it a GPU of its own: devices
  = [4]"""
    )


def test_a_stopped_model_shows_what_fleet_toml_asks_for() -> None:
    text = drawn("config", of=view("model/phi-4", STOPPED))
    assert "○ stopped" in text
    assert "max seqs      256" in text
    assert "dtype          –" in text


def test_memory_of_a_gpu_and_of_the_host() -> None:
    text = drawn("memory", height=4)
    assert text.splitlines()[0] == "GPU memory           254 of 282 GiB"
    assert text.splitlines()[2:] == [
        "■ weights     131 ■ KV used    37.7",
        "■ other      12.0 ■ KV free    72.7",
    ]
    host = replace(LLAMA, memory=replace(LLAMA.memory, device="host"))
    assert drawn("memory", of=with_model(host)).startswith("host memory")
    wide = drawn("memory", 60, 4).splitlines()
    assert wide[2] == "■ weights            131 GiB    ■ KV used           37.7 GiB"


def test_small_memory_has_its_own_unit_and_no_cell_that_it_does_not_fill() -> None:
    mib = 2**20
    tiny = Memory(
        "host", 24 * 2**30, 900 * mib, int(1.3 * mib), 300 * 1024, int(3.7 * mib), 895 * mib
    )
    rows_ = BLOCKS["memory"].draw(with_model(replace(LLAMA, memory=tiny)), 35, 4)
    assert text_of(rows_).splitlines()[0] == "host memory     900 MiB of 24.0 GiB"
    assert text_of(rows_).splitlines()[2:] == [
        "■ weights 1.3 MiB ■ KV used 0.3 MiB",
        "■ other   895 MiB ■ KV free 3.7 MiB",
    ]
    assert [(len(text), ink) for text, ink in rows_[1]] == [(1, "on dim"), (34, "on track")]


def test_memory_whose_parts_are_unknown_is_a_meter() -> None:
    model = replace(LLAMA, memory=Memory("host", 16 * 2**30, 4 * 2**30))
    lines = drawn("memory", of=with_model(model)).splitlines()
    assert lines[0] == "host memory         4.0 of 16.0 GiB"
    assert lines[1] == "━" * 35
    assert lines[2] == "■ weights       – ■ KV used       –"


def test_the_kv_cache_turns_amber_and_red_at_the_panels_limits() -> None:
    inks = []
    for usage in (0.5, 0.86, 0.97):
        model = replace(LLAMA, load=replace(LLAMA.load, kv_cache_usage=usage))
        title = BLOCKS["kv-cache"].draw(with_model(model), 35, 6)[0]
        inks.append(next(ink for text, ink in title if text == f"{usage * 100:.0f}"))
    assert inks == ["value", "warn!", "crit!"]


def test_throughput_grows_upwards_and_prompts_downwards() -> None:
    lines = drawn("throughput", 35, 10).splitlines()
    assert lines[0] == "▲ generated  1,122 tok/s  max 1.54k"
    assert lines[-1] == "▼ prompt     4,363 tok/s  max 5.02k"
    assert len(lines) == 10
    assert set("".join(lines[1:-1])) & set("⣿⣾⡿")


@pytest.mark.parametrize(
    ("selected", "why"),
    [
        ("model/mistral-24b", "no samples while loading"),
        ("model/mistral-24b", "weights · about 58 s left"),
        ("model/phi-4", "failed · enter shows the log"),
        (None, "nothing selected"),
    ],
)
def test_graphs_without_samples_say_why(selected: str | None, why: str) -> None:
    assert why in drawn("throughput", of=view(selected))
    assert why in drawn("occupancy", of=view(selected))


def test_a_stopped_model_says_which_key_loads_it() -> None:
    assert "stopped · l loads it" in drawn("throughput", of=view("model/phi-4", STOPPED))


def test_no_snapshot_yet_says_that_it_connects_or_why_it_cannot() -> None:
    assert "connecting …" in drawn("throughput", of=View())
    assert "nobody is there" in drawn("models", of=View(lost="nobody is there"))


def test_ttft_against_its_target() -> None:
    assert drawn("ttft").splitlines()[0] == "TTFT p95      261 ms  target 800 ms"
    rows_ = BLOCKS["ttft"].draw(view("model/qwen3-32b"), 35, 9)
    assert ("405", "warn!") in rows_[0]
    assert any(ink == "warn" for row in rows_[1:] for _, ink in row)


def test_latency_is_dim_where_too_few_requests_stand_behind_it() -> None:
    rows_ = BLOCKS["latency"].draw(view(), 35, 9)
    assert text_of(rows_).splitlines()[:3] == [
        "latency  60 s p50   p95   p99   SLO",
        "TTFT    ms    121   261   423   800",
        "ITL     ms   11.4  23.9  38.8    50",
    ]
    assert [ink for _, ink in rows_[1][2:]] == ["text", "value", "dim", "label"]
    assert [ink for _, ink in rows_[2][2:]] == ["text", "value", "value", "label"]
    few = replace(
        LLAMA, load=Load(latency=Latency(ttft_s=Quantiles(0.1, 0.9, 1.9, 12, thin=("p95", "p99"))))
    )
    row = BLOCKS["latency"].draw(with_model(few), 35, 9)[1]
    assert [ink for _, ink in row[2:]] == ["text", "dim", "dim", "label"]


def test_a_percentile_of_a_wide_bucket_is_drawn_as_its_sure_end() -> None:
    wide = Quantiles(
        0.02, 0.06, 0.09, 400,
        p50_between=(0.0, 0.025), p95_between=(0.05, 0.075), p99_between=(0.08, None),
    )  # fmt: skip
    model = replace(LLAMA, load=Load(latency=Latency(itl_s=wide, ttft_s=wide)))
    itl = BLOCKS["latency"].draw(with_model(model), 35, 9)[2]
    assert "".join(text for text, _ in itl) == "ITL     ms    ≤25   ≤75   >80    50"
    assert [ink for _, ink in itl[2:]] == ["text", "warn!", "crit!", "label"]
    ttft = BLOCKS["ttft"].draw(with_model(model), 60, 5)[0]
    assert ("≤75", "value") in ttft


def test_a_bracket_that_may_hold_the_target_is_not_over_it() -> None:
    for between, over in (((0.025, 0.05), False), ((0.04, 0.06), False), ((0.05, 0.075), True)):
        shown = percentile(Quantiles(None, 0.05, None, 400, p95_between=between), "p95")
        assert shown is not None
        assert shown.over(0.05) is over
        assert not shown.over(None)


def test_latency_over_its_target_is_amber_then_red() -> None:
    for p95, ink in ((0.9, "warn!"), (1.3, "crit!")):
        slow = replace(LLAMA, load=Load(latency=Latency(ttft_s=Quantiles(0.1, p95, None, 600))))
        assert BLOCKS["latency"].draw(with_model(slow), 35, 9)[1][3][1] == ink


def test_efficiency_uses_the_models_gpus_or_its_share_of_the_host() -> None:
    assert drawn("efficiency").splitlines()[1] == "GPU busy   ━━━━━━━━━━━━━━━━━━   94%"
    alone = replace(LLAMA.workers[0], gpus=(), cpu=32.0)
    cpu = replace(LLAMA, workers=(alone,), efficiency=Efficiency())
    text = drawn("efficiency", of=with_model(cpu, replace(SNAPSHOT, gpus=())))
    assert text.splitlines()[1] == "CPU busy   ━━━━━━━━━━━━━━━━━━   50%"


def test_one_running_request_is_not_drawn_as_a_full_graph() -> None:
    trends = Trends()
    for _ in range(80):
        trends.append(
            replace(SNAPSHOT, models=(replace(LLAMA, load=replace(LLAMA.load, running=1)),))
        )
    of = replace(with_model(LLAMA), trends=trends)
    assert drawn("occupancy", height=14, of=of).splitlines()[1].strip() == ""


def test_waiting_requests_are_amber_from_the_panels_limit_on() -> None:
    rows_ = BLOCKS["occupancy"].draw(view("model/qwen3-32b"), 35, 9)
    assert text_of(rows_).splitlines()[0] == "▲ running                154 of 256"
    assert ("38", "warn!") in rows_[-1]


def test_steps_tell_the_bucket_of_the_median_and_no_more() -> None:
    assert drawn("steps").splitlines()[0] == "tokens a step  median ≤128 of 8,192"
    model = replace(LLAMA, load=replace(LLAMA.load, step_tokens=((8.0, 1), (math.inf, 9))))
    text = drawn("steps", of=with_model(model))
    assert "median >8" in text
    assert text.splitlines()[-1].split() == ["8", "∞"]


def test_steps_are_labelled_at_even_distances() -> None:
    bounds = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
    load = replace(LLAMA.load, step_tokens=tuple((float(b), 9) for b in bounds))
    axis = drawn("steps", of=with_model(replace(LLAMA, load=load))).splitlines()[-1]
    assert axis == "    8    32   128   512    2k    8k"
    few = replace(LLAMA.load, step_tokens=((1.0, 5), (8.0, 3)))
    axis = drawn("steps", of=with_model(replace(LLAMA, load=few))).splitlines()[-1]
    assert axis.split() == ["1", "8"]


def test_steps_of_one_worker_say_that_they_are_measured_for_the_model() -> None:
    assert "measured for the whole model" in drawn("steps", of=view("worker/qwen3-32b-1"))


def test_finish_reasons_as_shares() -> None:
    lines = drawn("finish", height=4).splitlines()
    assert lines[0].split() == ["finished", "288"]
    assert [line.split()[0] for line in lines[1:]] == ["stop", "length", "abort"]
    assert lines[1].endswith("84%")
    idle = replace(LLAMA, load=replace(LLAMA.load, finish_reasons=None))
    assert "no request finished" in drawn("finish", of=with_model(idle))


def test_what_this_version_does_not_do_is_said_and_not_invented() -> None:
    assert "not yet: adaptive, predictive" in drawn("strategies")
    assert drawn("autoscale").splitlines()[0].split() == ["autoscale", "off"]
    assert drawn("gateway").splitlines()[0].split() == ["gateway", "○", "off"]
    assert not any(char.isdigit() for char in drawn("gateway"))


def test_the_ruler_shows_ready_and_wanted_in_their_range() -> None:
    assert drawn("autoscale", of=view("model/qwen3-32b")).splitlines()[1] == (
        "1 ●━━━━━━━━━◆─────────┿─────────┿ 4"
    )
    odd = replace(LLAMA, scale=Scale(0, 40, 8.0), wanted=50, ready=50)
    assert length(BLOCKS["autoscale"].draw(with_model(odd), 35, 4)[1]) == 35


def test_pools_show_direction_and_load() -> None:
    text = """\
pools           ready    load range
llama-70b        1/1      89%   1–2
qwen3-32b        1/2↑    300%   1–4
mistral-24b      0/1↑      –    0–2
phi-4            0/1✖      –    0–1"""
    assert drawn("pools", height=5) == text


def test_gpus_one_a_row_two_a_row_or_a_node_a_row() -> None:
    lines = drawn("devices", 35, 9).splitlines()
    assert lines[0].split() == ["GPUs", "busy", "GiB", "°C", "W"]
    assert lines[3] == "2  ━━━━━━━╸  91%  123/141   84  610"
    assert len(lines) == 9
    two = drawn("devices", 50, 5).splitlines()
    assert len(two) == 5
    assert two[1].split()[0] == "0"
    assert "4" in two[1].split()
    many, _ = played(LabFleet(models=64, gpus=64), 1)
    nodes = drawn("devices", 35, 9, view(None, many)).splitlines()
    assert nodes[0].split() == ["nodes", "busy", "GiB", "°C"]
    assert [line.split()[0] for line in nodes[1:]] == [f"lab-a-{n}" for n in range(1, 9)]
    assert drawn("devices", 35, 5, view(None, many)).splitlines()[-1] == "and 40 GPUs more"


def occupied(*, fault: str | None = None) -> Snapshot:
    """Two of our GPUs: a worker of two processes with a stranger, and a worker or a fault."""
    first = (
        GpuProcess(4242, 20 * GIB, None, "python"),
        GpuProcess(51_000, 60 * GIB, "llama-70b-1", "VLLM::Worker_TP"),
        GpuProcess(51_001, 40 * GIB, "llama-70b-1", "VLLM::Worker_TP"),
        GpuProcess(77, None, None, None),
    )
    second = (GpuProcess(51_002, None, "qwen3-32b-1", "VLLM::EngineCor"),)
    one, two, *_ = SNAPSHOT.gpus
    gpus = (replace(one, processes=first), replace(two, processes=second, fault=fault))
    return replace(SNAPSHOT, gpus=gpus)


def test_who_is_on_a_gpu_stands_below_it_where_there_is_room() -> None:
    assert drawn("devices", 35, 9, view(snapshot=occupied())).splitlines()[1:] == [
        drawn("devices", 35, 9).splitlines()[1],
        "   ▲ 4242 python 20.0",
        "   ▲ pid 77         –",
        "   llama-70b-1    100",
        drawn("devices", 35, 9).splitlines()[2],
        "   qwen3-32b-1      –",
    ]
    strangers = drawn("devices", 35, 5, view(snapshot=occupied())).splitlines()
    assert [line.split()[0] for line in strangers] == ["GPUs", "0", "▲", "▲", "1"]
    none = drawn("devices", 35, 4, view(snapshot=occupied())).splitlines()
    assert [line.split()[0] for line in none] == ["GPUs", "0", "1"]


def test_a_gpu_block_asks_for_rows_for_strangers_before_rows_for_the_fleets_own() -> None:
    of = view(snapshot=occupied())
    ask = BLOCKS["devices"].ask
    assert ask is not None
    assert [ask(of, 35, height) for height in (8, 9, 20, 21)] == [3, 5, 5, 7]
    assert ask(view(), 35, 40) == 9


def test_a_gpu_that_answers_no_more_says_so_in_place_of_numbers() -> None:
    lost = view(snapshot=occupied(fault="fallen off the bus"))
    assert drawn("devices", 35, 3, lost).splitlines()[2] == "1  ✖ fallen off the bus"
    assert ("✖ ", "crit!") in BLOCKS["devices"].draw(lost, 35, 3)[2]
    eight = tuple(replace(gpu, fault="fallen off the bus") for gpu in SNAPSHOT.gpus)
    two = drawn("devices", 50, 5, view(snapshot=replace(SNAPSHOT, gpus=eight))).splitlines()
    assert two[1] == "0  ✖ fallen off the bus   4  ✖ fallen off the bus"
    many = played(LabFleet(models=64, gpus=64), 1)[0]
    gone = replace(many, gpus=tuple(replace(gpu, fault="gone") for gpu in many.gpus))
    assert drawn("devices", 35, 9, view(None, gone)).splitlines()[1].count("✖") == 8


def test_a_hot_gpu_is_amber() -> None:
    rows_ = BLOCKS["devices"].draw(view(), 35, 9)
    assert ("   84", "warn!") in rows_[3]


def test_without_gpus_the_host_and_the_reason_are_shown() -> None:
    text = drawn("devices", of=view(snapshot=LabFleet(gpus=0).at(140)))
    assert "CPU     ━━━━" in text
    assert "64 cores" in text
    assert "no GPU: the NVIDIA driver's library" in text
    assert "host" in drawn("devices", of=view(None, Snapshot("", "x", Daemon(True))))


def test_worker_processes() -> None:
    lines = drawn("processes", height=6).splitlines()
    assert lines[1] == "● llama-70b-1   2.40   9.4  3.1 d 1"
    assert lines[5].startswith("✖ phi-4-1")


@pytest.mark.parametrize("block", sorted(BLOCKS))
@pytest.mark.parametrize("width", [30, 35, 76])
def test_a_model_of_which_nothing_is_known_invents_nothing(block: str, width: int) -> None:
    bare = Snapshot("2026-11-20T12:04:31+00:00", "x", Daemon(True), models=(NOTHING,))
    for selected in ("model/empty", "worker/empty-1"):
        text = drawn(block, width, 9, View(bare, selected=selected, limits=LIMITS))
        assert "None" not in text
        assert "nan" not in text.lower()


@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_no_block_is_wider_than_it_may_be(block: str) -> None:
    for entry in view().entries:
        for width, height in ((34, 3), (35, 9), (76, 5), (110, 30)):
            rows_ = BLOCKS[block].draw(view(entry.key), width, height)
            assert max((length(row) for row in rows_), default=0) <= width, (block, width)


def test_the_fleet_line_drops_parts_until_it_fits() -> None:
    lines = {w: text_of(fleet_line.draw(view(), w, 1)) for w in (156, 116, 96, 76, 56)}
    assert lines[156].startswith("vllm-console  lab-a    ● 2 ready  ◐ 1 loading  ✖ 1 failed")
    assert lines[156].endswith("8 GPUs  614 of 1,128 GiB   12:04:31  ↻ 1 s")
    assert "1,893 tok/s" in lines[76]
    for width, line in lines.items():
        assert len(line) == width
        assert "12:04:31" in line


def test_an_old_picture_says_so_in_place_of_the_clock() -> None:
    line = text_of(fleet_line.draw(replace(view(), old_s=12.3), 156, 1))
    assert line.endswith("▲ 12 s old")
    assert "12:04:31" not in line
    assert "‖ paused" in text_of(fleet_line.draw(replace(view(), paused=True), 156, 1))


def test_the_alert_line_is_there_only_when_something_is_wrong() -> None:
    calm = view(snapshot=replace(SNAPSHOT, alerts=()))
    assert alert_line.ask(calm) == 0
    assert alert_line.ask(view()) == 1
    assert text_of(alert_line.draw(view(), 100, 1)).startswith("  ✖ 3 alerts   phi-4  failed")
    assert text_of(alert_line.draw(view(), 50, 1)).endswith("…   +2 more")
    lost = replace(calm, lost="no daemon answers")
    assert "trying again" in text_of(alert_line.draw(lost, 100, 1))


def test_the_alert_line_ends_with_what_to_press() -> None:
    assert text_of(alert_line.draw(view(), 156, 1)).endswith("! goes there")
    there = text_of(alert_line.draw(view("model/phi-4"), 156, 1))
    assert there.endswith("↵ details and log   ! next")
    only = replace(SNAPSHOT, alerts=(Alert("crit", "phi-4-1", "failed"),))
    assert text_of(alert_line.draw(view("model/phi-4", only), 156, 1)).endswith("↵ details and log")
    gpu = replace(SNAPSHOT, alerts=(Alert("warn", "GPU 2", "84 °C"),))
    assert text_of(alert_line.draw(view(snapshot=gpu), 156, 1)).endswith("84 °C")
    narrow = text_of(alert_line.draw(view("model/qwen3-32b"), 80, 1))
    assert narrow.startswith("  ✖ 3 alerts   phi-4  failed: out-of-memory   +2 more  ")
    assert narrow.endswith("  ↵ log   ! next")
    for width in range(8, 200):
        assert length(alert_line.draw(view(), width, 1)[0]) == width


def test_events_newest_first() -> None:
    text = text_of(events.draw(view(), 80, 2))
    assert text.splitlines()[0].startswith("12:04:31  ▲ qwen3-32b ")
    assert text_of(events.draw(View(), 80, 2)) == "no events yet"


def test_help_and_quit_are_never_cut_from_the_keys() -> None:
    keys = [("1-4", "panel"), ("l", "load"), ("u", "unload"), ("?", "help"), ("q", "quit")]
    assert text_of(rows(keys, None, 60)) == "1-4 panel  l load  u unload  ? help  q quit"
    assert text_of(rows(keys, None, 34)) == "1-4 panel  l load  ? help  q quit"
    assert text_of(rows(keys, Notice("crit", "no such model"), 34)) == "✖ no such model"


def test_a_workers_facts_when_ready_starting_failed_and_gone() -> None:
    ready = text_of(worker.draw(view(), 120, 40))
    for fact in ("http://127.0.0.1:8101", "51000", "9.4 GiB", "3.1 d", "cu129", "--max-num-seqs"):
        assert fact in ready
    starting = text_of(worker.draw(view("model/mistral-24b"), 76, 40))
    assert "●import ●config ◐weights ○compile" in starting
    failed = text_of(worker.draw(view("model/phi-4"), 76, 40))
    assert "✖ out-of-memory" in failed
    assert "→ lower gpu_memory_utilization" in failed
    stopped = text_of(worker.draw(view("model/phi-4", STOPPED), 76, 40))
    assert "○ stopped · l loads it" in stopped
    assert "not in the fleet any more" in text_of(worker.draw(view("worker/x-9"), 76, 40))


def test_a_worker_that_failed_says_its_cause_once_and_cuts_endless_arguments() -> None:
    phi = SNAPSHOT.models[3]
    again = replace(phi.workers[0], reason="out-of-memory")
    long = (*phi.command, "--custom-histogram-buckets", "0.001," * 200)
    text = text_of(worker.draw(with_model(replace(phi, workers=(again,), command=long)), 120, 40))
    assert text.count("out-of-memory") == 1
    assert "whole: vllm-console config phi-4" in text
    assert "--tensor-parallel-size 1" in text


def test_a_workers_first_line() -> None:
    line = text_of(worker_line.draw(view(), 156, 1))
    assert line.startswith("llama-70b-1   ● ready   meta-llama/Llama-3.3-70B-Instruct")
    assert "224 running" in line
    assert line.endswith("12:04:31  ↻ 1 s")


def test_limits_come_from_the_panel() -> None:
    strict = replace(view(), limits={"waiting": Limit(1, 3)})
    rows_ = BLOCKS["models"].draw(strict, 35, 9)
    assert ("+5", "crit!") in [(t, i.rstrip("@")) for t, i in rows_[1]]


def test_engine_settings_win_over_what_was_asked_for() -> None:
    model = replace(LLAMA, engine=Engine(max_num_seqs=64), options={"max_num_seqs": 256})
    assert "max seqs       64" in drawn("config", of=with_model(model))


def test_a_canary_tells_its_revision_and_share_in_its_row() -> None:
    workers = tuple(Worker(f"chat-{n}", "ready") for n in (1, 2))
    canary = Canary(4, 0.1, "chat-2", "2026-11-21T10:00:00.000Z")
    chat = Model("chat", "a/b", 3, "ready", 1, 1, workers=workers, canary=canary)
    _, model, first, tried = drawn("models", 100, 4, with_model(chat)).splitlines()
    assert "chat " in model
    assert " r3 " in model
    assert "worker 1 " in first
    assert " r" not in first.replace("worker", "")
    assert "worker 2 10%" in tried
    assert " r4 " in tried
