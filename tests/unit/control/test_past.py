"""The fleet as it was: rebuilt from samples, events and revisions, and never invented."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path

import pytest

from tests.unit.history.past import EPOCH, Past, sample
from vllm_console.control.past import _states, moment_of, snapshot_at, tier_at
from vllm_console.errors import InvalidInput, NotFound
from vllm_console.history import records
from vllm_console.history.records import Revision, add_revisions
from vllm_console.history.tiers import TIERS
from vllm_console.history.when import iso
from vllm_console.snapshot import Event, Failure, Gpu, Load, Memory, Snapshot, to_json
from vllm_console.telemetry.sample import Sample

BROKEN = Failure("out-of-memory", "CUDA out of memory", "lower it", "t", 1)
STORY: list[tuple[float, str, str, str, Failure | None]] = [
    (1, "info", "fleet", "daemon 0.1.0 started", None),
    (2, "info", "m-1", "starting", None),
    (5, "info", "m-1", "import", None),
    (20, "ok", "m-1", "ready in 18.0 s", None),
    (60, "warn", "m-1", "stalled: requests run, no iteration has finished for 30 s", None),
    (70, "ok", "m-1", "ready", None),
    (90, "crit", "n-1", "failed, out-of-memory: CUDA out of memory", BROKEN),
    (138, "info", "m-1", "stopped", None),
    (150, "info", "m-1", "starting", None),
    (160, "warn", "m-1", "was gone when the daemon started, no exit code", None),
    (170, "ok", "m-1", "adopted, pid 7, not touched", None),
    (180, "warn", "fleet", "the machine was rebooted, lost m-1, m-2", None),
    (190, "ok", "fleet", "down", None),
]


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    """200 s of a worker that makes three tokens a second, and what was said meanwhile."""
    past = Past(tmp_path)
    gpu = Sample(0.0, gauges={"utilization": 0.5, "memory_used_bytes": 8.0 * 2**30})
    for _ in range(200):
        past.at += 1
        made = sample(past.at, 3 * past.at, running=past.at % 10)
        taken = [("gpu/GPU-b", Sample(past.at, gauges=gpu.gauges))]
        if 20 <= past.at <= 110:
            taken += [("worker/m-1", made), ("model/m", made), ("fleet", made)]
        past.tick(*taken)
    for seq, (at, level, subject, text, failure) in enumerate(STORY, 1):
        row = (seq, iso(EPOCH + at), level, subject, text, failure and json.dumps(to_json(failure)))
        past.connection.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", row)
    config = {
        "name": "m",
        "source": "org/m",
        "aliases": ["mm"],
        "options": {"max_num_seqs": 8, "dtype": "auto", "enforce_eager": True, "block_size": "x"},
        "slo": {"ttft_p95_s": 0.3},
        "scale": {"min": 1, "max": 3},
    }
    kept = {
        "m": [
            Revision(1, "a", iso(EPOCH + 1), config),
            Revision(2, "b", iso(EPOCH + 75), {**config, "source": "org/m2"}),
        ],
        "n": [Revision(1, "c", iso(EPOCH + 80), {"name": "n"})],
    }
    add_revisions(past.connection, kept)
    yield past
    past.close()


def at(past: Past, seconds: float, **more: object) -> Snapshot:
    now = EPOCH + past.at
    return snapshot_at(past.reader(), EPOCH + seconds, now, fleet="lab", **more)  # type: ignore[arg-type]


def test_numbers_states_and_configuration_are_those_of_that_moment(past: Past) -> None:
    found = at(past, 45.3)
    (model,) = found.models
    assert found.at == iso(EPOCH + 45.3)
    assert (model.name, model.source, model.revision, model.state) == ("m", "org/m", 1, "ready")
    assert (model.aliases, model.slo.ttft_p95_s, model.scale.max) == (("mm",), 0.3, 3)
    assert model.load.running == 5
    assert model.load.generation_tokens_per_s == pytest.approx(3.0)
    assert model.load.batch_fill == pytest.approx(5 / 8)
    assert model.load.latency.ttft_s.p95 is not None
    (worker,) = model.workers
    assert (worker.id, worker.running) == ("m-1", 5)
    assert worker.elapsed_s == pytest.approx(25.3)
    assert worker.stale_s == pytest.approx(0.3, abs=0.01)
    assert found.load.running == 5
    assert found.load.latency.ttft_s == model.load.latency.ttft_s
    assert found.daemon.version == "0.1.0"
    assert found.daemon.uptime_s == pytest.approx(44.3)


def test_a_gateway_that_was_adopted_is_no_model(past: Past) -> None:
    row = (90, iso(EPOCH + 44), "ok", "gateway", "adopted, pid 9, not touched", None)
    past.connection.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", row)
    found = at(past, 45.3)
    assert [model.name for model in found.models] == ["m"]
    assert "gateway" in [event.subject for event in found.events]


def test_what_is_not_stored_is_unknown(past: Past) -> None:
    model = at(past, 45).models[0]
    assert model.memory == Memory(device="gpu")
    assert model.workers[0].pid is None
    assert model.engine.max_num_seqs == 8
    assert model.engine.enforce_eager is True
    assert model.engine.block_size is None  # the option is a word where a number stands
    assert at(past, 45).host is None


def test_a_worker_that_did_not_serve_has_no_numbers(past: Past) -> None:
    starting = at(past, 10).models[0]
    assert (starting.state, starting.load) == ("starting", Load())
    assert starting.workers[0].elapsed_s == pytest.approx(8)
    assert at(past, 65).models[0].state == "stalled"
    assert at(past, 65).models[0].workers[0].reason is None
    stopped = at(past, 145).models[0]
    assert (stopped.state, stopped.workers, stopped.load) == ("stopped", (), Load())


def test_a_failure_is_told_as_it_was_then_and_alerts_are_drawn_anew(past: Past) -> None:
    assert [(a.level, a.subject) for a in at(past, 89).alerts] == [("warn", "m")]
    found = at(past, 95)
    assert found.models[1].workers[0].failure == BROKEN
    assert [(a.level, a.subject) for a in found.alerts] == [("crit", "n-1"), ("warn", "m")]
    assert found.alerts[1].text == "TTFT p95 over 1,000 ms > 300 ms"


def test_samples_that_stop_are_not_the_present_of_later(past: Past) -> None:
    fresh, silent, old = (at(past, seconds).models[0] for seconds in (115, 130, 175))
    assert fresh.load.running is not None
    assert (silent.state, silent.load) == ("ready", Load())
    assert silent.workers[0].stale_s == pytest.approx(20)
    assert (old.state, old.load.running) == ("ready", None)
    assert old.workers[0].running is None


def test_workers_nobody_saw_end_are_gone(past: Past) -> None:
    assert at(past, 165).models[0].workers == ()
    assert [w.id for w in at(past, 175).models[0].workers] == ["m-1"]
    assert at(past, 185).models[0].workers == ()
    assert at(past, 195).daemon.running is False
    assert at(past, 185).daemon.running is True


def test_the_newest_revision_by_then_is_the_one_shown(past: Past) -> None:
    assert at(past, 74).models[0].revision == 1
    assert (at(past, 80).models[0].revision, at(past, 80).models[0].source) == (2, "org/m2")
    assert [m.name for m in at(past, 79).models] == ["m"]


def test_events_end_with_that_moment_and_the_newest_is_first(past: Past) -> None:
    told = at(past, 65).events
    assert [e.seq for e in told] == [5, 4, 3, 2, 1]
    assert all(e.failure is None for e in at(past, 100).events)


def test_gpus_have_the_names_of_today_and_the_numbers_of_then(past: Past) -> None:
    (unknown,) = at(past, 45).gpus
    assert (unknown.uuid, unknown.memory_total_bytes) == ("GPU-b", None)
    today = Gpu("node", 3, "GPU-b", "H200", 0.99, 1, 141 * 2**30)
    (known,) = at(past, 45, gpus=(today,)).gpus
    assert (known.index, known.name, known.memory_total_bytes) == (3, "H200", 141 * 2**30)
    assert (known.utilization, known.memory_used_bytes) == (0.5, 8 * 2**30)


def test_before_the_first_record_there_is_nothing_and_it_says_since_when(past: Past) -> None:
    with pytest.raises(NotFound, match=r"nothing is recorded of .*; the oldest is of 2023-11-14"):
        at(past, -100)


def test_an_empty_history_has_no_moment(tmp_path: Path) -> None:
    empty = Past(tmp_path)
    with pytest.raises(NotFound, match="nothing is recorded"):
        at(empty, 0)
    empty.close()


def test_older_moments_are_told_as_finely_as_their_rows_are_kept() -> None:
    now = EPOCH
    ages = [0, 7000, 7200, 47 * 3600, 48 * 3600, 89 * 86400, 400 * 86400]
    assert [TIERS.index(tier_at(now - age, now)) for age in ages] == [0, 0, 1, 1, 2, 2, 3]


def test_a_time_may_be_written_as_people_write_it() -> None:
    now = EPOCH
    assert moment_of("-2h", now) == moment_of("2h", now) == moment_of("2h ago", now) == now - 7200
    assert moment_of(iso(now - 5), now) == now - 5
    assert moment_of("2023-11-14 10:00", now, UTC) < now
    with pytest.raises(InvalidInput, match='"2030-01-01" is still to come'):
        moment_of("2030-01-01", now)
    with pytest.raises(InvalidInput, match='not a time: "tea"'):
        moment_of("tea", now)


def say_only(past: Past, events: list[Event]) -> None:
    """Make these the only events of the file."""
    rows = [(e.seq, e.at, e.level, e.subject, e.text, None) for e in events]
    past.connection.execute("DELETE FROM events")
    past.connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", rows)


def test_a_long_history_is_told_by_the_same_rules_as_a_short_one(past: Past) -> None:
    of_workers = [
        "starting", "ready in 3 s", "import", "draining, 2 left", "stopped", "adopted, pid 3",
        "was gone when the daemon started, no exit code", "was slow", "ended, exit code 1: oom",
        "ended while no daemon ran (exit code 1)", "stalled: no step", "failed, port-taken: 8000",
        "ready-made",
    ]  # fmt: skip
    of_others = [
        "revision 2 serves", "revision 2 did not become ready (x); revision 1 serves", "down",
        "daemon 0.2.0 started", "the machine was rebooted, lost m-1, m-3", "applied",
    ]  # fmt: skip
    chance = random.Random(5)
    told = []
    for number in range(1, 401):
        subject = chance.choice(["m-1", "m-2", "m-3", "n-1", "fleet", "m", "n"])
        text = chance.choice(of_workers if "-" in subject else of_others)
        told.append(Event(number, iso(EPOCH + 0.4 * number), "info", subject, text))
    say_only(past, told)
    for moment in range(2, 160, 3):
        found = at(past, moment)
        by_then = [event for event in told if event.at <= found.at]
        states = {name: worker.state for name, worker in _states(by_then).items()}
        assert states == {w.id: w.state for model in found.models for w in model.workers}
        assert [e.seq for e in found.events] == [e.seq for e in by_then[:-51:-1]]
        last = [e for e in by_then if e.subject == "fleet" and e.text[:4] in ("down", "daem")]
        assert found.daemon.running == (bool(last) and last[-1].text != "down")


def test_of_many_events_few_become_objects(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    told = [Event(n, iso(EPOCH + n / 100), "info", "m-1", "starting") for n in range(1, 5001)]
    say_only(past, told)
    made: list[int] = []
    event_of = records._event

    def counted(row: sqlite3.Row) -> Event:
        made.append(row["seq"])
        return event_of(row)

    monkeypatch.setattr(records, "_event", counted)
    assert at(past, 60).models[0].state == "starting"
    assert len(made) < 200
