"""Graph series out of the stored past: whole columns, holes only where nothing was seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.history.past import EPOCH, Past, sample
from vllm_console.history.base import SERIES
from vllm_console.history.graphs import series

_W = "worker/w"


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    past = Past(tmp_path)
    yield past
    past.close()


def _one(past: Past, metric: str, seconds: float, step: float) -> list[float | None]:
    found = series(past.reader(), [_W], [metric], EPOCH + past.at, seconds, step)
    return found[_W][metric]


def test_every_series_of_every_subject_comes_in_one_answer(past: Past) -> None:
    past.run(120)
    found = series(past.reader(), [_W, "fleet"], SERIES, EPOCH + past.at, 60, 1)
    assert found.keys() == {_W, "fleet"}
    assert tuple(found[_W]) == SERIES
    assert {len(values) for values in found[_W].values()} == {60}
    assert found["fleet"] == dict.fromkeys(SERIES, [None] * 60)


@pytest.mark.parametrize(("seconds", "step"), [(60, 1), (600, 10), (7200, 60), (86_400, 300)])
def test_a_rate_and_a_gauge_are_right_at_any_step(past: Past, seconds: int, step: int) -> None:
    past.run(1800)
    reach = min(seconds, 1700) // step
    rates = _one(past, "generation_tokens_per_s", seconds, step)
    assert rates[-reach:-1] == [pytest.approx(3.0)] * (reach - 1)
    if step >= 10:
        assert _one(past, "running", seconds, step)[-reach:-1] == [pytest.approx(4.5)] * (reach - 1)
    p95 = _one(past, "ttft_p95_s", seconds, step)
    assert p95[-reach:-1] == [1.0] * (reach - 1)


def test_an_idle_workers_graph_has_no_holes_and_a_silent_ones_has(past: Past) -> None:
    for _ in range(20):
        past.at += 5
        past.tick((_W, sample(past.at, 7.0, running=2.0)))
    past.at += 100
    for _ in range(5):
        past.at += 5
        past.tick((_W, sample(past.at, 7.0, running=2.0)))
    running = _one(past, "running", 240, 1)
    assert running[18:114] == [2.0] * 96
    assert running[114:218] == [None] * 104
    assert running[218:239] == [2.0] * 21
    assert _one(past, "generation_tokens_per_s", 240, 1)[-200:-130] == [0.0] * 70
