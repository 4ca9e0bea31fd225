"""Availability out of events, against a count second by second."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_console.history.availability import availability, spells
from vllm_console.history.happenings import Happening

WORKERS = re.compile(r"m-\d+")
UP = ("ready in 3.1 s", "adopted, pid 7, not touched", "stalled: requests run", "ready")
DOWN = ("starting", "draining", "stopping", "failed, out-of-memory: boom", "queued: waits",
        "ended, engine-died: boom; again in 1 s", "crash-loop, unknown: x", "asleep")  # fmt: skip
NEITHER = ("runs revision 1; restart applies 2", "has ended, and GPU 0 is not free after 30 s")


class Said(NamedTuple):
    second: int
    worker: str
    text: str


def told(*said: Said) -> list[Happening]:
    return [Happening(float(s.second), "info", s.worker, s.text) for s in said]


def seen_until_the_end(worker: str, before: float) -> float:
    return before


said = st.builds(
    Said,
    st.integers(0, 60),
    st.sampled_from(["m-1", "m-2", "other-1", "m"]),
    st.sampled_from([*UP, *DOWN, *NEITHER, "stopped"]),
)


@given(st.lists(said, max_size=12), st.integers(0, 59), st.integers(1, 60))
def test_the_shares_are_those_counted_second_by_second(
    said: list[Said], since: int, length: int
) -> None:
    said.sort(key=lambda s: s.second)
    until = since + length
    ready = served = wanted = 0
    for second in range(since, until):
        states = {
            s.worker: s.text
            for s in said
            if s.second <= second and WORKERS.fullmatch(s.worker) and s.text not in NEITHER
        }
        up = sum(text in UP for text in states.values())
        ready += up
        served += up > 0
        wanted += sum(text not in ("stopped", "asleep") for text in states.values())
    found = availability(
        spells(told(*said), WORKERS, 200.0, seen_until_the_end), since, until, (0.0, 200.0)
    )
    assert found.values["available"] == pytest.approx(served / length)
    assert found.values["workers"] == (pytest.approx(ready / wanted) if wanted else None)
    assert found.coverage == 1.0


def test_a_worker_whose_end_nobody_saw_ended_when_it_was_last_seen() -> None:
    for text in (
        "ended while no daemon ran (exit code -9)",
        "was gone when the daemon started, no exit code",
    ):
        found = spells(
            told(Said(10, "m-1", "ready"), Said(90, "m-1", text)), WORKERS, 100.0, lambda *_: 40.0
        )
        assert availability(found, 0, 100, (0, 100)).values["available"] == pytest.approx(0.3)
        assert availability(found, 0, 100, (0, 100)).values["workers"] == pytest.approx(3 / 9)


def test_a_reboot_ends_the_workers_that_it_names() -> None:
    events = told(Said(0, "m-1", "ready"), Said(0, "m-2", "ready"))
    events.append(Happening(50.0, "warn", "fleet", "the machine was rebooted, lost m-1, x-1"))
    found = spells(events, WORKERS, 100.0, lambda *_: 20.0)
    shares = availability(found, 0, 100, (0, 100)).values
    assert shares == {"available": 1.0, "workers": pytest.approx(120 / 200)}


def test_a_state_that_lasts_is_not_ended_by_being_unseen() -> None:
    events = told(
        Said(10, "m-1", "failed, bad-option: x"),
        Said(50, "m-1", "was gone when the daemon started"),
    )
    found = spells(events, WORKERS, 100.0, lambda *_: 0.0)
    assert availability(found, 0, 100, (0, 100)).values == {"available": 0.0, "workers": 0.0}


def test_only_what_events_can_tell_counts() -> None:
    found = spells(told(Said(50, "m-1", "ready")), WORKERS, 100.0, seen_until_the_end)
    assert availability(found, 0, 100, (40, 80)).values["available"] == pytest.approx(30 / 40)
    assert availability(found, 0, 100, (40, 80)).coverage == pytest.approx(0.4)
    for known in ((float("inf"), 80.0), (0.0, -float("inf"))):
        unknown = availability(found, 0, 100, known)
        assert unknown.values == {"available": None, "workers": None}
        assert unknown.coverage == 0
