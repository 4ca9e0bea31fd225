"""The audit: every command, how it ended, and nothing that should not be written down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vllm_console.control.audit import AuditLog, recorded
from vllm_console.control.peer import Asker, asker_of, user_name
from vllm_console.errors import ConsoleError
from vllm_console.history.database import Database

Open = Callable[..., Database]
ADA = Asker("vllm-console/0.1.0 load", 0, 42)


def ticks() -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += 1.5


def audit(database: Database) -> AuditLog:
    return AuditLog(database, monotonic=ticks().__next__)


def test_what_was_asked_and_came_of_it_outlives_the_daemon(database: Open) -> None:
    log = audit(database())
    with log.record(ADA, "load", {"model": "a"}):
        pass
    (entry,) = audit(database()).after(0)
    assert (entry.seq, entry.client, entry.uid, entry.pid) == (1, ADA.client, 0, 42)
    assert (entry.verb, dict(entry.arguments)) == ("load", {"model": "a"})
    assert (entry.outcome, entry.seconds, entry.user) == ("ok", 1.5, "root")


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ConsoleError("no such\nmodel"), "no such model"),
        (KeyError("a bug"), "internal error: KeyError('a bug')"),
        (asyncio.CancelledError(), "not finished: the daemon ended"),
    ],
)
def test_how_it_failed_is_one_line_and_goes_on_to_the_caller(
    database: Open, error: BaseException, outcome: str
) -> None:
    log = audit(database())
    with pytest.raises(type(error)), log.record(ADA, "load", {}):
        raise error
    assert log.newest(1)[0].outcome == outcome


def test_a_signal_has_no_user(database: Open) -> None:
    log = audit(database())
    with log.record(Asker("SIGHUP"), "apply", {}):
        pass
    entry = log.newest(1)[0]
    assert (entry.client, entry.uid, entry.user, entry.pid) == ("SIGHUP", None, None, None)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (
            {"model": "a", "revision": 3, "force": True},
            {"model": "a", "revision": 3, "force": True},
        ),
        ({"revision": None}, {}),
        ({"api_key": "hunter2", "model": "a"}, {"api_key": "•••", "model": "a"}),
        ({"model": "sk-abcdef123456"}, {"model": "•••"}),
        ({"model": "x" * 1000}, {"model": "x" * 300}),
        ({"model": ["a", "b\n"]}, {"model": "['a', 'b\\n']"}),
    ],
)
def test_only_known_arguments_are_written_down(given: dict[str, Any], kept: dict[str, Any]) -> None:
    assert recorded(given) == kept


def test_no_more_arguments_than_a_command_has() -> None:
    assert len(recorded({str(n): n for n in range(1000)})) == 16


def test_a_programs_word_is_kept_short_and_printable() -> None:
    said = (b"user-agent", b"a\x1b[31m\xff" + b"b" * 1000)
    asker = asker_of({"headers": [said], "state": {"peer": (1, 0)}})
    assert asker.client.startswith("a[31m")
    assert len(asker.client) == 64
    assert asker_of({"headers": [], "state": {}}).client == "unknown"


def test_a_user_without_a_name_is_a_number() -> None:
    assert user_name(4_000_000_123) == "4000000123"
