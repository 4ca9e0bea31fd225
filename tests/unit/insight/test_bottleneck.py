"""The binding limit: each rule alone, their order, and shares of time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_console.insight import bottleneck
from vllm_console.insight.bottleneck import LIMITS, Binding, Second, binding

WORKING = Second(
    running=10, waiting=0, kv_cache_usage=0.4, preempted=0, slots=16, step_tokens=200,
    step_budget=2048, busy=0.5, throttled=False, fetching=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "limit"),
    [
        ({}, "none"),
        ({"running": 0, "waiting": 0, "busy": 1.0}, "idle"),
        ({"kv_cache_usage": 0.96, "waiting": 3}, "kv-memory"),
        ({"kv_cache_usage": 0.96}, "none"),
        ({"preempted": 1}, "kv-memory"),
        ({"running": 16, "waiting": 1}, "sequence-slots"),
        ({"running": 16}, "none"),
        ({"step_tokens": 1900}, "token-budget"),
        ({"throttled": True}, "power"),
        ({"busy": 0.95}, "compute"),
        ({"fetching": 2, "waiting": 2}, "network"),
    ],
)
def test_each_limit_binds_by_its_own_sign(changed: dict[str, Any], limit: str) -> None:
    assert binding(replace(WORKING, **changed)) == limit


def test_what_is_not_known_binds_nothing() -> None:
    assert binding(Second(running=4, waiting=9)) == "none"


def test_the_first_limit_that_holds_is_the_one_that_binds() -> None:
    second = replace(
        WORKING, preempted=1, running=16, waiting=2, step_tokens=2048, throttled=True, busy=1.0,
        fetching=1,
    )  # fmt: skip
    freed: list[dict[str, Any]] = [
        {"preempted": 0}, {"running": 15}, {"step_tokens": 0}, {"throttled": False}, {"busy": 0.1},
    ]  # fmt: skip
    found = [binding(second)]
    for change in freed:
        second = replace(second, **change)
        found.append(binding(second))
    assert tuple(found) == LIMITS


def test_shares_are_of_the_seconds_that_were_seen() -> None:
    limits = Binding(span_s=10.0)
    for t in range(6):
        limits.add(t, WORKING if t < 3 else replace(WORKING, busy=1.0))
    limits.add(6, None)
    told = limits.limits()
    assert told.shares == {"none": 0.5, "compute": 0.5}
    assert (told.seen_s, told.now) == (6.0, None)


def test_what_is_older_than_the_span_is_forgotten() -> None:
    limits = Binding(span_s=10.0)
    for t in range(10):
        limits.add(t, WORKING)
    for t in range(10, 20):
        limits.add(t, replace(WORKING, busy=1.0))
    assert limits.limits().shares == {"compute": 1.0}
    limits.add(100, None)
    assert limits.limits().shares is None


@given(st.lists(st.sampled_from([None, WORKING, replace(WORKING, busy=1.0)]), max_size=60))
def test_shares_add_up_to_one(seconds: list[Second | None]) -> None:
    limits = Binding(span_s=20.0)
    for t, second in enumerate(seconds):
        limits.add(float(t), second)
    told = limits.limits()
    seen = [second for second in seconds[-20:] if second is not None]
    assert told.seen_s == len(seen)
    if told.shares is None:
        assert not seen
    else:
        assert sum(told.shares.values()) == pytest.approx(1.0)
        assert told.shares.get("compute", 0.0) == pytest.approx(
            sum(second.busy == 1.0 for second in seen) / len(seen)
        )


def test_every_limit_has_a_name_and_a_definition() -> None:
    from vllm_console.insight.definitions import DEFINITIONS
    from vllm_console.ui.blocks.bottlenecks import LABELS

    named = {definition.name for definition in DEFINITIONS["bottlenecks"]}
    assert set(LABELS) == {*LIMITS, bottleneck.NONE, bottleneck.IDLE}
    assert {LABELS[limit] for limit in LIMITS} <= named
