"""From what a person writes to a question, or to the line that says what is wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from vllm_console.answer import Question
from vllm_console.errors import InvalidInput, NotFound
from vllm_console.history.askable import ASKABLE, Form, askable, usual
from vllm_console.history.asking import question
from vllm_console.history.subjects import Known, resolve, workers_of
from vllm_console.telemetry.names import MARKS, METRICS, Kind

NOW = datetime(2026, 11, 21, 10, 30, tzinfo=UTC).timestamp()


def ask(**asked: Any) -> Question:
    return question("chat", now=NOW, zone=UTC, **asked)


def test_an_hour_up_to_now_is_asked_about_by_default() -> None:
    assert ask() == Question("chat", (), NOW - 3600, NOW)


def test_a_span_that_is_so_long_ago_begins_on_a_whole_step() -> None:
    asked = ask(since="65m", step="1h", metrics=["ttft", "itl", "ttft"], quantiles="p50, 99.9")
    assert (asked.since, asked.until) == (NOW - 5400, NOW)
    assert (asked.metrics, asked.quantiles, asked.step) == (("ttft", "itl"), (50, 99.9), 3600)
    assert ask(since="2026-11-21 09:07", step="1h").since == NOW - 83 * 60


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"since": "now"}, "since now: is not in the past"),
        ({"since": "1h", "until": "2h"}, "since 1h: is not before 2h, where the span ends"),
        ({"quantiles": "0.95"}, 'quantile 0.95: is in percent; write "95"'),
        ({"quantiles": "150"}, 'quantile 150: is not between 0 and 100; write "50,95,99"'),
        ({"quantiles": "p"}, 'quantile p: is not between 0 and 100; write "50,95,99"'),
        ({"quantiles": ","}, 'no quantile; write "50,95,99"'),
        ({"step": "2h"}, "step 2h: is not between 1s and the 1h asked"),
        ({"step": "1ms"}, "step 1ms: is not between 1s and the 1h asked"),
        ({"step": "1s", "since": "1d"}, "step 1s: makes more than 5000 rows; 18s does not"),
        ({"step": "five"}, 'step: not a duration: "five"; write a number and a unit'),
        ({"by": "workers"}, 'by workers: did you mean "worker"?'),
        ({"by": "x"}, "by x: is one of worker, revision, model"),
        ({"compare": "last"}, "compare last: the one thing to compare with is previous"),
        ({"compare": "previous", "by": "revision"}, "by revision: compares revisions already"),
        ({"metrics": ["tfft"]}, 'no metric "tfft"; did you mean "ttft"?'),
        ({"metrics": ["slo:tftt"]}, 'no target "slo:tftt"; did you mean "slo:ttft"?'),
        ({"metrics": ["slo:ttft:3"]}, 'slo:ttft:3: not a duration: "3"'),
        (
            {"metrics": ["waiting_for"]},
            'no metric "waiting_for"; did you mean "waiting_for:REASON"',
        ),
    ],
)
def test_a_mistake_is_one_line_with_the_nearest_right_spelling(
    asked: dict[str, Any], line: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        ask(**asked)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_all_that_is_stored_can_be_asked_for() -> None:
    for metric in METRICS:
        if metric.kind in (Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM) and metric.name not in MARKS:
            name = f"{metric.name}:x" if metric.split and not metric.whole else metric.name
            assert askable(name).source == (name,)
    for name, row in ASKABLE.items():
        assert row.meaning.endswith((".", "…"))
        if ":" not in name:
            assert askable(name) is row
    assert all(askable(name).of_gpus for name in usual("gpu/GPU-1"))


def test_short_and_long_names_and_parts_mean_the_same() -> None:
    assert askable("ttft") == askable("ttft_s")
    assert askable("requests") == askable("requests_finished")
    assert askable("requests:stop") == askable("requests_finished:stop")
    assert askable("errors").source == ("requests_finished:error",)
    assert askable("waiting_for:capacity").form is Form.GAUGE
    assert askable("spec_accepted_at:0").form is Form.COUNTER
    assert askable("slo:ttft:300ms").target == 0.3


SUBJECTS = ("fleet", "gpu/GPU-ab12", "gpu/GPU-cd34", "model/a", "model/a-1", "worker/a-1",
            "worker/a-2", "worker/a-10", "worker/a-1-1")  # fmt: skip
KNOWN = Known(models={"a": ("first",), "new": ()}, gpus={0: "GPU-cd34"})


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("a", "model/a"),
        ("first", "model/a"),
        ("new", "model/new"),
        ("a-1", "model/a-1"),
        ("worker/a-1", "worker/a-1"),
        ("a-2", "worker/a-2"),
        ("fleet", "fleet"),
        ("0", "gpu/GPU-cd34"),
        ("gpu/0", "gpu/GPU-cd34"),
        ("GPU0", "gpu/GPU-cd34"),
        ("gpu-ab", "gpu/GPU-ab12"),
        ("gpu/GPU-ab12", "gpu/GPU-ab12"),
    ],
)
def test_a_subject_is_found_by_the_names_people_use(name: str, subject: str) -> None:
    assert resolve(name, SUBJECTS, KNOWN) == subject


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("frist", 'nothing is known of "frist"; did you mean "first"?'),
        ("zzz", 'nothing is known of "zzz"; there are a, a-1, new, fleet'),
        ("7", 'nothing is known of "7"; there are gpu/GPU-ab12, gpu/GPU-cd34'),
        ("GPU-", 'nothing is known of "GPU-"; did you mean'),
    ],
)
def test_an_unknown_subject_is_named_with_the_nearest(name: str, line: str) -> None:
    with pytest.raises(NotFound) as caught:
        resolve(name, SUBJECTS, KNOWN)
    assert str(caught.value).startswith(line)


def test_the_workers_of_a_model_are_its_own_in_order() -> None:
    assert workers_of("model/a", SUBJECTS) == ["worker/a-1", "worker/a-2", "worker/a-10"]
    assert workers_of("model/a-1", SUBJECTS) == ["worker/a-1-1"]
    assert len(workers_of("fleet", SUBJECTS)) == 4
