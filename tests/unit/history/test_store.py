"""The store as the daemon has it: never waited for, bounded, alive through trouble of the disk."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.unit.history.past import EPOCH, cell, sample
from vllm_console.errors import ConsoleError
from vllm_console.history import file
from vllm_console.history.chunks import put_chunk
from vllm_console.history.database import Database
from vllm_console.history.reading import Reader
from vllm_console.history.schema import STEPS
from vllm_console.history.store import Store, reader
from vllm_console.telemetry.window import Window

_W = "worker/w"
_WITHIN_S = 20.0
_KILLS = 10
_ROOT = Path(__file__).resolve().parents[3]


class Site:
    """One daemon's store on one file; `tick` is one second of its clock."""

    def __init__(self, path: Path, budget: int = 1 << 30) -> None:
        self.at = 0.0
        self.told: list[str] = []
        self._more = threading.Condition()
        self.database = Database(path, retry_s=0.05)
        self.store = Store(
            self.database, budget=budget, clock=lambda: self.at, wall=lambda: EPOCH + self.at
        )

    def start(self) -> Site:
        self.database.start(self._tell)
        return self

    def tick(self, seconds: int = 1, workers: int = 1, *, wait: bool = True) -> None:
        for second in range(seconds):
            if wait and second % 50 == 49:
                self.written()
            self.at += 1
            for worker in range(workers):
                name = f"{_W}{worker or ''}"
                self.store.record(name, sample(self.at, 3 * self.at, running=worker))
            self.store.tick()

    def written(self) -> None:
        assert self.database.flush(_WITHIN_S)

    def wait_told(self, word: str) -> None:
        with self._more:
            there = self._more.wait_for(lambda: any(word in t for t in self.told), _WITHIN_S)
        assert there, self.told

    def _tell(self, level: str, text: str) -> None:
        with self._more:
            self.told.append(text)
            self._more.notify_all()

    def window(self, since: float, until: float) -> Window | None:
        asked = self.store.ask(lambda r: r.window(_W, EPOCH + since, EPOCH + until))
        return asked.result(_WITHIN_S)

    def close(self) -> None:
        self.store.close()
        self.database.close(_WITHIN_S)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    with ExitStack() as stack:

        def begin(**options: int) -> Site:
            site = Site(tmp_path / "history.sqlite", **options)
            stack.callback(site.close)
            return site

        yield begin


def test_what_is_recorded_is_answered(opened: Callable[..., Site]) -> None:
    site = opened().start()
    site.tick(10)
    site.written()
    window = site.window(2, 10)
    assert window is not None
    assert window.delta("generation_tokens") == 24
    assert site.store.ask(Reader.subjects).result(_WITHIN_S) == [_W]


def test_recording_waits_for_nobody_and_what_is_too_much_is_counted(
    opened: Callable[..., Site],
) -> None:
    site = opened().start()
    go_on = threading.Event()
    site.database.write(lambda connection: go_on.wait(_WITHIN_S) and None)
    site.tick(100, wait=False)
    assert site.store.dropped > 0
    go_on.set()
    site.written()
    site.tick()
    site.written()
    window = site.window(0, site.at)
    assert window is not None
    assert window.new.counters["generation_tokens"] == 3 * site.at


def test_a_question_before_there_is_a_file_is_told_so(opened: Callable[..., Site]) -> None:
    with pytest.raises(ConsoleError, match="nothing is recorded yet"):
        opened().window(0, 1)


def test_the_next_daemon_goes_on_where_this_one_ends(
    opened: Callable[..., Site], tmp_path: Path
) -> None:
    with closing(Site(tmp_path / "history.sqlite").start()) as site:
        site.tick(130)
    again = opened().start()
    again.at = site.at
    again.tick(10)
    again.written()
    window = again.window(1, again.at)
    assert window is not None
    assert window.delta("generation_tokens") == 3 * 139


def test_a_full_budget_takes_the_oldest_rows_of_the_finest_tier(
    opened: Callable[..., Site],
) -> None:
    budget = 28 * 8192
    site = opened(budget=budget).start()
    for _ in range(60):
        site.tick(60, workers=12)
        site.written()
    with file.reading(site.database.path) as connection:
        assert cell(connection, "PRAGMA page_count") * 8192 <= budget
        first = [
            cell(connection, f"SELECT min(k & 0xfffffffff) FROM chunk WHERE k >> 60 = {tier}")
            for tier in (0, 1)
        ]
    assert first[0] > first[1]
    assert site.told == []
    window = site.window(60, site.at)
    assert window is not None
    assert window.delta("generation_tokens") == pytest.approx(3 * (site.at - 60), abs=30)


