"""The fleet file that ships holds, teaches, and runs as it is on real vLLM."""

from __future__ import annotations

import json
from pathlib import Path

from vllm_console.fleet.load import load_fleet
from vllm_console.fleet.options import FlagSchema, check_options, human_int

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[2] / "fleet.toml"
FLEET = load_fleet(EXAMPLE, environ={})
SCHEMA = FlagSchema.from_json(
    json.loads((HERE / "vllm_0_32_flags.json").read_text(encoding="utf-8"))
)


def test_real_vllm_takes_every_option_of_it() -> None:
    for model in FLEET.models.values():
        assert check_options(model.options, SCHEMA) == []


def test_two_models_start_by_themselves_and_one_waits_for_a_key() -> None:
    assert [m.autostart for m in FLEET.models.values()] == [True, True, False]


def test_every_model_is_made_on_the_spot() -> None:
    assert all(m.source.startswith("tiny:") for m in FLEET.models.values())


def test_every_model_that_starts_has_targets_to_be_measured_by() -> None:
    for model in FLEET.models.values():
        if model.autostart:
            assert model.slo.ttft_p95_s
            assert model.slo.itl_p95_s


def test_kv_caches_are_small_enough_to_be_seen_filling() -> None:
    for model in FLEET.models.values():
        assert human_int(model.options["kv_cache_memory_bytes"]) <= 256 * 1024**2


def test_each_variable_of_it_has_a_comment_that_says_why() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    for variable in FLEET.models["tiny-chat"].env:
        (line,) = (line for line in lines if line.startswith(f"{variable} ="))
        assert "  # " in line
