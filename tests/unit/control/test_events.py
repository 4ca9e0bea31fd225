"""The event log: numbers go on, a crash costs at most its own line, a full disk no event."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from vllm_console.control.events import EventLog


def log(path: Path) -> EventLog:
    return EventLog(path, clock=lambda: "2026-01-01T00:00:00.000Z")


def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    first = log(tmp_path / "events.jsonl")
    first.add("ok", "a-1", "ready")
    first.add("info", "a-1", "stopped")
    second = log(tmp_path / "events.jsonl")
    assert second.add("ok", "a-1", "ready").seq == 3
    assert [e.seq for e in second.after(1)] == [2, 3]
    assert [e.text for e in second.newest(2)] == ["ready", "stopped"]


def test_a_line_cut_by_a_crash_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log(path).add("ok", "a-1", "ready")
    with path.open("a") as lines:
        lines.write('{"seq": 2, "at": "20')
    again = log(path)
    assert [e.seq for e in again.after(0)] == [1]
    assert again.add("info", "b", "x").seq == 2
    assert [e.seq for e in log(path).after(0)] == [1, 2]


@pytest.mark.parametrize("seq", ['"many"', "null", "[]", "1e999"])
def test_a_damaged_number_keeps_no_daemon_from_starting(tmp_path: Path, seq: str) -> None:
    path = tmp_path / "events.jsonl"
    log(path).add("ok", "a-1", "ready")
    with path.open("a") as lines:
        lines.write(f'{{"seq": {seq}, "at": "", "level": "ok", "subject": "a", "text": ""}}\n')
    assert log(path).add("ok", "a-1", "ready").seq == 2


def test_none_of_the_newest_is_none(tmp_path: Path) -> None:
    events = log(tmp_path / "events.jsonl")
    events.add("ok", "a-1", "ready")
    assert events.after(0, 0) == []


def test_a_file_that_cannot_be_written_costs_the_record_not_the_event(tmp_path: Path) -> None:
    events = log(tmp_path / "no" / "such" / "events.jsonl")
    events.add("ok", "a-1", "ready")
    assert [e.text for e in events.after(0)] == ["ready"]
    assert events.trouble is not None
    assert "events are not kept" in events.trouble


def test_a_follower_gets_what_was_and_what_comes(tmp_path: Path) -> None:
    async def follow() -> list[str]:
        events = log(tmp_path / "events.jsonl")
        events.add("ok", "a", "one")
        seen = []
        async for event in events.follow(0):
            seen.append(event.text)
            if event.text == "three":
                return seen
            events.add("ok", "a", {"one": "two", "two": "three"}[event.text])
        return seen

    assert asyncio.run(asyncio.wait_for(follow(), 10)) == ["one", "two", "three"]


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    log(tmp_path / "events.jsonl").add("ok", "a", "x")
    assert (tmp_path / "events.jsonl").stat().st_mode & 0o777 == 0o600
