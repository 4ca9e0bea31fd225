"""Lengths of prompts and answers."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_console.traffic.lengths import TEMPLATE_TOKENS, Lengths, spread_lengths


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(64, 10**6))
def test_a_request_always_fits_the_context_and_is_never_empty(
    prompt: int, output: int, context: int
) -> None:
    cut = Lengths(prompt, output).within(context)
    assert cut.prompt >= 1
    assert cut.output >= 1
    assert cut.prompt + cut.output + TEMPLATE_TOKENS <= context


def test_a_request_that_fits_stays_as_it_is() -> None:
    assert Lengths(100, 50).within(2048) == Lengths(100, 50)


def test_spread_lengths_have_the_means_asked_for_and_repeat_by_seed() -> None:
    drawn = list(islice(spread_lengths(prompt=200, output=60, seed=1), 20_000))
    assert sum(d.prompt for d in drawn) / len(drawn) == pytest.approx(200, rel=0.05)
    assert sum(d.output for d in drawn) / len(drawn) == pytest.approx(60, rel=0.05)
    assert drawn[:50] == list(islice(spread_lengths(prompt=200, output=60, seed=1), 50))
    assert drawn[:50] != list(islice(spread_lengths(prompt=200, output=60, seed=2), 50))
