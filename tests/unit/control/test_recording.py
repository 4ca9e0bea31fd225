"""A history file as a daemon that only tells: what it answers, and what it refuses to open."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from tests.unit.control.test_past import past
from tests.unit.history.past import EPOCH, Past
from vllm_console.control.recording import REFUSED, Recording
from vllm_console.errors import ConsoleError, InvalidInput, NotFound
from vllm_console.history.asking import question
from vllm_console.history.when import iso
from vllm_console.snapshot import Snapshot

__all__ = ["past"]


@pytest.fixture
def recording(past: Past, tmp_path: Path) -> Iterator[Recording]:
    """The file of `past`, as it came from another machine."""
    past.close()
    folder = tmp_path / "box-7"
    folder.mkdir()
    shutil.copy(past.path, folder / "history.sqlite")
    found = Recording(folder / "history.sqlite")
    yield found
    found.close()


def test_it_begins_with_its_last_moment_and_then_waits(recording: Recording) -> None:
    client = recording.client()
    stream = client.snapshots()
    first = next(stream)
    assert first.at == iso(recording.end) == iso(EPOCH + 200)
    assert first.fleet == "box-7"
    rest: list[Snapshot] = []
    waiting = Thread(target=lambda: rest.extend(stream))
    waiting.start()
    client.close()
    waiting.join(10)
    assert not waiting.is_alive()
    assert rest == []


def test_times_count_from_its_end(recording: Recording) -> None:
    client = recording.client()
    assert client.snapshot_at("-155s").at == iso(EPOCH + 45)
    assert client.snapshot_at(iso(EPOCH + 45)).models[0].load.running == 5
    with pytest.raises(InvalidInput, match="is still to come"):
        client.snapshot_at(iso(EPOCH + 300))
    with pytest.raises(NotFound, match="nothing is recorded of"):
        client.snapshot_at("2d")


def test_graphs_events_audit_and_questions_come_from_the_file(recording: Recording) -> None:
    client = recording.client()
    (values,) = client.series(["model/m"], ["running"], 5, 1, EPOCH + 45)["model/m"].values()
    assert values[:4] == [2, 3, 4, 5]
    at_the_end = client.series(["model/m"], ["running"], 5, 1)["model/m"]["running"]
    assert at_the_end == [None] * 5
    assert client.events(after=12)[0].text == "down"
    assert client.audit() == []
    asked = question("mm", metrics=["generation_tokens"], since=iso(EPOCH + 30),
                     until=iso(EPOCH + 40), now=recording.end)  # fmt: skip
    (measured,) = client.ask(asked).measured
    assert measured.figure.values["count"] == pytest.approx(30)


def test_nothing_can_be_changed_and_there_are_no_logs(recording: Recording) -> None:
    client = recording.client()
    with pytest.raises(ConsoleError, match=REFUSED):
        client.command("load", model="m")
    with pytest.raises(NotFound, match="a recording holds no logs"):
        client.log("m-1")


def test_a_folder_is_as_good_as_its_file_and_neither_is_written(recording: Recording) -> None:
    before = recording.path.stat().st_mtime_ns
    other = Recording(recording.path.parent)
    assert other.end == recording.end
    other.close()
    assert recording.path.stat().st_mtime_ns == before


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.sqlite: no such file; replay takes"):
        Recording(tmp_path / "none.sqlite")


def test_other_files_are_told_from_history(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, and long enough to look like one " * 40)
    with pytest.raises(ConsoleError, match=r"notes\.txt: cannot be read \(file is not a database"):
        Recording(text)
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE a (b)")
    connection.close()
    with pytest.raises(InvalidInput, match="is not a history file of vllm-console"):
        Recording(foreign)


@pytest.mark.parametrize(
    ("version", "message"),
    [(99, "is of a newer vllm-console"), (1, "is of a version that kept no measurements")],
)
def test_files_of_other_versions_are_told(past: Past, version: int, message: str) -> None:
    past.connection.execute(f"PRAGMA user_version = {version}")
    past.close()
    with pytest.raises(InvalidInput, match=message):
        Recording(past.path)


def test_a_file_without_a_sample_has_nothing_to_show(tmp_path: Path) -> None:
    Past(tmp_path).close()
    with pytest.raises(InvalidInput, match="nothing was measured in it"):
        Recording(tmp_path)
