"""The blocks of ²performance beside its graphs, as text in every state they can be in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.ui.test_blocks import LLAMA, SNAPSHOT, drawn, view, with_model
from vllm_console.snapshot import Efficiency, Latency, Limits, Load, Quantiles
from vllm_console.ui.blocks import BLOCKS
from vllm_console.ui.rows import length


def test_what_became_of_the_requests() -> None:
    assert (
        drawn("dashboard")
        == """\
requests     288 in 60 s  all 1.20M
a second    3.02  errors          0
E2E s     mean    p50    p95    p99
          2.78   2.44   5.13   8.30

■ stop 84% ■ length 15% ■ abort 1%"""
    )
    bar = BLOCKS["dashboard"].draw(view(), 35, 9)[4]
    assert [ink for _, ink in bar] == ["on performance", "on engines5", "on dim"]


def test_errors_are_red_and_rare_ends_are_not_rounded_to_nothing() -> None:
    load = replace(LLAMA.load, errors=2, finish_reasons={"stop": 998.0, "error": 2.0})
    rows = BLOCKS["dashboard"].draw(with_model(replace(LLAMA, load=load)), 60, 9)
    assert ("2", "crit!") in rows[1]
    assert ("■ ", "crit") in rows[5]
    assert ("<1", "value") in rows[5]


def test_before_the_first_request_the_dashboard_is_empty_and_says_so() -> None:
    unused = replace(LLAMA, load=Load(running=0, waiting=0, finish_reasons={"stop": 0.0}))
    lines = drawn("dashboard", of=with_model(unused)).splitlines()
    assert lines[0].split() == ["requests", "0", "in", "60", "s"]
    assert lines[3].split() == ["–", "–", "–", "–"]
    assert lines[4:] == ["╌" * 35, "no request finished yet"]
    loading = drawn("dashboard", of=view("model/mistral-24b")).splitlines()
    assert loading[0].split() == ["requests", "–"]


def test_of_a_worker_the_dashboard_leaves_out_what_is_told_of_the_model() -> None:
    lines = drawn("dashboard", 60, of=view("worker/qwen3-32b-1")).splitlines()
    assert lines[1].split() == ["a", "second", "4.28", "errors", "–"]
    assert "all" not in lines[0]
    assert lines[5] == "told for the whole model: select its row"


def test_percentiles_of_wide_buckets_stand_as_their_sure_end() -> None:
    wide = Quantiles(1.0, 4.0, 9.0, 40, p95_between=(2.0, 5.0), thin=("p95", "p99"), mean=1.3)
    model = replace(LLAMA, load=Load(latency=Latency(e2e_s=wide)))
    rows = BLOCKS["dashboard"].draw(with_model(model), 35, 9)
    assert "".join(text for text, _ in rows[3]).split() == ["1.30", "1", "≤5", "9"]
    assert [ink for _, ink in rows[3][1:]] == ["text", "text", "dim", "dim"]


def test_the_rate_a_gpu_stands_where_there_is_room() -> None:
    assert "a GPU 561" in drawn("throughput", 60, 10).splitlines()[0]
    assert "a GPU" not in drawn("throughput", 35, 10)
    one = drawn("throughput", 60, 10, view("worker/qwen3-32b-1")).splitlines()[0]
    assert "a GPU 771" in one


def test_what_the_hardware_is_used_for() -> None:
    assert (
        drawn("efficiency")
        == """\
overall    ━━━━━━━━━━━━━━╸━━━   82%
GPU busy   ━━━━━━━━━━━━━━━━━━   94%
batch fill ━━━━━━━━━━━━━━━━━━   88%
prefix hit ━━━━━━━━━━━━━━━━━━   49%
memory     ━━━━━━━━━━━━━━━━━━   90%
tok/s W    0.890  $ 1M tok     1.04
tok/s GPU    561  served        99%"""
    )


def test_efficiency_that_is_not_known_is_dashes() -> None:
    lines = drawn(
        "efficiency", of=with_model(replace(LLAMA, load=Load(), efficiency=Efficiency()))
    ).splitlines()
    assert [line.split()[-1] for line in lines] == ["–", "94%", "–", "–", "–", "–", "–"]


def test_what_held_a_model_back_and_what_to_do_about_it() -> None:
    assert (
        drawn("bottlenecks", of=view("model/qwen3-32b"))
        == """\
bottlenecks ▲ sequence slots  5 min
sequence slots ━━━━━╸━━━━━━━━   41%
KV memory      ━━━━━━━━━━━━━━   21%
compute        ━╸━━━━━━━━━━━━   11%
power, heat    ╸━━━━━━━━━━━━━    5%
no limit       ━━━━━━━━━━━━━━   22%
→ raise max_num_seqs while KV and
  ITL allow"""
    )


def test_a_short_list_of_limits_keeps_the_greatest() -> None:
    lines = drawn("bottlenecks", height=3, of=view("model/qwen3-32b")).splitlines()
    assert [line.split("━")[0].strip() for line in lines[1:]] == ["sequence slots", "KV memory"]


@pytest.mark.parametrize(
    ("limits", "shown"),
    [
        (Limits(300, 12.0, "none", {"none": 1.0}), "● no limit  12 s"),
        (Limits(300, 300.0, "idle", {"idle": 1.0}), "○ idle  5 min"),
        (Limits(300, 300.0, "power", {"power": 1.0}), "▲ power, heat  5 min"),
        (Limits(300, 9.0, None, {"idle": 1.0}), "–"),
        (Limits(300, 9.0, "a-new-one", {"a-new-one": 1.0}), "▲ a-new-one  9 s"),
    ],
)
def test_the_limit_of_now_stands_in_the_title(limits: Limits, shown: str) -> None:
    model = replace(LLAMA, limits=limits)
    assert drawn("bottlenecks", of=with_model(model)).splitlines()[0].endswith(f" {shown}")


def test_nothing_is_advised_where_no_limit_is_met_often() -> None:
    model = replace(LLAMA, limits=Limits(300, 300, "none", {"none": 0.96, "compute": 0.04}))
    assert "→" not in drawn("bottlenecks", of=with_model(model))
    rare = replace(LLAMA, limits=Limits(300, 300, "none", {"none": 0.997, "compute": 0.003}))
    assert "   <1%" in drawn("bottlenecks", of=with_model(rare))


def test_limits_say_why_there_are_none() -> None:
    unseen = replace(LLAMA, limits=Limits())
    assert "no sample in the last 5 min" in drawn("bottlenecks", of=with_model(unseen))
    assert "no samples while loading" in drawn("bottlenecks", of=view("model/mistral-24b"))


@pytest.mark.parametrize("block", ["dashboard", "efficiency", "bottlenecks"])
def test_a_block_is_as_tall_as_it_asks(block: str) -> None:
    ask = BLOCKS[block].ask
    assert ask is not None
    for model in SNAPSHOT.models:
        for width in (30, 35, 76):
            of = view(f"model/{model.name}")
            rows = BLOCKS[block].draw(of, width, 99)
            assert len(rows) == ask(of, width, 40), (model.name, width)
            assert max(length(row) for row in rows) <= width
