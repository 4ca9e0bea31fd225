"""The environment and the command line lie on top of the file, and every value knows its origin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllm_console.fleet.layers import Override, from_environ, from_sets
from vllm_console.fleet.load import FleetError, load_fleet
from vllm_console.fleet.model import Fleet, Origin
from vllm_console.fleet.origins import origin_of, origins
from vllm_console.fleet.problems import Problem
from vllm_console.fleet.secrets import Secret

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no failure."""

TEXT = """\
[defaults.options]
max_num_seqs = 8
seed = 1

[models.tiny]
source = "s"

[models."qwen2.5-7b"]
source = "q"
drain_timeout = "5s"
options = { seed = 2, speculative_config = { method = "ngram", n = 2 } }
"""


def load(folder: Path, environ: Mapping[str, str], *sets: str) -> Fleet:
    path = folder / "fleet.toml"
    path.write_text(TEXT, encoding="utf-8")
    return load_fleet(path, environ=environ, sets=sets)


def problems(folder: Path, environ: Mapping[str, str], *sets: str) -> list[str]:
    with pytest.raises(FleetError) as raised:
        load(folder, environ, *sets)
    return [str(problem) for problem in raised.value.problems]


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    fleet = load(
        tmp_path,
        {
            "VLLM_CONSOLE_GATEWAY__PORT": "4100",
            "VLLM_CONSOLE_MODELS__TINY__OPTIONS__MAX_NUM_SEQS": "64",
            "VLLM_CONSOLE_MODELS__TINY__OPTIONS__KV_CACHE_MEMORY_BYTES": "64M",
            "VLLM_CONSOLE_MODELS__QWEN2_5_7B__ALIASES": '["a", "b"]',
            "VLLM_CONSOLE_MODELS__QWEN2_5_7B__DRAIN_TIMEOUT": "7s",
        },
    )
    assert fleet.gateway.port == 4100
    tiny, qwen = fleet.models["tiny"], fleet.models["qwen2.5-7b"]
    assert tiny.options == {"max_num_seqs": 64, "seed": 1, "kv_cache_memory_bytes": "64M"}
    assert (qwen.aliases, qwen.drain_timeout_s) == (("a", "b"), 7.0)


def test_variables_of_a_worker_keep_their_case_and_stay_text(tmp_path: Path) -> None:
    fleet = load(
        tmp_path,
        {
            "VLLM_CONSOLE_MODELS__TINY__ENV__OMP_NUM_THREADS": "2",
            "VLLM_CONSOLE_MODELS__TINY__ENV__lower__case": "true",
            "VLLM_CONSOLE_MODELS__TINY__ENV__HF_TOKEN": '{ file = "f" }',
        },
    )
    assert fleet.models["tiny"].env == {
        "OMP_NUM_THREADS": "2",
        "lower__case": "true",
        "HF_TOKEN": Secret(file="f"),
    }


def test_other_variables_of_the_console_are_left_alone(tmp_path: Path) -> None:
    load(tmp_path, {"VLLM_CONSOLE_STATE_DIR": "/x", "VLLM_PORT": "1", "A__B": "1"})


def test_the_command_line_wins_over_the_environment(tmp_path: Path) -> None:
    fleet = load(
        tmp_path,
        {"VLLM_CONSOLE_MODELS__TINY__OPTIONS__SEED": "5"},
        "models.tiny.options.seed=6",
        "models.tiny.options.dtype = float16",
        "models.qwen2.5-7b.pinned=true",
        'models."qwen2.5-7b".options.speculative_config.n=3',
        "models.tiny.env.X=1",
    )
    tiny, qwen = fleet.models["tiny"], fleet.models["qwen2.5-7b"]
    assert tiny.options == {"max_num_seqs": 8, "seed": 6, "dtype": "float16"}
    assert tiny.env == {"X": "1"}
    assert qwen.pinned
    assert qwen.options["speculative_config"] == {"method": "ngram", "n": 3}


