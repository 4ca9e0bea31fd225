"""`events` and `history revisions`: with a daemon that comes and goes, and with none."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest

from vllm_console.cli import events
from vllm_console.cli.main import main
from vllm_console.control.client import Client
from vllm_console.errors import NoDaemon, TimedOut
from vllm_console.history.database import Database
from vllm_console.history.records import Revision, add_audit, add_events, add_revisions
from vllm_console.snapshot import AuditEntry, Event, Failure

Verb = Callable[..., int]
FAILURE = Failure("kv-too-small", "the line", "set max_model_len", "t", 1, ("one", "two"))
A_DAY_AGO = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="milliseconds")
TOLD = (
    Event(1, A_DAY_AGO, "ok", "a-1", "ready"),
    Event(2, A_DAY_AGO, "crit", "a-1", "failed", FAILURE),
    Event(3, "2999-01-01T00:00:02.000Z", "info", "fleet", "down"),
)
ASKED = AuditEntry(
    1, "t", "vllm-console/0.1.0 load", "load", {"model": "a"}, "ok", 2.0, 1000, "ada", 42
)


@pytest.fixture
def verb(tmp_path: Path) -> Verb:
    """Runs the command line on a fleet of its own."""
    (tmp_path / "fleet.toml").write_text('[fleet]\nname = "t"\n')
    where = ["--fleet", str(tmp_path / "fleet.toml"), "--state-dir", str(tmp_path)]
    return lambda *words: main([*words, *where])


@pytest.fixture
def history(database: Callable[..., Database]) -> Database:
    """A history file that a daemon left."""
    opened = database()
    configs = [
        {"name": "a", "source": "x/y", "options": {"max_num_seqs": n, "seed": 1}} for n in (8, 16)
    ]
    kept = [Revision(n, f"f{n}", f"t{n}", config) for n, config in enumerate(configs, 1)]
    opened.write(lambda connection: add_events(connection, TOLD))
    opened.write(lambda connection: add_audit(connection, [ASKED]))
    opened.write(lambda connection: add_revisions(connection, {"a": kept}))
    opened.close()
    return opened


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("history")
def test_without_a_daemon_events_come_from_the_file(
    verb: Verb, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb("events") == 0
    shown = capsys.readouterr()
    assert [line.split()[1:3] for line in shown.out.splitlines()] == [
        ["ok", "a-1"],
        ["crit", "a-1"],
        ["set", "max_model_len"],
        ["info", "fleet"],
    ]
    assert shown.err.startswith("no daemon runs; this is what ")
    assert shown.err.count("\n") == 1


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (["-n", "1"], [3]),
        (["-n", "0"], []),
        (["--after", "1"], [2, 3]),
        (["--level", "warn"], [2]),
        (["--since", "2h"], [3]),
        (["--since", "2h", "--level", "crit"], []),
    ],
)
def test_events_can_be_narrowed(
    verb: Verb, capsys: pytest.CaptureFixture[str], words: list[str], numbers: list[int]
) -> None:
    assert verb("events", "--json", *words) == 0
    assert [json.loads(line)["seq"] for line in lines(capsys)] == numbers


@pytest.mark.usefixtures("history")
def test_json_keeps_the_failure_whole(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb("events", "--json") == 0
    failures = [json.loads(line)["failure"] for line in lines(capsys)]
    assert [failure and failure["log_excerpt"] for failure in failures] == [
        None,
        ["one", "two"],
        None,
    ]


@pytest.mark.usefixtures("history")
def test_the_audit_says_who_asked_for_what(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb("events", "--audit") == 0
    words = lines(capsys)[0].split()
    assert words[:4] == ["t", "ada", "vllm-console/0.1.0", "load"]
    assert words[4:] == ["(pid", "42)", "load", "model=a", "ok", "after", "2.0", "s"]
    assert verb("events", "--audit", "--json") == 0
    assert json.loads(lines(capsys)[0])["arguments"] == {"model": "a"}


@pytest.mark.usefixtures("history")
def test_revisions_show_what_changed(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb("history", "revisions", "a") == 0
    assert lines(capsys) == ["    1  t1  x/y", "    2  t2", "       options.max_num_seqs: 8 → 16"]
    assert verb("history", "revisions", "a", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["revision"] is None
    assert [revision["changed"] for revision in answer["revisions"]] == [
        [],
        [{"key": "options.max_num_seqs", "old": 8, "new": 16}],
    ]


@pytest.mark.usefixtures("history")
def test_a_model_that_never_was_is_one_line(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb("history", "revisions", "b") == 4
    assert 'no model "b" in the history; there are a' in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["events"], ["events", "--audit"], ["history", "revisions", "a"]]
)
def test_without_daemon_and_file_it_is_exit_3(
    verb: Verb, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert verb(*words) == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_a_damaged_file_is_one_line(
    verb: Verb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "history.sqlite").write_text("no database\n" * 100)
    assert verb("events") == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "cannot be read (file is not a database)" in err


def test_a_file_of_a_newer_version_is_one_line(
    verb: Verb, history: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(history.path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert verb("events") == 1
    assert "is of a newer vllm-console (schema 99" in capsys.readouterr().err


def test_reading_leaves_the_file_as_it_was(verb: Verb, history: Database) -> None:
    before = history.path.read_bytes()
    assert verb("events") == 0
    assert history.path.read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [
        ["--since", "yesterday"],
        ["--since", "999999999999d"],
        ["--level", "loud"],
        ["--after", "-1"],
        ["-n", "x"],
    ],
)
def test_a_wrong_value_is_one_line_and_exit_2(
    verb: Verb, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        verb("events", *words)
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_level_of_the_audit_is_refused(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb("events", "--audit", "--level", "warn") == 2
    assert "--level is of events" in capsys.readouterr().err


class FakeClient(Client):
    """A daemon by its lives: in each it has events, and ends after the last of them."""

    def __init__(self, *lives: list[int]) -> None:
        super().__init__(Path(os.devnull))
        self.lives = list(lives)
        self.asked: list[int] = []

    def events(self, after: int = 0, limit: int = 1000, **_: object) -> list[Event]:
        if not self.lives[0]:
            self.lives.pop(0)
            raise NoDaemon("none")
        return [self._event(n) for n in self.lives[0] if n > after][-limit:]

    def follow_events(self, after: int = 0) -> Iterator[Event]:
        self.asked.append(after)
        for n in self.lives.pop(0):
            if n > after:
                yield self._event(n)
        if len(self.asked) % 2:
            raise TimedOut("slow") if len(self.asked) > 2 else NoDaemon("it went away")

    @staticmethod
    def _event(n: int) -> Event:
        return Event(n, "t", "ok", "a", str(n))


def test_following_goes_on_over_restarts_without_a_gap_or_a_repeat(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(events, "_LOOK_AGAIN_S", 0.0)
    client = FakeClient([1, 2, 3], [], [], [2, 3, 4, 5], [4, 5, 6], [6, 7])
    followed = events._follow(events._EVENTS, client, 1, away=False)
    assert [e.seq for e in islice(followed, 6)] == [2, 3, 4, 5, 6, 7]
    assert client.asked == [1, 3, 5, 6]
    assert capsys.readouterr().err == "waiting for a daemon\na daemon answers\n" * 3


def test_following_a_fleet_whose_file_is_another_begins_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "_LOOK_AGAIN_S", 0.0)
    client = FakeClient([100], [], [1, 2])
    followed = events._follow(events._EVENTS, client, 99, away=False)
    assert [e.seq for e in islice(followed, 3)] == [100, 1, 2]
    assert client.asked == [99, 0]


def test_the_time_ago_is_as_the_rows_have_it() -> None:
    assert events._time_ago("1h30m")[-1] == "Z"
    assert len(events._time_ago("1h")) == len("2026-01-01T00:00:00.000Z")
    with pytest.raises(argparse.ArgumentTypeError, match="not a duration"):
        events._time_ago("soon")
