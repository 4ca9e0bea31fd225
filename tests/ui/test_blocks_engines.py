"""The blocks of ¹engines beside the model list, as text in every state they can be in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.ui.test_blocks import LLAMA, NOTHING, SNAPSHOT, STOPPED, drawn, view, with_model
from vllm_console.snapshot import (
    Attainment,
    CacheUse,
    Engine,
    GpuMemory,
    Load,
    LogErrors,
    Lora,
    Memory,
    Slo,
)
from vllm_console.ui.blocks import BLOCKS
from vllm_console.ui.rows import length

QWEN = SNAPSHOT.models[1]


def test_how_an_engine_is_set_up_to_be_fast() -> None:
    assert (
        drawn("optimization")
        == """\
optimization       LlamaForCausalLM
TP×PP×DP   2×1×1  dtype        bf16
quant       none  KV dtype     auto
KV block      16  blocks     25,760
chunked       on  step tok    8,192
prefix        on  max seqs      256
attn  FLASH_ATTN  graphs full+piece
spec      eagle3  max len    32,768
accept       71%  tok/draft    2.42"""
    )


def test_an_engine_that_never_started_shows_what_fleet_toml_asks_for() -> None:
    asked = replace(
        LLAMA, engine=Engine(), load=Load(),
        options={"max_num_seqs": 64, "enforce_eager": True, "enable_chunked_prefill": False,
                 "tensor_parallel_size": 4, "kv_cache_dtype": "fp8_e4m3"},
    )  # fmt: skip
    lines = drawn("optimization", of=with_model(asked)).splitlines()
    assert lines[0].endswith("as fleet.toml asks")
    assert lines[1].split() == ["TP×PP×DP", "4×1×1", "dtype", "–"]
    assert lines[2].split() == ["quant", "–", "KV", "dtype", "fp8"]
    assert lines[4].split() == ["chunked", "off", "step", "tok", "–"]
    assert lines[6].split() == ["attn", "–", "graphs", "eager"]
    assert lines[7].split()[:2] == ["spec", "–"]
    assert len(lines) == 8


@pytest.mark.parametrize(
    ("mode", "eager", "shown"),
    [
        ("full", False, "full"),
        ("full decode only", False, "decode"),
        ("none", False, "none"),
        ("none", True, "eager"),
        (None, None, "–"),
    ],
)
def test_graphs_are_told_in_a_word(mode: str | None, eager: bool | None, shown: str) -> None:
    engine = replace(LLAMA.engine, cuda_graphs=mode, enforce_eager=eager)
    lines = drawn("optimization", of=with_model(replace(LLAMA, engine=engine))).splitlines()
    assert lines[6].split()[-1] == shown


def test_drafts_that_are_mostly_refused_are_amber() -> None:
    poor = replace(LLAMA, load=replace(LLAMA.load, spec_acceptance=0.31))
    rows = BLOCKS["optimization"].draw(with_model(poor), 35, 9)
    assert ("31%", "warn!") in rows[8]


def test_each_gpu_has_its_own_bar() -> None:
    lines = drawn("memory").splitlines()
    assert [line.split() for line in lines[1:3]] == [["0", "127"], ["1", "127"]]
    assert lines[5].split() == ["KV", "tokens", "412k", "full", "length", "12.6×"]
    assert lines[6].split() == ["offload", "off", "graphs", "614", "MiB"]
    one = BLOCKS["memory"].draw(view("model/qwen3-32b"), 35, 9)[1]
    assert "".join(text for text, _ in one) == " " * 35
    ask = BLOCKS["memory"].ask
    assert ask is not None
    assert ask(view(), 35, 40) == 7
    assert ask(view("model/phi-4"), 35, 40) == 6


def test_more_gpus_than_there_is_room_for_are_one_bar() -> None:
    assert not drawn("memory", height=4).splitlines()[1].strip()
    many = tuple(GpuMemory("a", i, 100, 50) for i in range(9))
    model = replace(LLAMA, memory=replace(LLAMA.memory, gpus=many))
    assert drawn("memory", height=20, of=with_model(model)).splitlines()[2].startswith("■ weights")


def test_a_gpu_whose_parts_are_unknown_is_a_meter() -> None:
    gpus = (GpuMemory("a", 4, 100, 50), GpuMemory("a", 5, 100, None))
    model = replace(LLAMA, memory=Memory("gpu", 200, gpus=gpus))
    lines = drawn("memory", of=with_model(model)).splitlines()
    assert lines[1].startswith("4  ━━━")
    assert lines[2].startswith("5  ╌╌╌")
    assert lines[2].endswith("–")


def test_requests_of_full_length_are_reckoned_where_the_engine_does_not_tell() -> None:
    engine = Engine(version="0.9", kv_cache_tokens=64_000, max_model_len=32_000, swap_bytes=2**33)
    lines = drawn("memory", of=with_model(replace(LLAMA, engine=engine))).splitlines()
    assert lines[5].endswith("2×")
    assert lines[6].split() == ["offload", "8.0", "GiB", "graphs", "–"]


def test_where_prompts_were_found_instead_of_computed() -> None:
    assert (
        drawn("advanced")
        == """\
cache hits    49%  ext 12%  media –

