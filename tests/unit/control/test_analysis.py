"""What the daemon keeps of arrivals and steps, and when it says what they mean."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vllm_console.control.analysis import AT_ONCE, EVERY_S, Analysis, oldest_waiting_s
from vllm_console.history.memory import MemoryHistory
from vllm_console.snapshot import Batching, Engine, Latency, Load, Model, Quantiles, Slo
from vllm_console.telemetry.sample import Histogram, Sample

ITL_BOUNDS = (0.01, 0.025, 0.05, 0.1)


class FakeFleet:
    """Workers that count what a test tells them to, and a clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.history = MemoryHistory()
        self.starts: dict[tuple[str, int], float] = {}
        self.analysis = Analysis(
            self.history, lambda: self.now, lambda name, rev: self.starts.get((name, rev))
        )
        self.finished: dict[str, float] = {}
        self.tokens: dict[str, tuple[float, float]] = {}

    def second(self, **workers: dict[str, float]) -> None:
        """One second passes: of each worker how many finished, run, wait, and its ITL."""
        self.now += 1.0
        for name, facts in workers.items():
            worker = f"{name}-1"
            self.finished[worker] = self.finished.get(worker, 0.0) + facts.get("finished", 0.0)
            count, total = self.tokens.get(worker, (0.0, 0.0))
            running, itl = facts.get("running", 0.0), facts.get("itl_s", 0.0)
            if itl:
                count, total = count + running / itl, total + running
            self.tokens[worker] = (count, total)
            sample = Sample(
                self.now,
                counters={"requests_finished": self.finished[worker], "preemptions": 0.0},
                gauges={"running": running, "waiting": facts.get("waiting", 0.0)},
                histograms={"itl_s": Histogram(ITL_BOUNDS, (count,) * 5, total)},
            )
            self.history.record(f"worker/{worker}", sample)
            self.history.record(f"model/{name}", sample)
        self.tick(*workers)

    def tick(self, *names: str) -> None:
        self.analysis.tick({name: (f"{name}-1",) for name in names})

    def told(self, *models: Model) -> tuple[Model, ...]:
        return self.analysis.complete(models)


def model(name: str = "qwen", **facts: Any) -> Model:
    return Model(name, "a/b", 1, "ready", 1, 1, **facts)


def test_arrivals_are_those_that_finished_run_or_wait() -> None:
    fleet = FakeFleet()
    for i in range(400):
        fleet.second(qwen={"finished": 2.0, "running": float(i), "waiting": 1.0})
    told = fleet.told(model())[0].arrivals
    assert told.per_s == pytest.approx(3.0)  # two finish, one more runs
    assert told.pattern == "steady"
    assert told.forecast is not None
    assert told.forecast.per_s == pytest.approx(3.0, rel=0.02)


def test_what_waits_when_the_daemon_begins_did_not_arrive_now() -> None:
    fleet = FakeFleet()
    for _ in range(60):
        fleet.second(qwen={"running": 200.0, "waiting": 50.0})
    assert fleet.told(model())[0].arrivals.per_s == 0.0


def test_a_worker_that_restarts_takes_no_arrival_away() -> None:
    fleet = FakeFleet()
    for _ in range(40):
        fleet.second(qwen={"finished": 1.0, "running": 100.0})
    for _ in range(30):
        fleet.second(qwen={"finished": 1.0, "running": 0.0})
    told = fleet.told(model())[0].arrivals
    assert told.per_s == pytest.approx(1.0, rel=0.05)


def test_arrivals_that_nobody_counted_are_no_series() -> None:
    fleet = FakeFleet()
    for _ in range(400):
        fleet.second(qwen={"finished": 1.0})
    assert fleet.told(model())[0].arrivals.remembered_s > 300
    for _ in range(30):
        fleet.now += 1.0
        fleet.tick("qwen")
    assert fleet.told(model())[0].arrivals.remembered_s == 0
    assert fleet.told(model())[0].arrivals.per_s is None


def test_the_oldest_in_a_queue_is_the_first_that_was_not_served() -> None:
    fleet = FakeFleet()
    fleet.second(qwen={"running": 4.0})
    for waiting in (3.0, 5.0, 9.0):
        fleet.second(qwen={"running": 4.0, "waiting": waiting})
    loaded = model(load=Load(running=4, waiting=9))
    assert fleet.told(loaded)[0].arrivals.oldest_waiting_s == 2.0
    fleet.second(qwen={"finished": 4.0, "running": 4.0, "waiting": 5.0})
    served = model(load=Load(running=4, waiting=5))
    assert fleet.told(served)[0].arrivals.oldest_waiting_s == 2.0


