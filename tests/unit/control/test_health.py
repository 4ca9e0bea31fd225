"""What counts as an error, a restart, a recovery, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from vllm_console.control.events import EventLog
from vllm_console.control.health import HealthCount
from vllm_console.history.database import Database
from vllm_console.snapshot import Health

BEGIN = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
Open = Callable[..., Database]


class Day:
    """An event log, and a count of its health, on one clock that moves when told to."""

    def __init__(self, database: Database) -> None:
        self.now = BEGIN
        self.events = EventLog(database, clock=lambda: self.now.isoformat(timespec="milliseconds"))
        self.health = HealthCount(self.events, lambda: self.now)

    def tell(self, level: str, text: str, subject: str = "qwen-1") -> None:
        self.now += timedelta(minutes=1)
        self.events.add(level, subject, text)

    def counts(self) -> tuple[int | None, ...]:
        told: Health = self.health.read()
        return told.errors, told.restarts, told.recoveries, told.adopted


def test_a_fleet_without_trouble_has_none(database: Open) -> None:
    day = Day(database())
    day.tell("info", "daemon 0.1.0 started", "fleet")
    day.tell("info", "starting: wanted 1, ready 0")
    day.tell("ok", "ready in 94.2 s")
    assert day.counts() == (0, 0, 0, 0)


def test_a_worker_that_dies_and_comes_back_is_an_error_a_restart_and_a_recovery(
    database: Open,
) -> None:
    day = Day(database())
    day.tell("info", "starting")
    day.tell("ok", "ready in 94.2 s")
    day.tell("warn", "ended, out-of-memory: CUDA out of memory; starts again in 2 s")
    assert day.counts() == (1, 0, 0, 0)
    day.tell("info", "starting")
    assert day.counts() == (1, 1, 0, 0)
    day.tell("ok", "ready in 60.1 s")
    assert day.counts() == (1, 1, 1, 0)


def test_a_worker_that_stalls_and_goes_on_recovers_without_a_restart(database: Open) -> None:
    day = Day(database())
    day.tell("ok", "adopted, pid 4242, not touched")
    day.tell("warn", "stalled: requests run, no iteration has finished for 60 s")
    day.tell("ok", "ready")
    assert day.counts() == (1, 0, 1, 1)


def test_a_worker_that_was_unloaded_starts_anew(database: Open) -> None:
    day = Day(database())
    day.tell("ok", "ready in 60.1 s")
    day.tell("info", "stopping")
    day.tell("info", "stopped")
    day.tell("info", "starting")
    assert day.counts() == (0, 0, 0, 0)


def test_a_restart_on_request_is_a_restart_and_no_error(database: Open) -> None:
    day = Day(database())
    day.tell("ok", "ready in 60.1 s")
    day.tell("info", "stopping")
    day.tell("info", "starting")
    day.tell("ok", "ready in 61.0 s")
    assert day.counts() == (0, 1, 0, 0)


def test_critical_events_of_any_subject_are_errors_and_warnings_are_not(database: Open) -> None:
    day = Day(database())
    day.tell("crit", "internal error, see daemon.log", "daemon")
    day.tell("crit", "crash-loop, bad-option: error: argument", "qwen-1")
    day.tell("warn", "the machine was rebooted, lost qwen-1", "fleet")
    day.tell("warn", "TTFT p95 is over its target", "qwen")
    assert day.counts() == (2, 0, 0, 0)


def test_what_is_a_day_old_is_counted_no_more(database: Open) -> None:
    day = Day(database())
    day.tell("crit", "failed, out-of-memory: CUDA out of memory")
    day.now += timedelta(hours=23)
    day.tell("crit", "failed, out-of-memory: CUDA out of memory")
    assert day.counts() == (2, 0, 0, 0)
    day.now += timedelta(hours=1)
    assert day.counts() == (1, 0, 0, 0)


def test_the_next_daemon_counts_what_its_predecessor_recorded(database: Open) -> None:
    first = Day(database())
    first.tell("warn", "ended, killed: exit code 137; starts again in 2 s")
    second = Day(database())
    second.now = first.now
    assert second.counts() == (1, 0, 0, 0)
    second.tell("ok", "ready in 2.0 s")
    assert second.counts() == (1, 0, 1, 0)