■ new 51%  ■ local 45%  ■ ext 4%
preload at start  LoRA          off
balance        –  adaptive        –"""
    )
    wide = drawn("advanced", 60).splitlines()
    assert wide[2] == "■ computed 51%  ■ local 45%  ■ external 4%"


def test_tiers_beyond_the_gpu_are_named_where_they_gave_something() -> None:
    cache = CacheUse(
        prompt_tokens_from={"local_compute": 60.0, "local_cache_hit": 40.0},
        cached_in={"device": 30.0, "host": 10.0, "disk": 0.0},
    )
    model = replace(LLAMA, load=replace(LLAMA.load, cache=cache))
    assert drawn("advanced", 60, of=with_model(model)).splitlines()[2].endswith("host 10%")


def test_before_a_prompt_and_of_an_old_engine_there_are_no_sources() -> None:
    for told, why in ((None, "not told"), ({"local_compute": 0.0}, "none yet")):
        load = replace(LLAMA.load, cache=CacheUse(prompt_tokens_from=told))
        text = drawn("advanced", of=with_model(replace(LLAMA, load=load)))
        assert text.splitlines()[1:3] == ["╌" * 35, f"prompt tokens by source: {why}"]


def test_what_reaches_a_model_is_empty_until_something_does() -> None:
    lines = drawn("advanced", of=view("model/qwen3-32b")).splitlines()
    assert lines[3].split() == ["preload", "at", "start", "LoRA", "2", "of", "4"]
    assert lines[4].split() == ["balance", "–", "adaptive", "–"]
    full = replace(
        QWEN, balancing="least busy", pinned=True, lora=Lora(None, ("a",)),
        batching=replace(QWEN.batching, policy="adaptive", limit=48),
    )  # fmt: skip
    lines = drawn("advanced", 60, of=with_model(full)).splitlines()
    assert lines[3].split() == ["preload", "pinned", "LoRA", "1", "of", "–"]
    assert lines[4].split() == ["balance", "least", "busy"]
    assert lines[5].split() == ["in", "flight", "–", "adaptive", "48"]
    behind = replace(QWEN, balancing="least outstanding, prefix affinity", in_flight=205)
    lines = drawn("advanced", 35, of=with_model(behind)).splitlines()
    assert lines[4:] == [
        "balance           least outstanding",
        "in flight    205  adaptive        –",
    ]
    assert drawn("advanced", 60, of=with_model(behind)).splitlines()[4].endswith("prefix affinity")
    late = replace(QWEN, autostart=False)
    assert "on load" in drawn("advanced", of=with_model(late))


def test_a_healthy_model_with_an_error_in_its_log() -> None:
    assert (
        drawn("monitoring")
        == """\
monitoring    ● healthy  restarts 1
SLA ITL    ━━━━━━━━━━━━━━━━━  98.7%
alerts         0  log errors      2
· 9 min ago Error in preprocessing…"""
    )


def test_a_target_that_is_missed_is_amber_and_the_alert_says_it() -> None:
    rows = BLOCKS["monitoring"].draw(view("model/qwen3-32b"), 35, 9)
    assert rows[1][0] == ("SLA TTFT   ", "label")
    assert ("  92.1", "warn!") in rows[1]
    assert ("1", "warn!") in rows[2]
    assert rows[3] == [("▲ ", "warn!"), ("TTFT p95 412 ms > 350 ms", "text")]
    assert ("▲ ", "warn!") in rows[0]


def test_health_is_told_of_each_state() -> None:
    assert drawn("monitoring", of=view("model/mistral-24b")).splitlines()[0].endswith("◐ starting")
    assert drawn("monitoring", of=view("model/phi-4")).splitlines()[-1] == "✖ failed: out-of-memory"
    assert (
        drawn("monitoring", of=view("model/phi-4", STOPPED)).splitlines()[0].endswith("○ stopped")
    )


def test_attainment_says_why_there_is_none() -> None:
    aimless = replace(LLAMA, slo=Slo(), attainment=Attainment())
    assert "no target in fleet.toml" in drawn("monitoring", of=with_model(aimless))
    unused = replace(LLAMA, attainment=Attainment())
    assert "no request yet" in drawn("monitoring", of=with_model(unused))
    perfect = replace(LLAMA, attainment=Attainment(300.0, 1.0, None, None, 1.0))
    assert drawn("monitoring", of=with_model(perfect)).splitlines()[1].endswith("  100%")


def test_errors_of_all_workers_add_up_and_the_newest_is_told() -> None:
    one = replace(LLAMA.workers[0], log_errors=LogErrors(1, 0, 60.0, "older", 50.0))
    two = replace(LLAMA.workers[0], id="b", log_errors=LogErrors(2, 0, 60.0, "newer", 5.0))
    text = drawn("monitoring", of=with_model(replace(LLAMA, workers=(one, two))))
    assert text.splitlines()[2].split()[-1] == "3"
    assert text.splitlines()[3] == "· 5 s ago newer"


def test_a_model_of_which_nothing_is_known_has_dashes() -> None:
    of = with_model(NOTHING)
    for block in ("optimization", "memory", "advanced", "monitoring"):
        assert "–" in drawn(block, of=of), block


def test_a_failed_model_asks_for_the_rows_of_its_remedy() -> None:
    ask = BLOCKS["config"].ask
    assert ask is not None
    assert [ask(view(f"model/{name}"), 35, 40) for name in ("llama-70b", "mistral-24b", "phi-4")] \
        == [2, 3, 9]  # fmt: skip
    assert ask(view(None), 35, 40) == 0


@pytest.mark.parametrize("block", ["optimization", "memory", "advanced", "monitoring"])
def test_a_block_is_as_tall_as_it_asks(block: str) -> None:
    ask = BLOCKS[block].ask
    assert ask is not None
    for name in ("llama-70b", "qwen3-32b", "mistral-24b", "phi-4"):
        for width in (30, 35, 76):
            rows = BLOCKS[block].draw(view(f"model/{name}"), width, 99)
            assert len(rows) == ask(view(f"model/{name}"), width, 40)
            assert max(length(row) for row in rows) <= width
