"""A plan names what an edited fleet file would do, model by model, key by key."""

from __future__ import annotations

from typing import Any

from vllm_console.control.plan import Kind, digest, plan
from vllm_console.fleet.model import ModelConfig


def models(**said: dict[str, Any]) -> dict[str, ModelConfig]:
    return {name: ModelConfig(name=name, source="x/y", **keys) for name, keys in said.items()}


def test_the_same_file_plans_nothing() -> None:
    assert plan(models(a={}, b={}), models(a={}, b={})) == ()


def test_an_engine_option_replaces_workers_and_says_from_what_to_what() -> None:
    (change,) = plan(
        models(a={"options": {"max_num_seqs": 8}}), models(a={"options": {"max_num_seqs": 16}})
    )
    assert change.kind is Kind.RESTART
    assert change.what == ("options.max_num_seqs: 8 → 16",)


def test_a_target_is_taken_up_without_touching_a_worker() -> None:
    (change,) = plan(models(a={}), models(a={"slo": {"ttft_p95_s": 0.2}}))
    assert change.kind is Kind.UPDATE
    assert change.what == ("slo.ttft_p95: – → 0.2",)


def test_what_goes_comes_first_and_what_is_new_last() -> None:
    changes = plan(models(old={}, kept={}), models(new={}, kept={"aliases": ("k",)}))
    assert [(c.kind, c.model) for c in changes] == [
        (Kind.REMOVE, "old"),
        (Kind.RESTART, "kept"),
        (Kind.ADD, "new"),
    ]


def test_secrets_show_by_their_reference() -> None:
    (change,) = plan(models(a={}), models(a={"env": {"HF_TOKEN": {"file": "secrets/t"}}}))
    assert change.what == ('env.HF_TOKEN: – → {"file": "secrets/t"}',)


def test_a_digest_is_of_the_plan() -> None:
    one = plan(models(a={}), models(b={}))
    assert digest(one) == digest(plan(models(a={}), models(b={})))
    assert digest(one) != digest(plan(models(a={}), models(c={})))
