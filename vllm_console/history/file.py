"""history.sqlite as a file: opening it to write or to read, judging it, moving it aside."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from vllm_console.history.schema import STEPS, Step, step_up, version_of

APPLICATION_ID = 0x564C4331
"""Says in the header that the file is this program's ("VLC1")."""
_COMPANIONS = ("", "-wal", "-shm")


class Damaged(Exception):
    """The file is not, or no longer, a whole SQLite file."""


class Unusable(Exception):
    """The file is whole and not for this version to write; the text says why."""


def open_to_write(
    path: Path, steps: Sequence[Step] = STEPS, application_id: int = APPLICATION_ID
) -> tuple[sqlite3.Connection, bool]:
    """A read-write connection to a whole file of this version, and whether the file is new.

    Raises `Damaged`, `Unusable`, or `OSError` and `sqlite3.Error` where the disk says no.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = _connected(path, "rw")
    try:
        new = _check(connection, path, len(steps), application_id)
        if new:
            connection.execute("PRAGMA page_size = 8192")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 256")  # 2 MiB: the most a nearly full
        connection.execute(f"PRAGMA journal_size_limit = {2 << 20}")  # disk has to find for us
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise Damaged(str(found).partition("\n")[0])
        step_up(connection, application_id, steps)
    except sqlite3.Error as error:
        connection.close()
        raise Damaged(str(error)) if is_damage(error) else error from None
    except BaseException:
        connection.close()
        raise
    return connection, new


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection, also to a file of a directory that cannot be written.

    Raises `FileNotFoundError` where there is no file, `sqlite3.Error` where it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(2, os.strerror(2), str(path))
    with closing(_readable(path)) as connection:
        yield connection


@contextmanager
def named_columns(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """The connection with rows that know their columns' names."""
    before, connection.row_factory = connection.row_factory, sqlite3.Row
    try:
        yield connection
    finally:
        connection.row_factory = before


def move_aside(path: Path) -> Path:
    """Give a damaged file, and what SQLite keeps beside it, a name that says when."""
    aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    for companion in _COMPANIONS:
        with suppress(FileNotFoundError):
            os.replace(f"{path}{companion}", f"{aside}{companion}")
    return aside


def remove_companions(path: Path) -> None:
    """Remove what SQLite left beside a file that is gone: it belongs to no other file."""
    for companion in _COMPANIONS[1:]:
        with suppress(OSError):
            os.unlink(f"{path}{companion}")


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite says that the file itself is broken."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def identity(path: Path) -> tuple[int, int] | None:
    """Which file lies at this path now; `None` for none."""
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_dev, seen.st_ino


def _check(connection: sqlite3.Connection, path: Path, newest: int, application_id: int) -> bool:
    """Whether the file is still empty; raises `Unusable` for one that is not ours to write."""
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    if owner != application_id and (owner or tables):
        raise Unusable(f"{path}: is another program's file; nothing is recorded until it is moved")
    if (version := version_of(connection)) > newest:
        raise Unusable(
            f"{path}: is of a newer vllm-console (schema {version}, this one knows {newest}); "
            "nothing is recorded until that version runs, or the file is moved"
        )
    return not tables


def _readable(path: Path) -> sqlite3.Connection:
    try:
        return _tried(_connected(path, "ro"))
    except sqlite3.OperationalError:
        if os.access(path.parent, os.W_OK):
            raise
    return _tried(_connected(path, "ro&immutable=1"))  # no place for SQLite's shared memory


def _tried(connection: sqlite3.Connection) -> sqlite3.Connection:
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=2.0
    )
    connection.row_factory = sqlite3.Row
    return connection
