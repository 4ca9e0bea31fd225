"""The blocks of the panel ³batching as text, in every state they can be in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.ui.scripted import LabFleet, played
from vllm_console.snapshot import (
    Advice,
    Arrivals,
    Batching,
    Forecast,
    Gateway,
    Load,
    Model,
    Queued,
    Snapshot,
    StepTime,
)
from vllm_console.ui.blocks import BLOCKS
from vllm_console.ui.rows import text_of
from vllm_console.ui.view import View

SNAPSHOT, TRENDS = played(LabFleet(fourth="failed"), 3)
QWEN = SNAPSHOT.models[1]
MISTRAL = "model/mistral-24b"


def drawn(
    block: str,
    width: int = 35,
    height: int = 9,
    selected: str | None = "model/qwen3-32b",
    snapshot: Snapshot | None = SNAPSHOT,
) -> str:
    return text_of(BLOCKS[block].draw(View(snapshot, TRENDS, selected), width, height))


def alone(model: Model) -> Snapshot:
    return replace(SNAPSHOT, models=(model,))


def asked(block: str, view: View) -> int:
    ask = BLOCKS[block].ask
    assert ask is not None
    return ask(view, 35, 40)


def test_a_batch_tells_its_tokens_what_disturbs_it_and_who_waits_for_what() -> None:
    assert (
        drawn("batch")
        == """\
tok/step     334  preempt   3.18 /m
oldest    2.30 s  abort        0 /m
for slots     36  deferred        2"""
    )
    wide = drawn("batch", 60).splitlines()
    assert wide[0].split() == ["tokens", "a", "step", "334", "preempted", "3.18", "/min"]


def test_an_empty_queue_has_no_oldest_and_an_unknown_one_no_number() -> None:
    empty = replace(QWEN, load=replace(QWEN.load, waiting=0))
    assert "oldest      none" in drawn("batch", snapshot=alone(empty))
    unknown = replace(QWEN, load=Load(), arrivals=Arrivals())
    text = drawn("batch", snapshot=alone(unknown))
    assert text.count("–") == 6
    assert not any(char.isdigit() for char in text)


def test_preemptions_are_amber_and_none_is_not() -> None:
    rows = BLOCKS["batch"].draw(View(SNAPSHOT, TRENDS, "model/qwen3-32b"), 35, 3)
    assert ("3.18", "warn!") in rows[0]
    calm = BLOCKS["batch"].draw(View(SNAPSHOT, TRENDS, "model/llama-70b"), 35, 3)
    assert ("0", "value") in calm[0]


def test_the_queue_without_a_gateway_has_no_classes_and_counts_what_the_engines_hold() -> None:
    assert (
        drawn("queue")
        == """\
queue  no classes without a gateway
in engines    43  rejected     0 /m
the oldest waits for         2.30 s"""
    )
    unknown = replace(QWEN, load=Load(), arrivals=Arrivals())
    assert drawn("queue", snapshot=alone(unknown)).count("–") == 3
    assert drawn("queue", snapshot=replace(SNAPSHOT, models=())) == ""


def test_the_queue_of_a_gateway_stands_by_class_with_its_own_oldest_and_rejected() -> None:
    gateway = Gateway(True, "http://127.0.0.1:4000", 9.0, Queued(2, 11, None), 4.25, 0.05)
    text = drawn("queue", snapshot=replace(SNAPSHOT, gateway=gateway))
    assert (
        text
        == """\
queue        high  norm   low   all
gateway         2    11     –    13
in engines    43  rejected     3 /m
the oldest waits for         4.25 s"""
    )
    assert asked("queue", View(replace(SNAPSHOT, gateway=gateway), TRENDS)) == 4
    assert asked("queue", View(SNAPSHOT, TRENDS)) == 3


def test_the_selected_models_share_of_the_queue_stands_under_the_whole() -> None:
    snapshot = LabFleet(gateway=True).at(140)
    text = drawn("queue", height=5, snapshot=snapshot)
    assert (
        text
        == """\
queue        high  norm   low   all
gateway         1    14     6    21
qwen3-32b       1    12     6    19
in engines    43  rejected     0 /m
the oldest waits for         1.62 s"""
    )
    assert asked("queue", View(snapshot, TRENDS, "model/qwen3-32b")) == 5
    alone_in_it = replace(snapshot, models=(snapshot.models[1],))
    assert asked("queue", View(alone_in_it, TRENDS, "model/qwen3-32b")) == 4
    assert "qwen3-32b" not in drawn("queue", height=5, snapshot=alone_in_it)


def test_of_the_past_the_queue_says_that_classes_are_not_recorded() -> None:
    for view in (View(SNAPSHOT, TRENDS, past=True), View(SNAPSHOT, TRENDS, recorded="a.sqlite")):
        lines = text_of(BLOCKS["queue"].draw(view, 35, 3)).splitlines()
        assert lines[0] == "queue          classes not recorded"


def test_strategies_tell_policy_and_limits_of_each_model() -> None:
    assert (
        drawn("strategies", height=6)
        == """\
