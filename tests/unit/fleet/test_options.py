"""Options are checked against the flags of real vLLM 0.32 and become arguments it reads back."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllm_console.fleet.options import (
    Flag,
    FlagSchema,
    check_options,
    human_int,
    to_argv,
)

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no failure."""

DUMP = Path(__file__).with_name("vllm_0_32_flags.json")
SCHEMA = FlagSchema.from_json(json.loads(DUMP.read_text(encoding="utf-8")))


def faults(**options: Any) -> list[str]:
    return [str(problem) for problem in check_options(options, SCHEMA)]


def test_the_schema_tells_which_vllm_it_is_of() -> None:
    assert SCHEMA.version == "0.32.0+cpu"
    assert "max_num_seqs" in SCHEMA
    assert "max_num_sequences" not in SCHEMA


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_num_seqs", 16),
        ("kv_cache_memory_bytes", "64M"),
        ("kv_cache_memory_bytes", 67108864),
        ("max_num_batched_tokens", "25.6k"),
        ("max_model_len", "auto"),
        ("max_model_len", -1),
        ("enforce_eager", False),
        ("no_enforce_eager", True),
        ("gpu_memory_utilization", 1),
        ("device_memory_utilization", 0.5),
        ("dtype", "bfloat16"),
        ("moe_backend", "Triton"),
        ("max_lora_rank", 16),
        ("speculative_config", {"method": "ngram", "num_speculative_tokens": 4}),
        ("compilation_config", '{"mode": 3}'),
        ("hf_overrides", "my.module"),
        ("cudagraph_capture_sizes", [1, 2, 4]),
        ("cudagraph_capture_sizes", 1),
        ("lora_modules", [{"name": "a", "path": "b"}, "c=d"]),
        ("allowed_origins", ["*"]),
        ("middleware", ["a.b", "c.d"]),
        ("hf_token", True),
    ],
)
def test_what_vllm_takes_is_accepted(option: str, value: Any) -> None:
    assert faults(**{option: value}) == []


@pytest.mark.parametrize(
    ("option", "value", "fault"),
    [
        ("max_num_sequences", 4, 'has no such option; did you mean "max_num_seqs"?'),
        ("tp", 2, 'has no such option; did you mean "tensor_parallel_size"?'),
        ("max-num-seqs", 4, 'has no such option; did you mean "max_num_seqs"?'),
        ("zzz", 4, "vLLM 0.32.0+cpu has no such option"),
        ("max_num_seqs", "many", 'must be a whole number, not "many"'),
        ("max_num_seqs", True, "must be a whole number, not true"),
        ("max_num_seqs", 1.5, "must be a whole number, not 1.5"),
        ("max_num_seqs", [1], "must be a whole number, not a list"),
        ("gpu_memory_utilization", "90%", 'must be a number, not "90%"'),
        ("kv_cache_memory_bytes", "1.5M", "takes fractions only with a small letter"),
        ("kv_cache_memory_bytes", "64MB", 'with a unit such as "64M"'),
        ("kv_cache_memory_bytes", "auto", 'not "auto"'),
        ("enforce_eager", "yes", 'must be true or false, not "yes"'),
        ("enforce_eager", 1, "must be true or false, not 1"),
        ("dtype", "bloat16", 'did you mean "bfloat16"?'),
        ("max_lora_rank", 17, "must be one of 1, 8, 16"),
        ("speculative_config", True, "must be a table, a list or JSON text"),
        ("speculative_config", "{x", "is not JSON"),
        ("cudagraph_capture_sizes", [], "must hold at least one value"),
        ("cudagraph_capture_sizes", [1, "x"], 'must be a whole number, not "x"'),
        ("cudagraph_capture_sizes", [{"a": 1}], "must be a whole number, not a table"),
        ("ignore_patterns", ["-x"], "vLLM would read it as a flag"),
        ("tool_call_parser", {"a": 1}, "must be a text, not a table"),
    ],
)
def test_what_vllm_refuses_is_one_problem_that_says_why(
    option: str, value: Any, fault: str
) -> None:
    (problem,) = check_options({option: value}, SCHEMA)
    assert problem.key == f"options.{option}"
    assert fault in problem.text


def test_two_spellings_of_one_option_are_a_problem() -> None:
    assert faults(enforce_eager=True, no_enforce_eager=True) == [
        'options.no_enforce_eager: says the same as "enforce_eager"; keep one of them'
    ]


def test_a_date_cannot_become_json() -> None:
    import datetime

    assert "quotes" in faults(hf_overrides={"day": datetime.date(2026, 1, 1)})[0]


@pytest.mark.parametrize(
    ("text", "number"),
    [("64M", 64 * 1024**2), ("1k", 1000), ("25.6k", 25600), ("12", 12), ("1.1g", 1_100_000_000)],
)
def test_human_integers_read_as_vllm_reads_them(text: str, number: int) -> None:
    assert human_int(text) == number


