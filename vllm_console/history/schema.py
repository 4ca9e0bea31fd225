"""The steps that bring history.sqlite from any older version to this one's."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

Step = Callable[[sqlite3.Connection], None]
"""One version's change; it runs inside a transaction that also writes the version."""


def _records(connection: sqlite3.Connection) -> None:
    """Version 1: what happened, who asked for what, and every revision of every model."""
    for statement in (
        """CREATE TABLE events (
            seq INTEGER PRIMARY KEY, at TEXT NOT NULL, level TEXT NOT NULL, subject TEXT NOT NULL,
            text TEXT NOT NULL, failure TEXT) STRICT""",
        """CREATE TABLE audit (
            seq INTEGER PRIMARY KEY, at TEXT NOT NULL, uid INTEGER, user TEXT, pid INTEGER,
            client TEXT NOT NULL, verb TEXT NOT NULL, arguments TEXT NOT NULL,
            outcome TEXT NOT NULL, seconds REAL NOT NULL) STRICT""",
        """CREATE TABLE revisions (
            model TEXT NOT NULL, number INTEGER NOT NULL, fingerprint TEXT NOT NULL,
            at TEXT NOT NULL, config TEXT NOT NULL,
            PRIMARY KEY (model, number)) STRICT, WITHOUT ROWID""",
    ):
        connection.execute(statement)


def _lines(connection: sqlite3.Connection) -> None:
    """Version 2: what was measured, as `history.chunks` describes."""
    for statement in (
        "CREATE TABLE layout (id INTEGER PRIMARY KEY, columns TEXT NOT NULL) STRICT",
        """CREATE TABLE line (
            id INTEGER PRIMARY KEY, subject TEXT NOT NULL, born INTEGER NOT NULL,
            layout INTEGER NOT NULL, origin TEXT NOT NULL) STRICT""",
        "CREATE TABLE head (k INTEGER PRIMARY KEY, rows BLOB NOT NULL) STRICT",
        """CREATE TABLE chunk (
            k INTEGER PRIMARY KEY, layout INTEGER NOT NULL, rows BLOB NOT NULL) STRICT""",
    ):
        connection.execute(statement)


STEPS: tuple[Step, ...] = (_records, _lines)
"""Step n makes version n of version n - 1. A step that was released is never edited again."""


def version_of(connection: sqlite3.Connection) -> int:
    """The version of a file; 0 before its first step."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def step_up(
    connection: sqlite3.Connection, application_id: int, steps: Sequence[Step] = STEPS
) -> None:
    """Take the steps a file lacks, each in one transaction of its own."""
    for version in range(version_of(connection) + 1, len(steps) + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            if version_of(connection) >= version:  # another process was here first
                connection.execute("ROLLBACK")
                continue
            steps[version - 1](connection)
            connection.execute(f"PRAGMA application_id = {application_id}")
            connection.execute(f"PRAGMA user_version = {version}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
