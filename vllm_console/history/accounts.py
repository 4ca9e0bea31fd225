"""gateway.sqlite: the clients' keys by the hash of their secrets, and what each of them used.

Written by the gateway (usage), by the daemon and, while none runs, by the command line (keys); each
sees what the others changed by `Accounts.changed`. Standard library alone: the gateway imports it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vllm_console.errors import ConsoleError, InvalidInput, NotFound
from vllm_console.fleet.key_names import KEY_NAME_FORM, is_key_name
from vllm_console.fleet.problems import did_you_mean
from vllm_console.history import file
from vllm_console.history.account_rows import (
    CREATED,
    FLEET_FILE,
    SHOWN,
    TERMS,
    USES,
    Batch,
    KeyRow,
    Terms,
    key_named,
    keys_in,
)
from vllm_console.history.accounts_schema import APPLICATION_ID, STEPS
from vllm_console.history.schema import version_of

_OPENING_S = 5.0
"""How long another process may keep a new file to itself while it makes its tables."""


@contextmanager
def accounts_read(path: Path) -> Iterator[sqlite3.Connection]:
    """The file to read from, whoever writes it, and also where it cannot be written.

    Raises `FileNotFoundError` where there is none yet, `ConsoleError` where it cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(2, os.strerror(2), str(path))
    with _in_one_line(path), file.reading(path) as connection:
        if (version := version_of(connection)) > len(STEPS):
            raise ConsoleError(
                f"{path}: is of a newer vllm-console (schema {version}, this one knows "
                f"{len(STEPS)}); use that version"
            )
        yield connection