@pytest.mark.parametrize(
    ("options", "argv"),
    [
        ({"max_num_seqs": 16}, ["--max-num-seqs", "16"]),
        ({"enforce_eager": True}, ["--enforce-eager"]),
        ({"enforce_eager": False}, ["--no-enforce-eager"]),
        ({"no_enforce_eager": False}, ["--enforce-eager"]),
        ({"disable_log_stats": False}, []),
        ({"device_memory_utilization": 0.5}, ["--gpu-memory-utilization", "0.5"]),
        ({"max_model_len": -1}, ["--max-model-len=-1"]),
        ({"tool_call_parser": "-x"}, ["--tool-call-parser=-x"]),
        ({"hf_overrides": {"a": ["é", 1]}}, ["--hf-overrides", '{"a":["é",1]}']),
        ({"cudagraph_capture_sizes": [1, 2]}, ["--cudagraph-capture-sizes", "1", "2"]),
        ({"middleware": ["a", "b"]}, ["--middleware", "a", "--middleware", "b"]),
        ({"allowed_origins": ["*"]}, ["--allowed-origins", '["*"]']),
    ],
)
def test_options_become_the_exact_flags(options: dict[str, Any], argv: list[str]) -> None:
    assert to_argv(options, SCHEMA) == argv


def test_without_a_schema_the_plain_rule_holds() -> None:
    options = {"max_num_seqs": 8, "a_b": True, "c_d": False, "e": [1, 2], "f": {"x": 1}, "g": []}
    assert to_argv(options, None) == [
        *("--max-num-seqs", "8", "--a-b", "--no-c-d", "--e", "1", "2", "--f", '{"x":1}')
    ]


def parser_of(schema: FlagSchema) -> argparse.ArgumentParser:
    """An argument parser with the flags as vLLM defines them."""
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    for flag in schema.flags.values():
        names = [name for name in flag.flags if not name.startswith("--no-")]
        if flag.takes == "toggle":
            parser.add_argument(
                *names, dest=flag.name, action=argparse.BooleanOptionalAction, default=None
            )
        elif flag.takes == "switch":
            parser.add_argument(*names, dest=flag.name, action="store_true", default=None)
        else:
            types: dict[str, Callable[[str], Any]] = {
                "int": int,
                "float": float,
                "human-int": _human,
                "json": json.loads,
            }
            parser.add_argument(
                *names,
                dest=flag.name,
                type=types.get(flag.takes, str),
                action="append" if flag.many == "repeat" else "store",
                nargs="+" if flag.many == "list" else "?" if flag.bare else None,
            )
    return parser


def _human(text: str) -> int:
    return -1 if text in ("auto", "-1") else human_int(text)


PARSER = parser_of(SCHEMA)
JSON = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2),
    ),
    max_size=3,
)


def values_for(flag: Flag) -> st.SearchStrategy[Any]:
    if flag.choices:
        return st.sampled_from(flag.choices if flag.takes != "int" else [*map(int, flag.choices)])
    if flag.takes in ("toggle", "switch"):
        return st.booleans()
    text = st.text(min_size=1, max_size=8)
    if flag.many != "no":
        one = st.integers() if flag.takes == "int" else text.filter(lambda t: t[0] != "-")
        return st.lists(one, min_size=1, max_size=3)
    return {
        "int": st.integers(),
        "float": st.floats(allow_nan=False),
        "human-int": st.integers(0, 10**12) | st.sampled_from(("64M", "1.5g", "3K")),
        "json": JSON,
        "json-or-text": JSON.filter(bool) | text,
        "text": text,
    }[flag.takes]


def read_back(flag: Flag, value: Any) -> Any:
    """What vLLM's own parser gives for a value of the fleet file."""
    if flag.takes == "switch":
        return value or None
    if flag.takes == "human-int":
        return _human(str(value))
    if flag.takes == "json-or-text" and isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return value


FLAGS = st.lists(st.sampled_from(list(SCHEMA.flags.values())), unique_by=lambda flag: flag.name)
OPTIONS = FLAGS.flatmap(
    lambda flags: st.fixed_dictionaries({flag.name: values_for(flag) for flag in flags})
)


@UNHURRIED
@given(OPTIONS)
def test_any_checked_options_read_back_as_they_were_said(options: dict[str, Any]) -> None:
    assert check_options(options, SCHEMA) == []
    parsed = vars(PARSER.parse_args(to_argv(options, SCHEMA)))
    for flag in SCHEMA.flags.values():
        expected = read_back(flag, options[flag.name]) if flag.name in options else None
        assert parsed[flag.name] == expected
