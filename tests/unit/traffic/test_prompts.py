"""Prompts: their length, and what they have in common."""

from __future__ import annotations

from collections import Counter

import pytest

from vllm_console.traffic.prompts import SHARED, Prompts


@pytest.mark.parametrize("words", [1, 2, 3, 10, 500, 3000])
def test_a_prompt_has_as_many_words_as_asked(words: int) -> None:
    messages = Prompts(1).messages(words)
    assert sum(len(message["content"].split()) for message in messages) == words
    assert messages[-1]["role"] == "user"


def test_a_few_beginnings_are_shared_and_no_two_prompts_are_the_same() -> None:
    prompts = Prompts(1)
    made = [prompts.messages(100) for _ in range(200)]
    beginnings = Counter(messages[0]["content"] for messages in made)
    assert len(beginnings) == SHARED
    assert len({messages[1]["content"] for messages in made}) == 200


def test_a_shorter_prompt_begins_like_a_longer_one() -> None:
    prompts = Prompts(1)
    long = {prompts.messages(400)[0]["content"] for _ in range(100)}
    short = prompts.messages(100)[0]["content"]
    assert any(beginning.startswith(short) for beginning in long)


def test_the_seed_decides_the_words() -> None:
    assert Prompts(1).messages(50) == Prompts(1).messages(50)
    assert Prompts(1).messages(50) != Prompts(2).messages(50)
