"""Clients' keys and their usage as values, read out of gateway.sqlite. Standard library alone."""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from vllm_console.fleet.key_names import ANONYMOUS
from vllm_console.history.schema import version_of

CLASSES = ("high", "normal", "low")
"""Priority classes by their number, as the gateway queues them."""
NOBODY = 0
"""The number under which requests without a key are counted."""
SHOWN = 7
"""Characters of a secret that are kept, so that its owner knows which one it is."""

Day = str
"""A UTC day, "2026-11-21"."""
By = Literal["day", "key", "model"]
GROUPS: tuple[By, ...] = ("day", "key", "model")
"""What usage can be told by, in the order of the columns."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a key may do; `None` is no limit."""

    models: tuple[str, ...] | None = None
    """Names of models of the fleet; `None` for all."""
    max_class: int = 1
    """The most urgent priority class it may ask for: 0 high, 1 normal, 2 low."""
    rpm: int | None = None
    """Requests a minute."""
    tpm: int | None = None
    """Tokens a minute, prompt and answer together."""
    concurrency: int | None = None
    """Requests at a time."""
    budget: float | None = None
    """$ a UTC month."""
    expires: int | None = None
    """Seconds since the epoch from which on it is refused."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A client's key."""

    id: int
    name: str
    hash: bytes
    """SHA-256 of the secret, 32 bytes."""
    shown: str
    """The first characters of the secret; empty for one that stands in fleet.toml."""
    origin: str
    """CREATED or FLEET_FILE."""
    created: int
    revoked: int | None
    last_used: int | None
    """Seconds since the epoch, as the other times."""
    terms: Terms
    spent: float = 0.0
    """$ in the UTC month that was asked about."""


CREATED = "created"
FLEET_FILE = "fleet.toml"


@dataclass(slots=True)
class Use:
    """What was used; adds up."""

    requests: int = 0
    failed: int = 0
    """Of the requests, those that were answered with an error of ours or of a worker."""
    prompt: int = 0
    """Tokens, `cached` of them out of the prefix cache."""
    cached: int = 0
    generated: int = 0
    gpu_seconds: float = 0.0
    cost: float | None = None
    """$; `None` where a GPU hour has no price."""

    def add(self, other: Use) -> None:
        """Add another use to this one."""
        self.requests += other.requests
        self.failed += other.failed
        self.prompt += other.prompt
        self.cached += other.cached
        self.generated += other.generated
        self.gpu_seconds += other.gpu_seconds
        if other.cost is not None:
            self.cost = (self.cost or 0.0) + other.cost


Batch = Mapping[tuple[Day, int, str], Use]
"""Uses by day, key number and model."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a report: a use, and whose; `None` for what it is not told by."""

    use: Use
    day: Day | None = None
    key: str | None = None
    """The key's name."""
    key_id: int | None = None
    revoked: bool = False
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """Which usage is meant: UTC days, both ends included, and whose."""

    since: Day
    until: Day
    by: tuple[By, ...] = ()
    key: str | None = None
    model: str | None = None


TERMS = tuple(each.name for each in fields(Terms))
"""Columns of a key's terms."""
USES = tuple(each.name for each in fields(Use))
"""Columns of a use."""
_PLAIN = tuple(each.name for each in fields(KeyRow))[:8]
WHOLE = ", ".join((*_PLAIN, *TERMS))
"""Columns of a key."""


def made_secret() -> str:
    """A new secret: `vc-` and 43 characters that hold 256 random bits."""
    return f"vc-{secrets.token_urlsafe(32)}"


def hash_of(secret: bytes) -> bytes:
    """SHA-256 of a secret: as it is random, no slow hash has to stand against guessing."""
    return hashlib.sha256(secret).digest()


def day_of(at: float) -> Day:
    """The UTC day of a time in seconds since the epoch."""
    return time.strftime("%Y-%m-%d", time.gmtime(at))


def keys_in(connection: sqlite3.Connection, at: float, *, revoked: bool = False) -> list[KeyRow]:
    """The keys that hold, by name, with what they spent in the UTC month of `at`.

    With `revoked` those that were revoked too, each after the live one of its name.
    """
    if version_of(connection) == 0:
        return []
    costs = dict(
        connection.execute(
            "SELECT key, sum(cost) FROM usage WHERE day >= ? AND day < ? GROUP BY key",
            (day_of(at)[:7], day_of(at)[:7] + "~"),
        ).fetchall()
    )
    which = "" if revoked else "WHERE revoked IS NULL "
    rows = connection.execute(
        f"SELECT {WHOLE} FROM keys {which}ORDER BY name, revoked IS NOT NULL, id"
    )
    return [_key(tuple(row), costs) for row in rows]


def key_named(connection: sqlite3.Connection, name: str) -> KeyRow | None:
    """The key of this name that holds, without what it spent."""
    found = connection.execute(
        f"SELECT {WHOLE} FROM keys WHERE name = ? AND revoked IS NULL", (name,)
    ).fetchone()
    return None if found is None else _key(tuple(found), {})


def usage_in(connection: sqlite3.Connection, asked: Asked) -> list[Line]:
    """Usage of whole days, a line a group, in the order of `GROUPS`; one line without `by`."""
    if version_of(connection) == 0:
        return []
    columns = [each for each in GROUPS if each in asked.by]
    where, values = ["day >= ?", "day <= ?"], [asked.since, asked.until]
    if asked.key == ANONYMOUS:
        where.append(f"key = {NOBODY}")
    elif asked.key is not None:
        where.append("key IN (SELECT id FROM keys WHERE name = ?)")
        values.append(asked.key)
    if asked.model is not None:
        where.append("model = ?")
        values.append(asked.model)
    grouped = f" GROUP BY {', '.join(columns)} ORDER BY {', '.join(columns)}" if columns else ""
    sums = ", ".join(f"sum({use})" for use in USES)
    names = {
        row[0]: (row[1], row[2] is not None)
        for row in connection.execute("SELECT id, name, revoked FROM keys")
    }
    names[NOBODY] = (ANONYMOUS, False)
    lines = []
    for row in connection.execute(
        f"SELECT {', '.join([*columns, sums])} FROM usage WHERE {' AND '.join(where)}{grouped}",
        values,
    ):
        told: dict[str, Any] = dict(zip(columns, row, strict=False))
        if row[len(columns)] is None:  # a sum over nothing
            continue
        if (number := told.pop("key", None)) is not None:
            name, gone = names.get(number, (f"key {number}", True))
            told.update(key=name, key_id=number, revoked=gone)
        lines.append(Line(Use(*row[len(columns) :]), **told))
    return lines


def _key(row: tuple[Any, ...], costs: Mapping[int, float | None]) -> KeyRow:
    """The key of a row of `WHOLE`."""
    models = None if row[8] is None else tuple(json.loads(row[8]))
    spent = costs.get(row[0]) or 0.0
    plain: dict[str, Any] = dict(zip(_PLAIN, row, strict=False))
    return KeyRow(**plain, terms=Terms(models, *row[9:]), spent=spent)
