"""The low-rate tables as SQLModel classes. Importing this costs a third of a second or more."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache

from sqlalchemy import insert
from sqlalchemy.dialects import sqlite
from sqlmodel import Field, SQLModel


class EventRow(SQLModel, table=True):
    """One event; `failure` is a snapshot.Failure as JSON."""

    __tablename__ = "events"

    seq: int = Field(primary_key=True)
    at: str
    level: str
    subject: str
    text: str
    failure: str | None = None


class AuditRow(SQLModel, table=True):
    """One command that reached the daemon; `arguments` is a JSON object."""

    __tablename__ = "audit"

    seq: int = Field(primary_key=True)
    at: str
    uid: int | None = None
    user: str | None = None
    pid: int | None = None
    client: str
    verb: str
    arguments: str
    outcome: str
    seconds: float


class RevisionRow(SQLModel, table=True):
    """One configuration a model has had; `config` is a JSON object."""

    __tablename__ = "revisions"

    model: str = Field(primary_key=True)
    number: int = Field(primary_key=True)
    fingerprint: str
    at: str
    config: str


def add(connection: sqlite3.Connection, rows: Sequence[SQLModel]) -> None:
    """Insert rows; one whose key is there already is passed over, so that a repeat does no harm."""
    for row in rows:
        connection.execute(_insertion(type(row)), row.model_dump())


@cache
def _insertion(table: type[SQLModel]) -> str:
    """The INSERT of a table, with named parameters as sqlite3 takes them."""
    statement = insert(table).prefix_with("OR IGNORE")
    return str(statement.compile(dialect=sqlite.dialect(paramstyle="named")))
