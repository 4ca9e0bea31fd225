"""Which revision serves is told once, where nobody else has: after an older file, or a restart."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_console.control.events import EventLog
from vllm_console.control.reigning import Reigning
from vllm_console.control.revisions import Revisions
from vllm_console.control.served import ServedModel
from vllm_console.fleet.model import ModelConfig
from vllm_console.history.database import Database

LATER = 4e9
ONE, TWO = (ModelConfig(name="m", source="x", options={"max_num_seqs": n}) for n in (1, 2))


def model(*revisions: int, serve: bool = True) -> ServedModel:
    """A model whose workers run these revisions."""
    made = ServedModel(ONE, 1, lambda *_: pytest.fail("none is started"))
    for number, revision in enumerate(revisions, 1):
        worker: Any = SimpleNamespace(
            id=f"m-{number}", serves=serve, spec=SimpleNamespace(revision=revision)
        )
        made.workers[worker.id] = worker
    return made


@pytest.fixture
def told() -> list[tuple[str, str, str]]:
    return []


@pytest.fixture
def recorded(tmp_path: Path) -> Database:
    """What a daemon left that had revision 1, then 2, and said so."""
    database = Database(tmp_path / "history.sqlite")
    revisions, events = Revisions(database), EventLog(database)
    assert [revisions.number(config) for config in (ONE, TWO)] == [1, 2]
    events.add("ok", "m", "revision 2 serves")
    database.start()
    database.close()
    return Database(tmp_path / "history.sqlite")


def reigning(told: list[tuple[str, str, str]]) -> Reigning:
    return Reigning(lambda *event: told.append(event))


def test_a_fleet_without_a_record_has_nothing_to_tell(
    tmp_path: Path, told: list[tuple[str, str, str]]
) -> None:
    made = reigning(told)
    made.recall(Database(tmp_path / "none.sqlite"), LATER)
    made.look(model(1))
    assert told == []


def test_a_revision_that_is_back_is_told_once(
    recorded: Database, told: list[tuple[str, str, str]]
) -> None:
    made = reigning(told)
    made.recall(recorded, LATER)
    made.look(model(1, serve=False))
    assert told == []
    made.look(model(1, 1))
    assert told == [("info", "m", "revision 1 serves")]
    made.heard(*told[0][1:])
    made.look(model(1, 1))
    assert len(told) == 1


def test_an_event_without_a_time_as_older_versions_have_stops_no_daemon(
    recorded: Database, told: list[tuple[str, str, str]]
) -> None:
    with closing(sqlite3.connect(recorded.path)) as connection, connection:
        connection.execute("UPDATE events SET at = '0'")
    made = reigning(told)
    made.recall(recorded, LATER)
    made.look(model(1))
    assert told == [("info", "m", "revision 1 serves")]  # the newer was seen last


@pytest.mark.parametrize("revisions", [(2,), (2, 2), (1, 2), (0,), ()])
def test_what_the_record_has_is_not_told_again_nor_what_is_unclear(
    revisions: tuple[int, ...], recorded: Database, told: list[tuple[str, str, str]]
) -> None:
    made = reigning(told)
    made.recall(recorded, LATER)
    made.look(model(*revisions))
    assert told == []


def test_what_a_rollout_tells_is_heard(
    recorded: Database, told: list[tuple[str, str, str]]
) -> None:
    made = reigning(told)
    made.recall(recorded, LATER)
    made.heard("m", "revision 3 did not become ready (killed: x); revision 1 serves")
    made.look(model(1))
    assert told == []
    made.look(model(2))
    assert told == [("info", "m", "revision 2 serves")]
