"""The history file under kill -9: never broken, and nothing lost that was said to be written."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from vllm_console.control.client import Client
from vllm_console.control.process import is_running, wait_until_gone
from vllm_console.errors import NotFound
from vllm_console.fleet.find import Place, locate
from vllm_console.history.file import APPLICATION_ID, reading
from vllm_console.history.records import Span, read_audit, read_events

KILLS = 20
WITHIN_S = 20.0
WRITER = """
import sys
from pathlib import Path
from vllm_console.history.database import Database

database = Database(Path(sys.argv[1]))
database.start()
with database.reading() if database.flush(10) else sys.exit("not writable") as connection:
    number = connection.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0]
while True:
    number += 1
    row = (number, "t", "ok", "a", "x" * (number % 5000), None)
    database.write(
        lambda connection, row=row: connection.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", row
        ),
        lambda number=number: print(number, flush=True),
    )
    if number % 50 == 0:
        database.flush(10)
"""
"""Writes rows for ever and prints the number of each once it has been committed."""


def test_kill_9_while_writing_loses_no_row_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    chance = random.Random(4)
    acknowledged = 0
    for _ in range(KILLS):
        acknowledged = max(acknowledged, _killed_after(path, chance.randrange(1, 200)))
        with reading(path) as connection:
            assert connection.execute("PRAGMA quick_check").fetchone()[0] == "ok"
            rows, last = connection.execute("SELECT count(*), max(seq) FROM events").fetchone()
        assert rows == last, "a row is missing in between"
        assert last >= acknowledged
    assert not list(tmp_path.glob("*.damaged-*"))
    assert acknowledged > KILLS


def _killed_after(path: Path, count: int) -> int:
    """Start a writer, kill it once it has acknowledged `count` rows; the last it acknowledged."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    last = ""
    with writer, writer.stdout as told:
        try:
            for _ in range(count):
                last = told.readline()
                assert last, "the writer ended by itself"
        finally:
            writer.kill()
        rest = told.read().rpartition("\n")[0]  # a number cut by the kill is none
        writer.wait(WITHIN_S)
    return int(rest.rpartition("\n")[2] or last)


# -- a whole daemon ------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A fleet whose one model cannot be started; whatever daemon it has is ended afterwards."""
    model = '[gateway]\nenabled = false\n[models.m]\nsource = "x/y"\n'
    model += 'engine = "/nonexistent"\nautostart = false\n'
    (tmp_path / "fleet.toml").write_text('[fleet]\nname = "t"\n' + model)
    found = locate(tmp_path / "fleet.toml", tmp_path / "state")
    yield found
    if is_running(found):
        os.kill(_pid(found), signal.SIGKILL)
        wait_until_gone(found, WITHIN_S)


def up(place: Place) -> Client:
    """Start the daemon as a user does; returns once it answers."""
    subprocess.run([*verb("up", place), "-d"], check=True, stdout=subprocess.DEVNULL)
    return Client(place.socket, program="load")


def verb(name: str, place: Place) -> list[str]:
    """The command line of a verb on this fleet."""
    where = ["--fleet", str(place.fleet_file), "--state-dir", str(place.state_dir)]
    return [sys.executable, "-m", "vllm_console", name, *where]


def _pid(place: Place) -> int:
    return int((place.state_dir / "daemon.lock").read_text())


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_commands_and_signals_are_in_the_file_once_the_daemon_has_ended(place: Place) -> None:
    client = up(place)
    client.command("load", model="m")
    with pytest.raises(NotFound):
        client.command("load", model="nope")
    os.kill(_pid(place), signal.SIGHUP)
    _until(lambda: len(client.audit()) == 3)
    _until(lambda: any(e.failure for e in client.events()))
    stream = client.follow_events()
    next(stream)
    os.kill(_pid(place), signal.SIGTERM)
    wait_until_gone(place, WITHIN_S)
    assert all(event.seq for event in stream), "the stream is cut, not ended"
    with reading(place.history) as connection:
        audit, events = read_audit(connection, Span()), read_events(connection, Span())
    assert [(e.verb, e.outcome) for e in audit] == [
        ("load", "ok"),
        ("load", 'no model "nope"; there are m'),
        ("apply", "ok"),
        ("end the daemon", "ok"),
    ]
    assert [e.client for e in audit[2:]] == ["SIGHUP", "SIGTERM"]
    assert [e.failure.cause for e in events if e.failure] == ["engine-missing"]
    assert "Traceback" not in place.daemon_log.read_text()


def test_a_follower_sees_a_restart_of_the_daemon_without_a_gap_or_a_repeat(place: Place) -> None:
    up(place)
    words = [*verb("events", place), "-f", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as follower:
        try:
            assert follower.stdout is not None
            assert follower.stderr is not None
            seen = [json.loads(follower.stdout.readline())["seq"]]
            for end in (signal.SIGTERM, signal.SIGKILL):
                _until(lambda: _stored(place) >= seen[-1])
                os.kill(_pid(place), end)
                wait_until_gone(place, WITHIN_S)
                up(place)
                text = ""
                while not text.startswith("daemon"):
                    told = json.loads(follower.stdout.readline())
                    seen.append(told["seq"])
                    text = told["text"]
        finally:
            follower.kill()
        said = follower.stderr.read().decode().splitlines()
    assert seen == list(range(1, len(seen) + 1))
    assert said == ["waiting for a daemon", "a daemon answers"] * (len(said) // 2)
    assert len(said) >= 4


def _stored(place: Place) -> int:
    """The newest number in the file."""
    try:
        with reading(place.history) as connection:
            newest = read_events(connection, Span(limit=1))
    except FileNotFoundError:
        return 0
    return newest[-1].seq if newest else 0


def test_a_daemon_over_a_damaged_history_runs_and_says_so(place: Place) -> None:
    place.state_dir.mkdir()
    place.history.write_text("this is no database\n" * 500)
    client = up(place)
    _until(lambda: any("was damaged" in e.text for e in client.events()))
    assert list(place.state_dir.glob("history.sqlite.damaged-*"))
    _until(lambda: _stored(place) > 1_700_000_000)
    assert not [a for a in client.snapshot().alerts if "is recorded" in a.text]


def test_a_daemon_over_a_history_of_a_newer_version_runs_and_leaves_it(place: Place) -> None:
    place.state_dir.mkdir()
    with closing(sqlite3.connect(place.history)) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 99")
    before = place.history.read_bytes()
    client = up(place)
    _until(lambda: any("newer vllm-console" in a.text for a in client.snapshot().alerts))
    client.command("load", model="m")
    assert [e.verb for e in client.audit()] == ["load"]
    assert place.history.read_bytes() == before