def test_nobody_is_the_oldest_of_an_empty_or_an_unknown_queue() -> None:
    ticks = [(1.0, 0.0), (2.0, 5.0), (3.0, 5.0)]
    assert oldest_waiting_s(ticks, 0) is None
    assert oldest_waiting_s(ticks, None) is None
    assert oldest_waiting_s((), 4) is None
    assert oldest_waiting_s(ticks, 5) == 1.0
    assert oldest_waiting_s(ticks, 1) == 1.0
    assert oldest_waiting_s(ticks, 50) == 2.0


def test_a_busy_engines_seconds_give_the_law_of_its_batch() -> None:
    fleet = FakeFleet()
    for i in range(300):
        running = float(10 + i % 50)
        fleet.second(qwen={"running": running, "itl_s": 0.01 + 0.0001 * running})
    itl = Quantiles(0.013, 0.016, 0.02, 1000)
    told = fleet.told(
        model(
            engine=Engine(max_num_seqs=256),
            slo=Slo(itl_p95_s=0.03),
            load=Load(latency=Latency(60.0, itl_s=itl)),
        )
    )[0].batching
    assert told.samples == 299
    assert told.measured_s == 298
    assert told.fit is not None
    assert told.fit.r2 > 0.9
    assert told.best is not None
    assert told.best_for == "ITL p95 ≤ 30 ms"
    assert told.advice[0].text == "keep max_num_seqs 256"


def test_an_idle_engine_and_a_missed_second_are_no_sample() -> None:
    fleet = FakeFleet()
    for _ in range(30):
        fleet.second(qwen={"running": 0.0})
    fleet.second(qwen={"running": 8.0, "itl_s": 0.01})
    fleet.now += 5.0
    fleet.second(qwen={"running": 8.0, "itl_s": 0.01})
    assert fleet.told(model())[0].batching.samples == 0
    fleet.second(qwen={"running": 8.0, "itl_s": 0.01})
    fleet.now += EVERY_S
    assert fleet.told(model())[0].batching.samples == 1


def test_an_analysis_is_made_again_only_when_it_is_old() -> None:
    fleet = FakeFleet()
    for _ in range(8):
        fleet.second(qwen={"finished": 1.0})
    first = fleet.told(model())[0].arrivals
    for _ in range(8):
        fleet.second(qwen={"finished": 1.0})
    assert fleet.told(model())[0].arrivals == first
    for _ in range(8):
        fleet.second(qwen={"finished": 1.0})
    assert fleet.told(model())[0].arrivals.remembered_s > first.remembered_s


def test_the_first_seconds_are_told_as_soon_as_there_are_any() -> None:
    fleet = FakeFleet()
    fleet.second(qwen={"finished": 1.0})
    assert fleet.told(model())[0].arrivals.per_s is None
    for _ in range(6):
        fleet.second(qwen={"finished": 1.0})
    assert fleet.told(model())[0].arrivals.per_s is not None


def test_a_large_fleet_is_analysed_a_few_models_at_a_time() -> None:
    fleet = FakeFleet()
    names = [f"m{i}" for i in range(10)]
    for _ in range(100):
        fleet.second(**{name: {"finished": 1.0} for name in names})
    models = [model(name) for name in names]
    known = [sum(m.arrivals.per_s is not None for m in fleet.told(*models)) for _ in range(6)]
    assert known == [min(10, AT_ONCE * n) for n in range(1, 7)]


def test_the_policy_is_what_limits_the_batch() -> None:
    fleet = FakeFleet()
    engine = Engine(max_num_seqs=128)
    plain, limited, queued, moved = (
        m.batching
        for m in fleet.told(
            model("a", engine=engine, options={"max_model_len": 2048}),
            model("b", engine=engine, options={"max_num_seqs": 128}),
            model("c", engine=engine, options={"max_num_queued_reqs": 32}),
            model("d", engine=engine, batching=Batching("adaptive", 77, 9)),
        )
    )
    assert (plain.policy, plain.limit, plain.queue_limit) == ("continuous", 128, None)
    assert (limited.policy, limited.limit) == ("limited", 128)
    assert (queued.policy, queued.queue_limit) == ("limited", 32)
    assert (moved.policy, moved.limit, moved.queue_limit) == ("adaptive", 77, 9)


def test_the_cold_start_is_what_earlier_starts_took() -> None:
    fleet = FakeFleet()
    fleet.starts["qwen", 1] = 94.2
    known, unknown = fleet.told(model(), replace(model(), name="other"))
    assert known.autoscale.cold_start_s == 94.2
    assert unknown.autoscale.cold_start_s is None


def test_a_model_that_is_gone_is_forgotten() -> None:
    fleet = FakeFleet()
    for _ in range(100):
        fleet.second(qwen={"finished": 1.0})
    fleet.tick()
    assert fleet.told(model())[0].arrivals.per_s is None
