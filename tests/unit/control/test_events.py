"""The event log: numbers go on over daemons and damage, a full disk costs no event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_console.control import numbered
from vllm_console.control.events import EventLog
from vllm_console.history.database import Database
from vllm_console.history.records import Span
from vllm_console.snapshot import Failure, to_json

WITHIN_S = 10.0
FAILURE = Failure("kv-too-small", "the line", "the remedy", "t", 1, ("one", "two"))
FORMER = Path(__file__).with_name("events.jsonl")
Open = Callable[..., Database]


def log(database: Database, lines: Path | None = None) -> EventLog:
    return EventLog(database, lines, clock=lambda: "2999-01-01T00:00:00.000Z")


def test_numbers_go_on_after_a_restart(database: Open) -> None:
    first = log(database())
    first.add("ok", "a-1", "ready")
    first.add("info", "a-1", "stopped")
    second = log(database())
    assert second.add("ok", "a-1", "ready").seq == 3
    assert [e.seq for e in second.after(1)] == [2, 3]
    assert [e.text for e in second.newest(2)] == ["ready", "stopped"]


def test_numbers_of_a_damaged_file_are_not_given_again(database: Open) -> None:
    first = database()
    log(first).add("ok", "a-1", "ready")
    first.close()
    first.path.write_bytes(b"\0" * 8192)
    second = database(start=False)  # a daemon reads what there is before its writer may mend it
    events = log(second)
    second.start()
    assert events.add("ok", "a-1", "ready").seq > 1_700_000_000


def test_a_file_that_is_begun_anew_gets_what_is_in_memory(database: Open) -> None:
    opened = database()
    events = log(opened)
    for text in ("one", "two"):
        events.add("ok", "a", text)
    assert opened.flush(WITHIN_S)
    opened.path.unlink()
    events.add("ok", "a", "three")
    again = log(database())
    assert [(e.seq, e.text) for e in again.after(0)] == [(1, "one"), (2, "two"), (3, "three")]


def test_a_failure_is_kept_with_its_event_and_left_out_of_the_snapshot(database: Open) -> None:
    events = log(database())
    event = events.add("crit", "a-1", "failed", FAILURE)
    assert log(database()).after(0) == [event]
    assert event.failure == FAILURE
    assert [e.failure for e in events.shown(5)] == [None]


def test_what_is_older_than_memory_is_read_from_the_file(
    database: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbered, "KEEP", 5)
    opened = database()
    events = log(opened)
    for n in range(1, 21):
        events.add("warn" if n % 5 == 0 else "ok", "a", str(n))
    assert opened.flush(WITHIN_S)
    assert [e.seq for e in events.newest(9)] == [20, 19, 18, 17, 16]
    assert [e.seq for e in events.after(0, 100)] == list(range(1, 21))
    assert [e.seq for e in events.after(3, 7)] == list(range(14, 21))
    assert [e.seq for e in events.after(17)] == [18, 19, 20]
    assert [e.seq for e in events.find(Span(after=3, limit=7, oldest=True))] == list(range(4, 11))
    assert [e.seq for e in events.find(Span(limit=3, level="warn"))] == [10, 15, 20]


def test_a_follower_far_behind_misses_none(database: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbered, "KEEP", 5)
    monkeypatch.setattr(numbered, "_PAGE", 3)

    async def follow() -> list[int]:
        opened = database()
        events = log(opened)
        for n in range(1, 21):
            events.add("ok", "a", str(n))
        assert await asyncio.to_thread(opened.flush, WITHIN_S)
        seen: list[int] = []
        async for event in events.follow(2):
            seen.append(event.seq)
            if event.seq == 20:
                events.add("ok", "a", "new")
            if event.text == "new":
                return seen
        return seen

    seen = asyncio.run(asyncio.wait_for(follow(), WITHIN_S))
    assert seen == list(range(3, 22))


def test_none_of_the_newest_is_none(database: Open) -> None:
    events = log(database())
    events.add("ok", "a-1", "ready")
    assert events.after(0, 0) == []
    assert events.newest(0) == ()


def test_a_file_that_cannot_be_written_costs_the_record_not_the_event(tmp_path: Path) -> None:
    database = Database(tmp_path / "no" / "such" / "history.sqlite", retry_s=0.02)
    events = log(database)
    told = asyncio.run(_troubled(events, database))
    database.close()
    assert [e.text for e in events.after(0)] == ["ready", told]
    assert "nothing is recorded (No such file or directory)" in told
    assert events.trouble == told


async def _troubled(events: EventLog, database: Database) -> str:
    """Start writing and wait for the event that says why nothing is written."""
    events.add("ok", "a-1", "ready")
    database.start(events.from_thread(asyncio.get_running_loop()))
    async with asyncio.timeout(WITHIN_S):
        async for event in events.follow(1):
            return event.text
    raise AssertionError("nothing was said")


def test_a_follower_gets_what_was_and_what_comes(database: Open) -> None:
    async def follow() -> list[str]:
        events = log(database())
        events.add("ok", "a", "one")
        seen = []
        async for event in events.follow(0):
            seen.append(event.text)
            if event.text == "three":
                return seen
            events.add("ok", "a", {"one": "two", "two": "three"}[event.text])
        return seen

    assert asyncio.run(asyncio.wait_for(follow(), WITHIN_S)) == ["one", "two", "three"]


# -- events.jsonl of earlier versions ------------------------------------------------------


def test_the_lines_of_an_earlier_version_are_taken_in_once(database: Open, tmp_path: Path) -> None:
    lines = tmp_path / "events.jsonl"
    lines.write_bytes(FORMER.read_bytes())
    events = log(database(), lines)
    assert [(e.seq, e.level, e.subject) for e in events.after(0)] == [
        (1, "info", "fleet"),
        (2, "ok", "one-1"),
        (4, "crit", "one-1"),
    ]
    assert events.add("ok", "a", "x").seq == 5
    assert [e.seq for e in log(database(), lines).after(0)] == [1, 2, 4, 5]
    assert not lines.exists()


def test_lines_that_could_not_be_removed_are_not_taken_in_twice(
    database: Open, tmp_path: Path
) -> None:
    lines = tmp_path / "events.jsonl"
    for _ in range(2):
        lines.write_bytes(FORMER.read_bytes())
        opened = database()
        events = log(opened, lines)
        assert opened.flush(WITHIN_S)
        assert [e.seq for e in events.after(0)] == [1, 2, 4]


def test_lines_written_after_the_file_get_numbers_above_it(database: Open, tmp_path: Path) -> None:
    first = log(database())
    for text in ("one", "two", "three"):
        first.add("ok", "a", text)
    lines = tmp_path / "events.jsonl"
    lines.write_bytes(FORMER.read_bytes())
    assert [e.seq for e in log(database(), lines).after(3)] == [4, 5, 6]


def test_lines_wait_while_the_file_cannot_be_written(tmp_path: Path) -> None:
    lines = tmp_path / "events.jsonl"
    lines.write_bytes(FORMER.read_bytes())
    database = Database(tmp_path / "no" / "history.sqlite", retry_s=0.02)
    assert len(log(database, lines).after(0)) == 3
    database.start()
    database.close()
    assert lines.read_bytes() == FORMER.read_bytes()


@pytest.mark.parametrize("seq", ['"many"', "null", "[]", "1e999", "-3", "1" + 30 * "0"])
def test_a_damaged_number_keeps_no_daemon_from_starting(
    database: Open, tmp_path: Path, seq: str
) -> None:
    lines = tmp_path / "events.jsonl"
    lines.write_text(f'{{"seq": {seq}, "at": "", "level": "ok", "subject": "a", "text": ""}}\n')
    assert log(database(), lines).add("ok", "a-1", "ready").seq == 1


def test_an_event_as_json_is_what_it_was_and_its_failure(database: Open) -> None:
    event = log(database()).add("ok", "a", "x")
    assert json.loads(json.dumps(to_json(event))) == {
        "seq": 1,
        "at": "2999-01-01T00:00:00.000Z",
        "level": "ok",
        "subject": "a",
        "text": "x",
        "failure": None,
    }
