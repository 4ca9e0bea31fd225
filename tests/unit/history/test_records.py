"""Events, audit and revisions: what goes in comes out, in bounds."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import SQLModel

from vllm_console.history import records, tables
from vllm_console.history.file import APPLICATION_ID
from vllm_console.history.records import (
    Revision,
    Span,
    add_audit,
    add_events,
    add_revisions,
    read_audit,
    read_events,
    read_events_like,
    read_newest_states,
    read_revisions,
)
from vllm_console.history.schema import step_up
from vllm_console.snapshot import AuditEntry, Event, Failure

FAILURE = Failure("kv-too-small", "the line", "the remedy", "t", 1, ("one", "two"))


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        made.row_factory = sqlite3.Row
        step_up(made, APPLICATION_ID)
        yield made


def now(ago: timedelta = timedelta()) -> str:
    at = datetime.now(UTC) - ago
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def event(seq: int, level: str = "ok", at: str | None = None) -> Event:
    return Event(seq, at or now(), level, "a-1", "ready")


def test_the_classes_are_the_tables(connection: sqlite3.Connection) -> None:
    for row in (tables.EventRow, tables.AuditRow, tables.RevisionRow):
        table = SQLModel.metadata.tables[str(row.__tablename__)]
        found = connection.execute(f"PRAGMA table_info({table.name})").fetchall()
        assert [c.name for c in table.columns] == [column["name"] for column in found]
        for mapped, column in zip(table.columns, found, strict=True):
            assert mapped.primary_key == bool(column["pk"])
            assert mapped.nullable == (not column["notnull"] and not column["pk"])


def test_an_event_keeps_its_failure_whole(connection: sqlite3.Connection) -> None:
    told = [event(1), Event(2, now(), "crit", "a-1", "failed", FAILURE)]
    add_events(connection, told)
    assert read_events(connection, Span()) == told


def test_an_audit_entry_comes_back_as_it_was(connection: sqlite3.Connection) -> None:
    entry = AuditEntry(4, now(), "x", "load", {"model": "a"}, "ok", 0.5, 1000, "ada", 42)
    signal = AuditEntry(5, now(), "SIGTERM", "end", {}, "ok", 0.0)
    add_audit(connection, [entry, signal])
    assert read_audit(connection, Span()) == [entry, signal]


def test_revisions_come_back_by_model_in_order(connection: sqlite3.Connection) -> None:
    kept = {"b": [Revision(n, f"f{n}", "t", {"x": {"y": n}}) for n in (1, 2, 11)], "a": []}
    add_revisions(connection, kept)
    assert read_revisions(connection) == {"b": kept["b"]}


def test_what_is_written_twice_is_there_once(connection: sqlite3.Connection) -> None:
    first, second = event(1), event(2)
    add_events(connection, [first, second])
    add_events(connection, [Event(2, now(), "crit", "b", "another"), event(3)])
    assert read_events(connection, Span(before=3)) == [first, second]
    assert len(read_events(connection, Span())) == 3


@pytest.mark.parametrize(
    ("span", "numbers"),
    [
        (Span(), [1, 2, 3, 4, 5]),
        (Span(after=2), [3, 4, 5]),
        (Span(before=3), [1, 2]),
        (Span(limit=2), [4, 5]),
        (Span(limit=2, oldest=True), [1, 2]),
        (Span(limit=0), []),
        (Span(level="warn"), [3, 4]),
        (Span(level="crit"), [4]),
        (Span(level="info"), [1, 2, 3, 4, 5]),
        (Span(level="ok"), [1, 2, 3, 4, 5]),
        (Span(level="warn", limit=1), [4]),
    ],
)
def test_a_span_means_the_same_rows_in_the_file_and_in_memory(
    connection: sqlite3.Connection, span: Span, numbers: list[int]
) -> None:
    told = [event(n, level) for n, level in enumerate(("ok", "info", "warn", "crit", "ok"), 1)]
    add_events(connection, told)
    found = read_events(connection, span)
    assert [e.seq for e in found] == numbers
    assert all(span.holds(e) for e in found)
    assert span.limit < 5 or found == [e for e in told if span.holds(e)]


def test_since_is_a_time(connection: sqlite3.Connection) -> None:
    add_events(connection, [event(1, at=now(timedelta(hours=3))), event(2, at=now())])
    assert [e.seq for e in read_events(connection, Span(since=now(timedelta(hours=2))))] == [2]


def test_until_is_a_time_that_belongs_to_the_span(connection: sqlite3.Connection) -> None:
    then = now(timedelta(hours=3))
    told = [event(1, at=then), event(2, at=now())]
    add_events(connection, told)
    span = Span(until=then)
    assert read_events(connection, span) == [e for e in told if span.holds(e)] == told[:1]


def test_the_newest_states_and_what_is_like_a_pattern(connection: sqlite3.Connection) -> None:
    at = now()
    texts = ["ready: a", "ready, b", "readying", "READY", "x ready", "down", "ready"]
    told = [Event(n, at, "ok", "a-1", text) for n, text in enumerate(texts, 1)]
    told += [Event(8, at, "ok", "b-1", "ready"), Event(9, "9999", "ok", "b-1", "ready")]
    add_events(connection, told)
    until = now()
    assert [e.seq for e in read_newest_states(connection, until, ("ready", "down"))] == [7, 8]
    assert [e.seq for e in read_newest_states(connection, until, ["down"])] == [6]
    assert [e.seq for e in read_events_like(connection, until, ["ready*", "down"])] == [
        1, 2, 3, 6, 7, 8
    ]  # fmt: skip


def test_the_oldest_go_as_new_ones_come(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "KEPT", 10)
    for n in range(1, 31):
        add_events(connection, [event(n)])
    assert [e.seq for e in read_events(connection, Span())] == list(range(21, 31))


def test_what_is_older_than_its_time_goes_a_few_at_a_time(
    connection: sqlite3.Connection,
) -> None:
    old = [event(n, at=now(timedelta(days=80))) for n in range(1, 11)]
    add_events(connection, old)
    connection.execute("UPDATE events SET at = ?", (now(timedelta(days=91)),))
    add_events(connection, [event(11)])
    assert len(read_events(connection, Span())) == 9
    for n in range(12, 18):
        add_events(connection, [event(n)])
    assert [e.seq for e in read_events(connection, Span())] == list(range(11, 18))


def test_audit_is_kept_longer_than_events(connection: sqlite3.Connection) -> None:
    at = now(timedelta(days=300))
    add_audit(connection, [AuditEntry(1, at, "x", "load", {}, "ok", 0.0)])
    add_audit(connection, [AuditEntry(2, now(), "x", "load", {}, "ok", 0.0)])
    assert len(read_audit(connection, Span())) == 2
    add_events(connection, [event(1, at=at)])
    assert read_events(connection, Span()) == []


def test_a_file_without_tables_holds_nothing() -> None:
    with closing(sqlite3.connect(":memory:")) as empty:
        assert read_events(empty, Span()) == []
        assert read_revisions(empty) == {}