class Accounts:
    """The file, to write: opened when it is first needed, and again where another took its place.

    For one thread at a time: `close` ends one thread's turn. Every method raises `ConsoleError`,
    one line, when the file is damaged, of a newer version, or the disk says no.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._seen: int | None = None

    def keys(self, at: float) -> list[KeyRow]:
        """The keys that hold, with what they spent in the UTC month of `at`."""
        with self._using() as connection:
            return keys_in(connection, at)

    def changed(self) -> bool:
        """Whether another process wrote since the last call; true at the first one."""
        with self._using() as connection:
            seen = connection.execute("PRAGMA data_version").fetchone()[0]
            before, self._seen = self._seen, seen
            return bool(seen != before)

    def create(self, name: str, secret: bytes, shown: str, terms: Terms, at: float) -> int:
        """Add a key by the hash of its secret; returns its number.

        Raises `InvalidInput` for a name that cannot be one or that another live key has.
        """
        if not is_key_name(name):
            raise InvalidInput(f'"{name}" cannot be the name of a key: take {KEY_NAME_FORM}')
        with self._writing(durably=True) as connection:
            if (there := key_named(connection, name)) is not None:
                raise InvalidInput(
                    f"a key {name} is there already ({there.origin}); `vllm-console keys edit "
                    f"{name}` changes it, `keys revoke {name}` ends it"
                )
            return _insert(connection, name, secret, shown, CREATED, terms, at)

    def edit(self, name: str, changes: Mapping[str, Any]) -> Terms:
        """Change terms of a key, by their names; returns all of them. Raises `NotFound`."""
        with self._writing(durably=True) as connection:
            row = _known(connection, name)
            values = _stored(changes)
            if values:
                connection.execute(
                    f"UPDATE keys SET {', '.join(f'{term} = ?' for term in values)} WHERE id = ?",
                    (*values.values(), row.id),
                )
            return _known(connection, name).terms

    def revoke(self, name: str, at: float) -> None:
        """End a key; what it used stays known.

        Raises `NotFound`, and `InvalidInput` for a key that stands in fleet.toml.
        """
        with self._writing(durably=True) as connection:
            row = _known(connection, name)
            if row.origin == FLEET_FILE:
                raise InvalidInput(
                    f"the key {name} stands in fleet.toml: take it out of [gateway.keys] there, "
                    "then `vllm-console apply`"
                )
            _revoke(connection, row.id, at)

    def keep(self, stated: Mapping[str, bytes | None], at: float) -> list[str]:
        """Make the fleet file's keys, hashes by name, hold, and no others that once stood there.

        One without a hash, as its secret cannot be read now, stays as it is if it is known.
        Returns a line for each that cannot be kept: another key has its name or its secret.
        """
        with self._writing(durably=True) as connection:
            live = keys_in(connection, at)
            mine = {row.name: row for row in live if row.origin == FLEET_FILE}
            others = [row for row in live if row.origin != FLEET_FILE]
            hashes = {
                name: mine[name].hash if secret is None else secret
                for name, secret in stated.items()
                if secret is not None or name in mine
            }
            good, problems = _apart(hashes, others)
            for name, row in mine.items():
                if name not in good:
                    _revoke(connection, row.id, at)
                elif row.hash != good[name]:  # two of them may change places
                    connection.execute(
                        "UPDATE keys SET hash = randomblob(32) WHERE id = ?", (row.id,)
                    )
            for name, secret in good.items():
                if name in mine:
                    connection.execute(
                        "UPDATE keys SET hash = ? WHERE id = ?", (secret, mine[name].id)
                    )
                else:
                    _insert(connection, name, secret, "", FLEET_FILE, Terms(max_class=0), at)
        return problems

    def add_usage(self, batch: Batch, at: float) -> None:
        """Add uses to what is stored, all or none of them, in one transaction."""
        rows = [
            (*whose, *(getattr(use, name) for name in USES)) for whose, use in sorted(batch.items())
        ]
        with self._writing() as connection:
            connection.executemany(_ADD, rows)
            connection.executemany(
                "UPDATE keys SET last_used = ?1 WHERE id = ?2 AND coalesce(last_used, 0) < ?1",
                [(int(at), key) for key in {key for _, key, _ in batch}],
            )

    def close(self) -> None:
        """Let go of the file; the next call opens it again, in its thread."""
        connection, self._connection, self._seen = self._connection, None, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with _in_one_line(self.path):
            try:
                yield self._connected()
            except (sqlite3.Error, file.Damaged):
                self.close()
                raise

    @contextmanager
    def _writing(self, *, durably: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction; `durably` for what may not be lost with the machine's power either."""
        with self._using() as connection:
            connection.execute(f"PRAGMA synchronous = {'FULL' if durably else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    with suppress(sqlite3.Error):  # the error that led here is the one to tell
                        connection.execute("ROLLBACK")
                raise

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and file.identity(self.path) == self._identity:
            return self._connection
        if self._connection is not None:
            self.close()
            if file.identity(self.path) is None:
                file.remove_companions(self.path)
        self._connection = _opened(self.path)
        self._identity = file.identity(self.path)
        return self._connection


_ADD = f"""
    INSERT INTO usage (day, key, model, {", ".join(USES)})
    VALUES ({", ".join("?" * (3 + len(USES)))})
    ON CONFLICT (day, key, model) DO UPDATE SET {
    ", ".join(f"{use} = {use} + excluded.{use}" for use in USES[:-1])
}, cost = CASE WHEN excluded.cost IS NULL THEN cost ELSE coalesce(cost, 0) + excluded.cost END"""


def _opened(path: Path) -> sqlite3.Connection:
    """The file, of this version. Two processes may begin it at once: the later one waits."""
    deadline = time.monotonic() + _OPENING_S
    while True:
        try:
            return file.open_to_write(path, STEPS, APPLICATION_ID)[0]
        except sqlite3.OperationalError as error:
            busy = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
    """Whatever SQLite or the disk says, as a `ConsoleError` that names the file."""
    try:
        yield
    except BrokenPipeError:
        raise
    except file.Unusable as error:
        raise ConsoleError(str(error)) from None
    except (file.Damaged, sqlite3.Error) as error:
        if isinstance(error, file.Damaged) or file.is_damage(error):
            raise ConsoleError(
                f"{path}: is damaged ({error}); move it away and create the keys anew, "
                f"`sqlite3 {path.name} .recover` reads what is left of it"
            ) from None
        raise ConsoleError(f"{path}: keys and usage cannot be read or written ({error})") from None
    except OSError as error:
        raise ConsoleError(f"{path}: {error.strerror or error}") from None


def _known(connection: sqlite3.Connection, name: str) -> KeyRow:
    found = key_named(connection, name)
    if found is None:
        rows = connection.execute("SELECT name FROM keys WHERE revoked IS NULL").fetchall()
        names = [row[0] for row in rows]
        hint = did_you_mean(name, names) or "; `vllm-console keys list` shows them"
        raise NotFound(f'no key "{name}"{hint}')
    return found


def _stored(terms: Mapping[str, Any]) -> dict[str, Any]:
    """Terms as the columns hold them."""
    models = terms.get("models")
    return {
        name: json.dumps(models, ensure_ascii=False)
        if name == "models" and models is not None
        else value
        for name, value in terms.items()
        if name in TERMS
    }


def _insert(
    connection: sqlite3.Connection,
    name: str,
    secret: bytes,
    shown: str,
    origin: str,
    terms: Terms,
    at: float,
) -> int:
    stored = _stored({term: getattr(terms, term) for term in TERMS})
    made = connection.execute(
        f"INSERT INTO keys (name, hash, shown, origin, created, {', '.join(stored)}) "
        f"VALUES ({', '.join('?' * (5 + len(stored)))})",
        (name, secret, shown[:SHOWN], origin, int(at), *stored.values()),
    )
    return int(made.lastrowid or 0)


def _apart(
    stated: Mapping[str, bytes], others: Sequence[KeyRow]
) -> tuple[dict[str, bytes], list[str]]:
    """The stated keys that no other key's name or secret stands in the way of; and why not."""
    names = {row.name for row in others}
    taken = {row.hash: row.name for row in others}
    good: dict[str, bytes] = {}
    problems = []
    for name, secret in stated.items():
        if name in names:
            problems.append(
                f"gateway.keys.{name}: `keys create` made a key of this name; revoke that one, or "
                "take another name"
            )
        elif secret in taken:
            problems.append(f"gateway.keys.{name}: is the same secret as the key {taken[secret]}'s")
        else:
            good[name] = secret
            taken[secret] = name
    return good, problems


def _revoke(connection: sqlite3.Connection, number: int, at: float) -> None:
    connection.execute("UPDATE keys SET revoked = ? WHERE id = ?", (int(at), number))