strategies              batch queue
llama-70b   limited       256   any
qwen3-32b   limited       256    64
mistral-24b limited       256   any
phi-4       limited       256   any
not yet: adaptive, predictive"""
    )
    assert drawn("strategies", height=2).splitlines()[1].split() == [
        "qwen3-32b", "limited", "256", "64"
    ]  # fmt: skip
    assert asked("strategies", View(SNAPSHOT, TRENDS)) == 6
    assert asked("strategies", View(replace(SNAPSHOT, models=()), TRENDS)) == 0


def test_a_policy_that_moves_the_limit_is_no_longer_called_not_yet() -> None:
    moving = replace(QWEN, batching=Batching("adaptive", 96))
    text = drawn("strategies", snapshot=alone(moving))
    assert "not yet" not in text
    assert text.splitlines()[1].split() == ["qwen3-32b", "adaptive", "96", "any"]


def test_arrivals_with_forecast_pattern_and_lengths() -> None:
    lines = drawn("analytics").splitlines()
    assert lines[0] == "arrivals 4.86 /s      periodic 60 s"
    assert lines[1] == "forecast 5.30 ±0.41 /s     in 1 min"
    assert lines[2].split() == ["lengths", "≤20", "…", "≤10k", "p50", "p95"]
    assert lines[3] == "prompt   ▁▁▂▄▆▇▅▃▁       812  2.41k"
    assert lines[4] == "output   ▁▃▅▇▆▃▁         244    618"


def test_a_wide_panel_tells_the_evidence_too() -> None:
    lines = drawn("analytics", 70, selected="model/llama-70b").splitlines()
    assert lines[0].endswith("bursty variance/mean 3.40")
    assert lines[1].endswith("trend in 1 min")


def test_a_pattern_needs_time_and_requests_before_it_is_told() -> None:
    early = replace(QWEN, arrivals=Arrivals(0.4, remembered_s=180.0))
    assert drawn("analytics", snapshot=alone(early)).splitlines()[:2] == [
        "arrivals 0.40 /s   pattern in 2 min",
        "forecast –",
    ]
    rare = replace(QWEN, arrivals=Arrivals(0.01, remembered_s=1800.0, dispersion=1.0))
    assert "too few for a pattern" in drawn("analytics", snapshot=alone(rare))


def test_a_forecast_is_never_without_its_error() -> None:
    level = Forecast(12.4, 1.25, 60.0, "level")
    model = replace(QWEN, arrivals=Arrivals(12.0, level, "steady", 1.0, None, 900.0))
    lines = drawn("analytics", snapshot=alone(model)).splitlines()
    assert lines[0].endswith("steady")
    assert lines[1] == "forecast 12.4 ±1.25 /s     in 1 min"


def test_lengths_share_one_scale_and_short_rows_join_buckets() -> None:
    narrow = drawn("analytics", 30).splitlines()
    assert [len(line) for line in narrow[3:5]] == [30, 30]
    none = replace(QWEN, load=replace(QWEN.load, prompt_lengths=(), output_lengths=()))
    assert "▁" not in drawn("analytics", snapshot=alone(none))


def test_insights_tell_the_best_batch_its_fit_and_each_advice_with_its_evidence() -> None:
    assert (
        drawn("insights", height=20)
        == """\
insights        14 min, 812 samples
best batch 237  for ITL p95 ≤ 50 ms
9.30 + 0.078 ms/request, r² 0.88
▲ max_num_seqs 256 → 212 or more KV
  45 preemptions, KV full at 212
▲ max_num_queued_reqs 64 → 1
  TTFT p95 405 > 350 ms, 4.28 req/s"""
    )
    assert asked("insights", View(SNAPSHOT, TRENDS, "model/qwen3-32b")) == 7


def test_insights_count_the_samples_they_still_need() -> None:
    few = replace(QWEN, batching=Batching(samples=24, reason="not enough samples yet: 24 of 60"))
    text = drawn("insights", snapshot=alone(few))
    assert "not enough samples yet: 24 of 60" in text
    assert "best batch" not in text
    assert text.splitlines()[2].count("━") == 35
    assert "0 of 60" in drawn("insights", selected=MISTRAL)


def test_what_nobody_recorded_is_not_told_of_the_past() -> None:
    past = View(SNAPSHOT, TRENDS, "model/qwen3-32b", past=True)
    assert asked("strategies", past) == 0
    assert text_of(BLOCKS["insights"].draw(past, 35, 9)).splitlines() == [
        "insights",
        "not recorded",
    ]


def test_a_fit_that_says_nothing_gives_its_reason_and_advice_stays() -> None:
    flat = Batching(
        samples=200,
        measured_s=200.0,
        reason="the batch was always 3 to 4: no slope to see",
        advice=(Advice("ok", "keep max_num_seqs 8", "4 running at most"),),
    )
    lines = drawn("insights", snapshot=alone(replace(QWEN, batching=flat))).splitlines()
    assert lines[1].startswith("no best batch: the batch was")
    assert lines[-2:] == ["● keep max_num_seqs 8", "  4 running at most"]


@pytest.mark.parametrize(("best", "word"), [(0, "none"), (1000, "1,000")])
def test_a_target_that_no_batch_holds_is_amber(best: int, word: str) -> None:
    fit = StepTime(0.02, 0.0001, 64, 0.0004, 0.9, 1, 200)
    found = Batching(samples=900, fit=fit, best=best, best_for="ITL p95 ≤ 10 ms")
    model = replace(QWEN, batching=found)
    row = BLOCKS["insights"].draw(View(alone(model), TRENDS, "model/qwen3-32b"), 40, 9)[1]
    assert (word, "value" if best else "warn!") in row
    text = drawn("insights", 60, snapshot=alone(model))
    assert "20 + 0.10 ms/request, 0.50 from 64 on, r² 0.90" in text


@pytest.mark.parametrize("block", ["batch", "queue", "strategies", "analytics", "insights"])
@pytest.mark.parametrize("width", [28, 35, 80])
def test_no_row_is_wider_than_the_block(block: str, width: int) -> None:
    for key in ("model/llama-70b", "model/qwen3-32b", MISTRAL, "worker/qwen3-32b-1"):
        for line in drawn(block, width, 12, key).splitlines():
            assert len(line) <= width


@pytest.mark.parametrize("block", ["batch", "queue", "strategies", "analytics", "insights"])
def test_without_a_snapshot_a_block_is_empty(block: str) -> None:
    assert drawn(block, selected=None, snapshot=None) == ""
