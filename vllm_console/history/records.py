"""Events, audit and revisions in the file, as the types everybody else knows.

Reading takes the standard library alone, so that the command line may do it; the classes of
`tables` are imported by the first write, in the writer thread.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from vllm_console.history.schema import version_of
from vllm_console.snapshot import AuditEntry, Event, Failure, from_json, to_json

KEPT = 100_000
"""Rows of events and of audit that stay."""
_EVENTS_FOR = timedelta(days=90)
_AUDIT_FOR = timedelta(days=365)
LEVELS = ("info", "ok", "warn", "crit")
"""Of an event, the least first."""

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Span:
    """Which rows are meant, by number, time and, of events, level."""

    after: int = 0
    before: int | None = None
    limit: int = 1000
    since: str | None = None
    """ISO 8601 UTC, as the rows have it."""
    until: str | None = None
    """The same of the other end, which belongs to the span."""
    level: str = LEVELS[0]
    """Only events of this level or above."""
    oldest: bool = False
    """Of more than `limit` rows the oldest, not the newest."""

    def holds(self, row: Event | AuditEntry) -> bool:
        """Whether a row is meant, the limit aside."""
        return (
            row.seq > self.after
            and (self.before is None or row.seq < self.before)
            and (self.since is None or row.at >= self.since)
            and (self.until is None or row.at <= self.until)
            and (not isinstance(row, Event) or row.level in levels_from(self.level))
        )


@dataclass(frozen=True, slots=True)
class Revision:
    """One configuration a model has had."""

    number: int
    fingerprint: str
    at: str
    """When it was first seen, ISO 8601 UTC."""
    config: Mapping[str, Any]
    """As `ModelConfig.model_dump` gives it; secrets by their reference."""


def levels_from(least: str) -> tuple[str, ...]:
    """The levels at or above this one; "info" and "ok" are both the least."""
    return LEVELS if least == "ok" else LEVELS[LEVELS.index(least) :]


def read_events(connection: sqlite3.Connection, span: Span) -> list[Event]:
    """Events of a span, oldest first."""
    columns = "seq, at, level, subject, text, failure"
    return _read(connection, "events", columns, span, _event)


def read_newest_states(
    connection: sqlite3.Connection, until: str, words: Collection[str]
) -> list[Event]:
    """Of each subject the newest event by `until` whose text begins with one of the words.

    Oldest first. A colon or comma may follow the word. SQLite looks through the rows, so that of a
    hundred thousand events no more become objects than there are subjects.
    """
    word = "rtrim(substr(text, 1, instr(text || ' ', ' ') - 1), ':,')"
    return _chosen(
        connection,
        f"SELECT max(seq) FROM events WHERE at <= ? AND {word} IN ({', '.join('?' * len(words))}) "
        "GROUP BY subject",
        (until, *words),
    )


def read_events_like(
    connection: sqlite3.Connection, until: str, patterns: Sequence[str]
) -> list[Event]:
    """Events by `until` whose text matches one of the patterns of SQLite's GLOB, oldest first."""
    like = " OR ".join(["text GLOB ?"] * len(patterns))
    query = f"SELECT seq FROM events WHERE at <= ? AND ({like})"
    return _chosen(connection, query, (until, *patterns))


def _chosen(connection: sqlite3.Connection, numbers: str, values: tuple[str, ...]) -> list[Event]:
    """The events whose numbers a query gives."""
    if version_of(connection) == 0:
        return []
    rows = connection.execute(
        "SELECT seq, at, level, subject, text, failure FROM events "
        f"WHERE seq IN ({numbers}) ORDER BY seq",
        values,
    )
    return [_event(row) for row in rows]


def read_audit(connection: sqlite3.Connection, span: Span) -> list[AuditEntry]:
    """Audit entries of a span, oldest first."""
    columns = "seq, at, client, verb, arguments, outcome, seconds, uid, user, pid"
    return _read(connection, "audit", columns, span, _audit_entry)


