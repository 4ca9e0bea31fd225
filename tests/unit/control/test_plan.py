"""A plan names what an edited fleet file would do, model by model, key by key."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_console.control.canary import Canary
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


@pytest.mark.parametrize(
    ("says", "kind", "told"),
    [
        (16, Kind.RESTART, "canary: revision 2 stays, and takes the place of one worker"),
        (32, Kind.RESTART, "canary: revision 2 ends first"),
        (8, Kind.END_CANARY, "canary: revision 2 ends first"),
    ],
)
def test_a_canary_of_the_files_configuration_stays_and_any_other_ends(
    says: int, kind: Kind, told: str
) -> None:
    def one(slots: int) -> dict[str, ModelConfig]:
        return models(a={"options": {"max_num_seqs": slots}})

    canary = Canary(one(16)["a"], 2, 0.1, "a-2", 0.0)
    (change,) = plan(one(8), one(says), {"a": canary})
    assert (change.kind, change.what[-1]) == (kind, told)
    assert len(change.what) == 1 + (says != 8)
    assert digest((change,)) != digest(plan(one(8), one(says)))


def test_what_needs_no_worker_is_taken_up_while_a_canary_ends() -> None:
    canary = Canary(models(a={"aliases": ("k",)})["a"], 2, 0.1, "a-2", 0.0)
    (change,) = plan(models(a={}), models(a={"slo": {"ttft_p95_s": 0.2}}), {"a": canary})
    assert change.kind is Kind.END_CANARY
    assert change.what == ("slo.ttft_p95: – → 0.2", "canary: revision 2 ends first")


def test_a_digest_is_of_the_plan() -> None:
    one = plan(models(a={}), models(b={}))
    assert digest(one) == digest(plan(models(a={}), models(b={})))
    assert digest(one) != digest(plan(models(a={}), models(c={})))
