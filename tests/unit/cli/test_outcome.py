"""What a headless demo prints, and when it calls itself a success."""

from __future__ import annotations

import json

from vllm_console.cli.outcome import Outcome
from vllm_console.traffic.summary import ModelSummary, Summary

SERVED = ModelSummary("tiny-a", 120, 118, {"http-503": 1, "timeout": 1}, 9000, 6000, 0.012, 0.25)
SLOW = ModelSummary("tiny-b", 10, 10, {}, 900, 600, 11.0, 42.0)


def outcome(*models: ModelSummary, expected: tuple[str, ...] = ("tiny-a",)) -> Outcome:
    first = 1030.5 if models else None
    return Outcome(Summary(60.0, 0, 3, 0, first, models), expected, 1000.0)


def test_the_table_tells_every_model_and_the_first_token() -> None:
    assert outcome(SERVED, SLOW).lines() == [
        "model   requests  tokens  tok/s  TTFT p50  TTFT p95  errors",
        "tiny-a       120    6000  100.0     12 ms    250 ms  1 http-503, 1 timeout",
        "tiny-b        10     600   10.0    11.0 s    42.0 s  none",
        "",
        "first token after 30.5 s",
        "traffic           60 s",
        "not sent          3 (too many in flight)",
    ]


def test_a_model_that_served_nothing_is_told_and_fails_the_demo() -> None:
    silent = ModelSummary("tiny-b", 5, 0, {"refused": 5}, 0, 0)
    told = outcome(SERVED, silent, expected=("tiny-a", "tiny-b", "tiny-c"))
    assert told.unserved == ["tiny-b", "tiny-c"]
    assert told.lines()[2].split() == ["tiny-b", "5", "0", "0.0", "–", "–", "5", "refused"]
    assert told.lines()[3].split()[:2] == ["tiny-c", "0"]
    assert told.to_json()["ok"] is False


def test_without_any_token_the_first_one_is_unknown_not_zero() -> None:
    told = outcome(expected=("tiny-a",))
    assert "first token after no token" in told.lines()
    assert told.to_json()["first_token_s"] is None


def test_the_json_form_is_one_plain_object() -> None:
    told = json.loads(json.dumps(outcome(SERVED).to_json(), allow_nan=False))
    assert told["schema"] == "vllm-console/demo/1"
    assert told["ok"] is True
    assert told["first_token_s"] == 30.5
    assert told["models"][0]["errors"] == {"http-503": 1, "timeout": 1}
