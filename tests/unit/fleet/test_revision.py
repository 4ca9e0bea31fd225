"""A fingerprint changes with what a worker must be restarted for, and with nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_console.fleet.model import ModelConfig, Scale, Slo
from vllm_console.fleet.revision import fingerprint
from vllm_console.fleet.secrets import Secret


def of(**fields: Any) -> str:
    base: dict[str, Any] = {"name": "m", "source": "s", "options": {"a": 1, "b": 2}}
    return fingerprint(ModelConfig(**{**base, **fields}))


@pytest.mark.parametrize(
    "fields",
    [
        {"source": "other"},
        {"engine": "cpu"},
        {"aliases": ("x",)},
        {"gpus": 2},
        {"devices": (1,)},
        {"options": {"a": 1, "b": 3}},
        {"options": {"a": 1}},
        {"env": {"X": "1"}},
        {"env": {"X": Secret(file="f")}},
        {"trust_remote_code": True},
        {"drain_timeout_s": 5.0},
    ],
)
def test_what_a_worker_is_started_with_changes_it(fields: dict[str, Any]) -> None:
    assert of(**fields) != of()


@pytest.mark.parametrize(
    "fields",
    [
        {"slo": Slo(ttft_p95_s=1.0)},
        {"scale": Scale(min=1, max=4)},
        {"autostart": False},
        {"pinned": True},
        {"idle_unload_s": 60.0},
        {"start_timeout_s": 60.0},
        {"sampling": {"temperature": 0.5}},
        {"options": {"b": 2, "a": 1}},
        {"drain_timeout_s": 30.0},
    ],
)
def test_what_needs_no_restart_leaves_it(fields: dict[str, Any]) -> None:
    assert of(**fields) == of()


def test_it_is_the_same_in_every_process_and_release() -> None:
    assert of() == "c64563a20b4f4dfd"


def test_a_literal_and_a_secret_of_the_same_name_differ() -> None:
    assert of(env={"X": Secret(env="Y")}) != of(env={"X": Secret(file="Y")})
