"""The command line of a worker is exact, local, and holds no secret."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from vllm_console.fleet.command import HISTOGRAM_BUCKETS, added_flags, serve_command
from vllm_console.fleet.model import ModelConfig
from vllm_console.fleet.options import Flag, FlagSchema
from vllm_console.fleet.secrets import Secret

DUMP = Path(__file__).with_name("vllm_0_32_flags.json")
SCHEMA = FlagSchema.from_json(json.loads(DUMP.read_text(encoding="utf-8")))


def command(schema: FlagSchema | None = SCHEMA, **fields: Any) -> list[str]:
    model = ModelConfig(name="qwen", source="Qwen/Qwen3-32B", **fields)
    return list(serve_command("vllm", model, source="/models/q", port=8123, schema=schema))


def value_of(flag: str, argv: list[str]) -> str:
    return argv[argv.index(flag) + 1]


def test_a_worker_listens_on_loopback_under_its_names() -> None:
    argv = command(None, aliases=("a", "b"), options={"max_num_seqs": 4})
    assert argv == [
        *("vllm", "serve", "/models/q", "--host", "127.0.0.1", "--port", "8123"),
        *("--served-model-name", "qwen", "a", "b", "--max-num-seqs", "4"),
    ]


def test_what_every_worker_needs_is_added_where_the_version_has_it() -> None:
    argv = command(drain_timeout_s=12.3)
    assert value_of("--shutdown-timeout", argv) == "13"
    assert "--disable-uvicorn-access-log" in argv
    assert json.loads(value_of("--custom-histogram-buckets", argv)) == HISTOGRAM_BUCKETS


def test_an_older_version_gets_no_flag_it_does_not_know() -> None:
    known = {name: flag for name, flag in SCHEMA.flags.items() if name == "shutdown_timeout"}
    argv = command(FlagSchema("0.10.0", known))
    assert "--shutdown-timeout" in argv
    assert "--custom-histogram-buckets" not in argv


def test_the_model_has_the_last_word_about_what_is_added() -> None:
    argv = command(options={"disable_uvicorn_access_log": False, "custom_histogram_buckets": {}})
    assert "--no-disable-uvicorn-access-log" in argv
    assert "--disable-uvicorn-access-log" not in argv
    assert argv.count("--custom-histogram-buckets") == 1


def test_what_nobody_wrote_is_known_apart() -> None:
    model = ModelConfig(name="qwen", source="q", options={"disable_uvicorn_access_log": False})
    assert added_flags(model, SCHEMA) == ("--shutdown-timeout", "--custom-histogram-buckets")
    assert added_flags(model, None) == ()


def test_sleep_mode_is_switched_on_for_who_can_sleep_but_not_on_a_cpu() -> None:
    name, sleeps = "enable_sleep_mode", ("--enable-sleep-mode", "--no-enable-sleep-mode")
    schema = FlagSchema("0.32.0", {name: Flag(name, sleeps, takes="toggle")})

    def flags(device: str | None, **fields: Any) -> list[str]:
        model = ModelConfig(name="qwen", source="q", **fields)
        argv = serve_command("vllm", model, source="q", port=1, schema=schema, device=device)
        said = {sleeps[not value] for value in model.options.values()}
        assert {*added_flags(model, schema, device)} == {*argv} & {*sleeps} - said
        return [word for word in argv if "sleep" in word]

    assert flags("cuda", sleep_level=1) == ["--enable-sleep-mode"]
    assert flags(None, sleep_level=2) == ["--enable-sleep-mode"]
    assert flags("cpu", sleep_level=1) == []
    assert flags("cuda") == []
    assert flags("cuda", sleep_level=1, options={name: False}) == ["--no-enable-sleep-mode"]


def test_remote_code_is_trusted_only_when_the_model_says_so() -> None:
    assert "--trust-remote-code" not in command()
    assert "--trust-remote-code" in command(trust_remote_code=True)


def test_no_secret_and_no_reference_to_one_is_on_it() -> None:
    argv = command(env={"HF_TOKEN": Secret(file="secrets/HF_TOKEN"), "PLAIN": "plain-value"})
    assert not any("secrets" in word or "plain-value" in word for word in argv)


def test_histogram_bounds_rise_by_at_most_a_quarter() -> None:
    for bounds in HISTOGRAM_BUCKETS.values():
        ratios = [b / a for a, b in itertools.pairwise(bounds)]
        assert bounds[0] == 0.001
        assert min(ratios) > 1.1
        assert max(ratios) < 1.26