def read_revisions(connection: sqlite3.Connection) -> dict[str, list[Revision]]:
    """Every revision of every model, oldest first; a damaged row is passed over."""
    found: dict[str, list[Revision]] = {}
    if version_of(connection) == 0:
        return found
    for row in connection.execute(
        "SELECT model, number, fingerprint, at, config FROM revisions ORDER BY model, number"
    ):
        config = _object(row["config"])
        if config is not None:
            revision = Revision(row["number"], row["fingerprint"], row["at"], config)
            found.setdefault(row["model"], []).append(revision)
    return found


def add_events(connection: sqlite3.Connection, events: Sequence[Event]) -> None:
    """Write events, and let the oldest go."""
    from vllm_console.history import tables

    rows = [
        tables.EventRow(
            seq=e.seq,
            at=e.at,
            level=e.level,
            subject=e.subject,
            text=e.text,
            failure=_dump(to_json(e.failure)) if e.failure else None,
        )
        for e in events
    ]
    tables.add(connection, rows)
    _thin(connection, "events", 2 * len(rows), _EVENTS_FOR)


def add_audit(connection: sqlite3.Connection, entries: Sequence[AuditEntry]) -> None:
    """Write audit entries, and let the oldest go."""
    from vllm_console.history import tables

    rows = [
        tables.AuditRow.model_validate({**to_json(e), "arguments": _dump(e.arguments)})
        for e in entries
    ]
    tables.add(connection, rows)
    _thin(connection, "audit", 2 * len(rows), _AUDIT_FOR)


def add_revisions(connection: sqlite3.Connection, kept: Mapping[str, Sequence[Revision]]) -> None:
    """Write revisions by model."""
    from vllm_console.history import tables

    rows = [
        tables.RevisionRow(
            model=model, number=r.number, fingerprint=r.fingerprint, at=r.at, config=_dump(r.config)
        )
        for model, revisions in kept.items()
        for r in revisions
    ]
    tables.add(connection, rows)


def _read(
    connection: sqlite3.Connection,
    table: str,
    columns: str,
    span: Span,
    make: Callable[[sqlite3.Row], R],
) -> list[R]:
    if version_of(connection) == 0 or span.limit <= 0:
        return []
    where = ["seq > ?"]
    values: list[int | str] = [span.after]
    if span.before is not None:
        where.append("seq < ?")
        values.append(span.before)
    if span.since is not None:
        where.append("at >= ?")
        values.append(span.since)
    if span.until is not None:
        where.append("at <= ?")
        values.append(span.until)
    if table == "events" and (levels := levels_from(span.level)) != LEVELS:
        where.append(f"level IN ({', '.join('?' * len(levels))})")
        values.extend(levels)
    order = "ASC" if span.oldest else "DESC"
    rows = connection.execute(
        f"SELECT {columns} FROM {table} WHERE {' AND '.join(where)} ORDER BY seq {order} LIMIT ?",
        (*values, span.limit),
    )
    made = [make(row) for row in rows]
    return made if span.oldest else made[::-1]


def _thin(connection: sqlite3.Connection, table: str, at_most: int, keep_for: timedelta) -> None:
    """Take a few of the oldest rows that are too old or too many: as fast as new ones come."""
    oldest_kept = (datetime.now(UTC) - keep_for).isoformat(timespec="milliseconds")
    connection.execute(
        f"DELETE FROM {table} WHERE seq IN (SELECT seq FROM (SELECT seq, at FROM {table} "
        f"ORDER BY seq LIMIT ?) WHERE at < ? OR seq <= (SELECT max(seq) FROM {table}) - ?)",
        (at_most, oldest_kept.replace("+00:00", "Z"), KEPT),
    )


def _event(row: sqlite3.Row) -> Event:
    failure = _object(row["failure"])
    return Event(
        row["seq"],
        row["at"],
        row["level"],
        row["subject"],
        row["text"],
        from_json(Failure, failure) if failure else None,
    )


def _audit_entry(row: sqlite3.Row) -> AuditEntry:
    arguments = _object(row["arguments"]) or {}
    return from_json(AuditEntry, {**dict(row), "arguments": arguments})


def _object(text: str | None) -> dict[str, Any] | None:
    try:
        found = json.loads(text or "null")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
