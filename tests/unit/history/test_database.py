"""The history file, whatever is done to it: what is kept, what is said, and that all goes on."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from vllm_console.history import file
from vllm_console.history.database import Database
from vllm_console.history.file import APPLICATION_ID
from vllm_console.history.schema import STEPS, step_up, version_of

WITHIN_S = 10.0
VERSIONS = Path(__file__).with_name("versions")
Open = Callable[..., Database]


class Heard:
    """Remembers what a database tells, and waits for it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self._more = threading.Condition()

    def __call__(self, level: str, text: str) -> None:
        with self._more:
            self.told.append((level, text))
            self._more.notify_all()

    def wait(self, word: str) -> str:
        """The first text with this word in it; fails when there is none in time."""
        with self._more:
            assert self._more.wait_for(lambda: self._with(word), WITHIN_S), self.told
            return self._with(word)[0]

    def _with(self, word: str) -> list[str]:
        return [text for _, text in self.told if word in text]


def note(text: str) -> Callable[[sqlite3.Connection], object]:
    """A write that leaves one revision row behind."""
    values = (text, "", "", "{}")
    return lambda connection: connection.execute(
        "INSERT INTO revisions VALUES (?, 1, ?, ?, ?)", values
    )


def notes(path: Path) -> list[str]:
    with file.reading(path) as connection:
        return [row[0] for row in connection.execute("SELECT model FROM revisions ORDER BY model")]


def written(database: Database, *texts: str) -> None:
    for text in texts:
        database.write(note(text))
    assert database.flush(WITHIN_S)


def test_a_new_file_is_ours_and_for_its_owner_alone(database: Open) -> None:
    opened = database()
    written(opened, "a")
    with opened.reading() as connection:
        header = [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version", "page_size", "journal_mode")
        ]
    assert header == [APPLICATION_ID, len(STEPS), 8192, "wal"]
    beside = [opened.path, *opened.path.parent.glob("history.sqlite-*")]
    assert len(beside) == 3
    assert {each.stat().st_mode & 0o777 for each in beside} == {0o600}


def test_what_was_written_is_there_for_the_next(database: Open) -> None:
    written(database(), "a")
    written(again := database(), "b")
    assert notes(again.path) == ["a", "b"]


def test_writes_before_the_start_wait_for_it(database: Open) -> None:
    opened = database(start=False)
    opened.write(note("early"))
    opened.start()
    assert opened.flush(WITHIN_S)
    assert notes(opened.path) == ["early"]


def test_closing_writes_what_still_waits(database: Open) -> None:
    opened = database()
    for number in range(100):
        opened.write(note(f"{number:03}"))
    opened.close()
    assert len(notes(opened.path)) == 100


@pytest.mark.parametrize("version", range(len(STEPS) + 1))
def test_a_file_of_every_version_is_stepped_up_and_keeps_its_rows(
    tmp_path: Path, database: Open, version: int
) -> None:
    fresh = shape(sqlite3.connect(":memory:"))
    with closing(sqlite3.connect(tmp_path / "history.sqlite")) as connection:
        if version:
            connection.executescript((VERSIONS / f"{version}.sql").read_text())
    opened = database()
    written(opened, "b")
    with opened.reading() as connection:
        assert version_of(connection) == len(STEPS)
        assert tables(connection) == fresh
    assert notes(opened.path) == (["a", "b"] if version else ["b"])


def shape(connection: sqlite3.Connection) -> dict[str, list[tuple[object, ...]]]:
    with closing(connection):
        connection.isolation_level = None
        step_up(connection, APPLICATION_ID)
        return tables(connection)


def tables(connection: sqlite3.Connection) -> dict[str, list[tuple[object, ...]]]:
    """Columns of every table, as SQLite tells them."""
    names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    return {
        name: [tuple(row) for row in connection.execute(f"PRAGMA table_info({name})")]
        for (name,) in map(tuple, names)
    }


