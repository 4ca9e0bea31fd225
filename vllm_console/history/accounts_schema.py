"""The steps that bring gateway.sqlite from any older version to this one's."""

from __future__ import annotations

import sqlite3

from vllm_console.history.schema import Step

APPLICATION_ID = 0x564C4731
"""Says in the header that the file is this program's ("VLG1")."""


def _keys_and_usage(connection: sqlite3.Connection) -> None:
    """Version 1: the clients' keys, and what each of them used of each model on each day.

    Times are seconds since the epoch, days are UTC. `hash` is the SHA-256 of a secret, which is
    itself nowhere; `models` is a JSON array, NULL for all; `cost` is NULL where nothing had a
    price. Key 0 is who came without one.
    """
    for statement in (
        """CREATE TABLE keys (
            id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, hash BLOB NOT NULL,
            shown TEXT NOT NULL, origin TEXT NOT NULL, created INTEGER NOT NULL,
            revoked INTEGER, last_used INTEGER, models TEXT, max_class INTEGER NOT NULL,
            rpm INTEGER, tpm INTEGER, concurrency INTEGER, budget REAL, expires INTEGER) STRICT""",
        "CREATE UNIQUE INDEX live_names ON keys (name) WHERE revoked IS NULL",
        "CREATE UNIQUE INDEX live_hashes ON keys (hash) WHERE revoked IS NULL",
        """CREATE TABLE usage (
            day TEXT NOT NULL, key INTEGER NOT NULL, model TEXT NOT NULL,
            requests INTEGER NOT NULL, failed INTEGER NOT NULL, prompt INTEGER NOT NULL,
            cached INTEGER NOT NULL, generated INTEGER NOT NULL, gpu_seconds REAL NOT NULL,
            cost REAL, PRIMARY KEY (day, key, model)) STRICT, WITHOUT ROWID""",
    ):
        connection.execute(statement)


STEPS: tuple[Step, ...] = (_keys_and_usage,)
"""Step n makes version n of version n - 1. A step that was released is never edited again."""