def test_a_default_that_is_set_yields_to_the_model(tmp_path: Path) -> None:
    fleet = load(tmp_path, {}, "defaults.options.seed=9")
    assert fleet.models["tiny"].options["seed"] == 9
    assert fleet.models["qwen2.5-7b"].options["seed"] == 2


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("nonsense", "--set nonsense: takes KEY=VALUE, such as"),
        ("models.tiny=1", "--set models.tiny: takes KEY=VALUE, such as"),
        ("models.tinny.pinned=true", '--set models.tinny.pinned: no model "tinny"; did you mean'),
        ("gatway.port=1", "--set gatway.port: no section gatway; did you mean"),
        ("gateway.prot=1", '--set: gateway.prot: unknown key; did you mean "port"?'),
        ("models.tiny.gpus=two", "--set: models.tiny.gpus: must be a number of GPUs"),
        ("models.tiny.options.port=1", "--set: models.tiny.options.port: belongs to the console"),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path: Path, said: str, told: str) -> None:
    (line,) = problems(tmp_path, {}, said)
    assert line.startswith(told)


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("MODELS__TINNY__GPUS", 'no such model; did you mean "TINY"?'),
        ("MODEL__TINY__GPUS", 'no section MODEL; did you mean "MODELS"?'),
        ("MODELS__TINY", "names no single value"),
        ("MODELS__TINY__PINED", 'models.tiny.pined: unknown key; did you mean "pinned"?'),
        ("MODELS__TINY__PINNED", 'models.tiny.pinned: must be true or false, not "yes"'),
    ],
)
def test_a_wrong_variable_is_one_line_with_its_name(
    tmp_path: Path, variable: str, told: str
) -> None:
    (line,) = problems(tmp_path, {f"VLLM_CONSOLE_{variable}": "yes"})
    assert line == f"VLLM_CONSOLE_{variable}: {told}"


def test_a_variable_that_may_mean_two_models_is_refused() -> None:
    found: list[Problem] = []
    environ = {"VLLM_CONSOLE_MODELS__A_B__GPUS": "1"}
    assert list(from_environ(environ, ["a-b", "a.b"], found)) == []
    assert "means more than one model: a-b, a.b" in str(found[0])


def test_every_value_tells_where_it_comes_from(tmp_path: Path) -> None:
    fleet = load(
        tmp_path,
        {"VLLM_CONSOLE_MODELS__QWEN2_5_7B__PINNED": "true"},
        "models.qwen2.5-7b.options.dtype=half",
    )
    rows = {key: (value, origin) for key, value, origin in origins(fleet, "qwen2.5-7b")}
    assert rows["source"] == ("q", Origin("model", "fleet.toml:9", 9))
    assert rows["drain_timeout"] == ("5s", Origin("model", "fleet.toml:10", 10))
    assert rows["start_timeout"] == ("30m", Origin("built-in", "built-in"))
    assert rows["options.max_num_seqs"] == (8, Origin("defaults", "fleet.toml:2", 2))
    assert rows["options.seed"] == (2, Origin("model", "fleet.toml:11", 11))
    assert rows["options.dtype"] == ("half", Origin("command line", "--set"))
    pinned = "VLLM_CONSOLE_MODELS__QWEN2_5_7B__PINNED"
    assert rows["pinned"] == (True, Origin("environment", pinned))


def test_a_key_that_is_not_said_has_the_origin_of_its_model(tmp_path: Path) -> None:
    fleet = load(tmp_path, {})
    assert origin_of(fleet, "tiny", "options.seed").place == "fleet.toml:3"
    assert origin_of(fleet, "tiny", "engine").place == "fleet.toml:5"


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9.-]{0,6}", fullmatch=True)
VALUES = st.integers() | st.booleans() | st.sampled_from(("64M", "a b", "é", "=", "x.y/z"))


def written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def only(overrides: list[Override], found: list[Problem]) -> tuple[tuple[str, ...], Any]:
    assert found == []
    (override,) = overrides
    return override.path, override.entry.value


@UNHURRIED
@given(NAMES, VALUES)
def test_any_model_can_be_named_in_both(name: str, value: int | str) -> None:
    found: list[Problem] = []
    folded = "".join(c if c.isalnum() else "_" for c in name).upper()
    variable = f"VLLM_CONSOLE_MODELS__{folded}__OPTIONS__SEED"
    expected = (("models", name, "options", "seed"), value)
    assert only(list(from_environ({variable: written(value)}, [name], found)), found) == expected
    said = f"models.{name}.options.seed={written(value)}"
    assert only(list(from_sets([said], [name], found)), found) == expected


@UNHURRIED
@given(st.text(max_size=20))
def test_no_setting_and_no_variable_breaks_the_reader(text: str) -> None:
    found: list[Problem] = []
    overrides = [
        *from_sets([text, f"models.m.{text}", f"gateway.port={text}"], ["m"], found),
        *from_environ({f"VLLM_CONSOLE_MODELS__M__{text}": text}, ["m"], found),
    ]
    assert len(overrides) + len(found) == 4
