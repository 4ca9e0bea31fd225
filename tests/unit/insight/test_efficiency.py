"""What a model makes of its hardware: every formula against numbers worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_console.insight.efficiency import cost_per_million, overall, served, tokens_per_joule

SHARES = st.floats(0.0, 1.0)


def test_what_was_served_are_answers_that_stopped_or_filled_their_length() -> None:
    reasons = {"stop": 80.0, "length": 10.0, "abort": 6.0, "error": 4.0}
    assert served(reasons) == pytest.approx(0.9)
    assert served({"stop": 0.0}) is None
    assert served({}) is None
    assert served(None) is None


def test_tokens_a_second_over_watts_are_tokens_a_joule() -> None:
    assert tokens_per_joule(1200.0, 600.0) == 2.0
    assert tokens_per_joule(0.0, 600.0) == 0.0
    assert tokens_per_joule(None, 600.0) is None
    assert tokens_per_joule(1200.0, None) is None
    assert tokens_per_joule(1200.0, 0.0) is None


def test_a_million_tokens_cost_what_the_gpus_cost_meanwhile() -> None:
    # 1000 tok/s make a million in 1000 s; two GPUs at 3.60 an hour cost 0.002 a second.
    assert cost_per_million(1000.0, 2, 3.6) == pytest.approx(2.0)
    assert cost_per_million(0.0, 2, 3.6) is None
    assert cost_per_million(1000.0, 0, 3.6) is None
    assert cost_per_million(1000.0, 2, None) is None
    assert cost_per_million(1000.0, 2, 0.0) == 0.0


def test_the_overall_share_is_the_product_of_its_parts() -> None:
    assert overall(0.8, 0.5, 0.9) == pytest.approx(0.36)
    assert overall(0.8, 0.5, None) == pytest.approx(0.4)
    assert overall(None, 0.5, 0.9) is None
    assert overall(0.8, None, 0.9) is None


@given(SHARES, SHARES, SHARES)
def test_the_overall_share_is_never_above_its_least_part(
    busy: float, fill: float, good: float
) -> None:
    share = overall(busy, fill, good)
    assert share is not None
    assert 0.0 <= share <= min(busy, fill, good)