def test_a_budget_that_was_lowered_shrinks_the_file(opened: Callable[..., Site]) -> None:
    site = opened(budget=100 * 8192).start()

    def large(connection: sqlite3.Connection) -> None:
        for number in range(300):
            connection.execute(*put_chunk(0, 99, number * 10_000, 1, bytes(8000)))

    site.database.write(large)
    site.written()
    with file.reading(site.database.path) as connection:
        assert cell(connection, "PRAGMA page_count") > 300
    site.tick(20)
    for _ in range(10):
        site.tick()
        site.written()
    with file.reading(site.database.path) as connection:
        assert cell(connection, "PRAGMA page_count") <= 200
        assert cell(connection, "SELECT min(k & 0xfffffffff) FROM chunk") > 100
    assert site.window(1, site.at) is not None


def test_a_full_disk_costs_ticks_and_nothing_else(
    opened: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = opened().start()
    site.tick(5)
    site.written()
    full = threading.Event()
    take = Database._commit

    def commit(database: Database, write: Callable[[sqlite3.Connection], None]) -> None:
        if full.is_set():
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        take(database, write)

    monkeypatch.setattr(Database, "_commit", commit)
    full.set()
    site.tick()
    site.wait_told("nothing is recorded")
    site.tick(200, wait=False)
    assert site.store.dropped > 0
    full.clear()
    site.written()
    site.tick(5)
    site.written()
    window = site.window(1, site.at)
    assert window is not None
    assert window.delta("generation_tokens") == 3 * (site.at - 1)
    site.wait_told("is written again")


def test_a_disk_that_is_really_full_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """The writer runs in a process whose files may not grow, then may again."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.unit.history.writer", "full", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=_ROOT,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    said, counted = ran.stdout.splitlines()[-2:]
    assert "nothing is recorded" in said
    assert counted == "1.0"


def test_a_file_taken_away_is_begun_anew_with_what_waits(
    opened: Callable[..., Site],
) -> None:
    site = opened().start()
    site.tick(300)
    site.written()
    with sqlite3.connect(site.database.path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    os.unlink(site.database.path)
    site.tick(10)
    site.written()
    assert any("taken away while in use" in text for text in site.told)
    site.tick(200)
    site.written()
    window = site.window(site.at - 210, site.at)
    assert window is not None
    assert window.delta("generation_tokens") == 630
    with file.reading(site.database.path) as connection:
        of_file = reader(connection).window(_W, EPOCH + 301, EPOCH + site.at)
    assert of_file is not None
    assert of_file.delta("generation_tokens") == 3 * (site.at - 301)


@pytest.mark.parametrize("left", [0.0, 0.6])
def test_a_damaged_file_is_moved_aside_and_recording_goes_on(
    opened: Callable[..., Site], left: float
) -> None:
    with closing(Site(opened().database.path).start()) as before:
        before.tick(150)
    path = before.database.path
    whole = path.read_bytes()
    path.write_bytes(whole[: int(left * len(whole))] or b"no database at all" * 1000)
    site = opened().start()
    site.wait_told("damaged")
    site.at = before.at
    site.tick(20)
    site.written()
    window = site.window(0, site.at)
    assert window is not None
    assert window.delta("generation_tokens") == 3 * 19
    assert list(path.parent.glob("*.damaged-*"))


def test_a_file_of_a_newer_version_is_left_alone(
    opened: Callable[..., Site], tmp_path: Path
) -> None:
    connection, _ = file.open_to_write(tmp_path / "history.sqlite")
    connection.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    connection.close()
    before = (tmp_path / "history.sqlite").read_bytes()
    site = opened().start()
    site.tick(5, wait=False)
    site.wait_told("newer")
    site.tick(100, wait=False)
    assert (tmp_path / "history.sqlite").read_bytes() == before
    assert site.database.trouble is not None


def test_a_killed_writer_loses_the_tick_in_flight_at_most(tmp_path: Path) -> None:
    acknowledged = 0
    for kill in range(_KILLS):
        writer = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.history.writer", "ticks", str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=_ROOT,
        )
        assert writer.stdout is not None
        with writer.stdout:
            for _ in range(30 + 17 * kill):
                acknowledged = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().split(b"\n")[:-1]  # the last line may be cut
            acknowledged = max([acknowledged, *map(int, rest)])
        writer.wait()
        with closing(sqlite3.connect(tmp_path / "history.sqlite")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            of_file = reader(connection)
            window = of_file.window(_W, EPOCH, EPOCH + acknowledged + 1000)
            assert window is not None
            newest = round(window.new.at - EPOCH)
            assert newest >= acknowledged
            steps = of_file.steps(_W, EPOCH + 1, EPOCH + newest, 1.0)
            assert {step and step.delta("generation_tokens") for step in steps} == {3.0}
        acknowledged = newest