def test_a_step_that_fails_leaves_the_version_before_it(tmp_path: Path) -> None:
    def broken(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE half (a)")
        connection.execute("no such statement")

    with closing(sqlite3.connect(tmp_path / "h", isolation_level=None)) as connection:
        with pytest.raises(sqlite3.OperationalError):
            step_up(connection, APPLICATION_ID, (*STEPS, broken))
        assert version_of(connection) == len(STEPS)
        assert "half" not in tables(connection)


def test_a_newer_file_is_left_as_it_is_and_said(database: Open) -> None:
    def later(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE later (a)")

    written(newer := database(steps=(*STEPS, later)), "theirs")
    newer.close()
    before = newer.path.read_bytes()
    heard = Heard()
    older = database(heard)
    older.write(note("ours"))
    said = heard.wait("newer vllm-console")
    assert f"schema {len(STEPS) + 1}, this one knows {len(STEPS)}" in said
    assert older.trouble == said
    older.close()
    assert older.path.read_bytes() == before


def test_another_programs_file_is_left_as_it_is(tmp_path: Path, database: Open) -> None:
    with closing(sqlite3.connect(tmp_path / "history.sqlite")) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    before = (tmp_path / "history.sqlite").read_bytes()
    heard = Heard()
    opened = database(heard)
    heard.wait("another program's file")
    opened.close()
    assert opened.path.read_bytes() == before


def garbage_header(path: Path) -> None:
    path.write_bytes(b"\0" * 100 + path.read_bytes()[100:])


def another_format(path: Path) -> None:
    path.write_text("this is no database\n" * 100)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 100)


def one_page_zeroed(path: Path) -> None:
    with path.open("r+b") as opened:
        opened.seek(8192)
        opened.write(b"\0" * 8192)


@pytest.mark.parametrize("damage", [garbage_header, another_format, truncated, one_page_zeroed])
def test_a_damaged_file_is_moved_aside_and_one_begun_with_what_is_known(
    database: Open, damage: Callable[[Path], None]
) -> None:
    first = database()
    written(first, *(f"old{n:04}" for n in range(500)))
    first.close()
    damage(first.path)
    broken = first.path.read_bytes()
    heard = Heard()
    second = database(heard, start=False)
    second.seed(note("known"))
    second.write(note("new"))
    second.start(heard)
    said = heard.wait("was damaged")
    assert second.flush(WITHIN_S)
    assert second.trouble is None
    assert notes(second.path) == ["known", "new"]
    aside = next(p for p in second.path.parent.iterdir() if p.name.endswith("Z"))
    assert aside.name in said
    assert aside.read_bytes() == broken


def test_damage_seen_only_while_writing_is_met_likewise(database: Open) -> None:
    heard = Heard()
    opened = database(heard)
    written(opened, "a")
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    failures = [error]

    def hits_it(connection: sqlite3.Connection) -> None:
        if failures:
            raise failures.pop()
        note("b")(connection)

    opened.write(hits_it)
    heard.wait("was damaged")
    assert opened.flush(WITHIN_S)
    assert notes(opened.path) == ["b"]


def test_a_file_that_is_deleted_under_way_is_begun_anew(database: Open) -> None:
    heard = Heard()
    opened = database(heard, start=False)
    opened.seed(note("known"))
    opened.start(heard)
    written(opened, "a")
    opened.path.unlink()
    written(opened, "b")
    heard.wait("was taken away")
    assert notes(opened.path) == ["b", "known"]
    assert opened.trouble is None


def test_a_full_disk_is_said_and_what_was_kept_is_written_later(
    database: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = threading.Event()
    real = file.open_to_write

    def small(path: Path, steps: object) -> tuple[sqlite3.Connection, bool]:
        connection, new = real(path)
        if full.is_set():  # SQLite says SQLITE_FULL as it does on a real full disk
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection, new

    monkeypatch.setattr(file, "open_to_write", small)
    full.set()
    heard = Heard()
    opened = database(heard, keep=3)
    big = "x" * 100_000
    for name in "abcde":
        opened.write(note(name + big))
    said = heard.wait("nothing is recorded")
    assert (opened.trouble, "full" in said) == (said, True)
    full.clear()
    assert "2 records were lost" in heard.wait("is written again")
    assert opened.flush(WITHIN_S)
    assert opened.trouble is None
    assert [text[0] for text in notes(opened.path)] == ["c", "d", "e"]
    assert len([t for _, t in heard.told if "nothing is recorded" in t]) == 1


def test_a_directory_that_is_not_there_is_said_and_waited_for(tmp_path: Path) -> None:
    heard = Heard()
    opened = Database(tmp_path / "later" / "history.sqlite", retry_s=0.02)
    opened.start(heard)
    opened.write(note("a"))
    heard.wait("No such file or directory")
    (tmp_path / "later").mkdir()
    heard.wait("is written again")
    assert opened.flush(WITHIN_S)
    opened.close()
    assert notes(opened.path) == ["a"]


def test_a_write_that_is_wrong_costs_itself_alone(
    database: Open, caplog: pytest.LogCaptureFixture
) -> None:
    opened = database()

    def wrong(connection: sqlite3.Connection) -> None:
        note("half")(connection)
        raise KeyError("a mistake of ours")

    opened.write(wrong)
    opened.write(lambda connection: connection.execute("no statement"))
    written(opened, "a")
    assert notes(opened.path) == ["a"]
    assert opened.trouble is None
    assert caplog.text.count("could not be written") == 2


def test_nothing_waits_for_a_reader(database: Open) -> None:
    opened = database()
    written(opened, "a")
    with opened.reading() as connection:
        connection.execute("BEGIN")
        assert len(connection.execute("SELECT * FROM revisions").fetchall()) == 1
        written(opened, "b")
        assert len(connection.execute("SELECT * FROM revisions").fetchall()) == 1
    assert notes(opened.path) == ["a", "b"]


def test_a_reader_cannot_write(database: Open) -> None:
    opened = database()
    written(opened, "a")
    with opened.reading() as connection, pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM revisions")
