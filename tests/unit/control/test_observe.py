"""What an observation makes of scrapes: models and the fleet add up, and nothing is missed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from vllm_console import http1
from vllm_console.control.observe import Observation
from vllm_console.history.database import Database
from vllm_console.history.memory import MemoryHistory
from vllm_console.history.store import Store
from vllm_console.snapshot import Gpu
from vllm_console.telemetry.sample import Sample

TEXT = """\
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{engine="0",model_name="m"}} {tokens}
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="m"}} {running}
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{engine="0",model_name="m"}} 0.0
"""


class FakeEngines(http1.Pool):
    """Answers scrapes from a table of what each worker has counted; `None` is a dead worker."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: dict[str, float | None] = {}

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        timeout: float,  # noqa: ASYNC109 - the pool's own signature
    ) -> http1.Response:
        tokens = self.tokens[url.split("/")[2]]
        if tokens is None:
            raise http1.ConnectFailed("refused")
        return http1.Response(200, [], TEXT.format(tokens=tokens, running=1.0).encode())


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - history tells nobody
            await asyncio.sleep(0.01)


def test_a_fresh_workers_first_sample_counts_from_zero_and_an_adopted_ones_is_the_base() -> None:
    async def scenario() -> tuple[float | None, float | None, float | None]:
        engines = FakeEngines()
        engines.tokens = {"new": 50.0, "old": 7000.0}
        observation = Observation(engines, MemoryHistory())
        observation.looked_at = True
        observation.watch("new", "m", "http://new", fresh=True)
        observation.watch("old", "m", "http://old", fresh=False)
        await _until(lambda: observation.info("new") == {} and _seen(observation))
        observation.tick()
        engines.tokens = {"new": 60.0, "old": 7005.0}
        await _until(lambda: _counted(observation, "old") == 7005.0)
        await _until(lambda: _counted(observation, "new") == 60.0)
        window = observation.history.window("worker/new", 60)
        old = observation.history.window("worker/old", 60)
        assert window is not None
        assert old is not None
        observation.tick()
        fleet = observation.history.window("fleet", 60)
        assert fleet is not None
        name = "generation_tokens"
        result = window.delta(name), old.delta(name), fleet.delta(name)
        await observation.close()
        await engines.close()
        return result

    assert asyncio.run(scenario()) == (60.0, 5.0, 65.0)


def _seen(observation: Observation) -> bool:
    return all(observation.history.latest(f"worker/{w}") is not None for w in ("new", "old"))


def _counted(observation: Observation, worker: str) -> float | None:
    latest = observation.history.latest(f"worker/{worker}")
    return latest.counters.get("generation_tokens") if latest else None


def test_a_worker_that_does_not_answer_has_an_age_and_a_reason_but_no_numbers() -> None:
    async def scenario() -> tuple[float | None, str | None, int | None]:
        engines = FakeEngines()
        engines.tokens = {"dead": None}
        now = [100.0]
        observation = Observation(engines, MemoryHistory(), clock=lambda: now[0])
        observation.watch("dead", "m", "http://dead", fresh=True)
        await _until(lambda: observation.stale("dead")[1] is not None)
        now[0] = 112.0
        age, reason = observation.stale("dead")
        running = observation.worker_load("dead", 16).running
        await observation.close()
        await engines.close()
        return age, reason, running

    assert asyncio.run(scenario()) == (12.0, "refused", None)


def test_a_worker_that_misses_two_scrapes_counts_in_no_total() -> None:
    async def scenario() -> None:
        engines = FakeEngines()
        engines.tokens = {"alive": 1.0, "dead": 1.0}
        observation = Observation(engines, MemoryHistory())
        observation.looked_at = True
        observation.watch("alive", "m", "http://alive", fresh=False)
        observation.watch("dead", "m", "http://dead", fresh=False)

        def running() -> int | None:
            observation.tick()
            return observation.model_load("m", None).running

        await _until(lambda: running() == 2)
        engines.tokens["dead"] = None
        await _until(lambda: running() == 1)
        assert observation.worker_load("dead", None).running is None
        assert observation.fleet_load(None).running == 1
        engines.tokens["dead"] = 2.0
        await _until(lambda: running() == 2)
        engines.tokens = {"alive": None, "dead": None}
        await _until(lambda: running() is None)
        await observation.close()

    asyncio.run(scenario())


class FakeStore(Store):
    """Remembers what it is given."""

    def __init__(self, path: Path) -> None:
        super().__init__(Database(path))
        self.given: list[tuple[str, float | None, tuple[str, ...]]] = []
        self.ticks = 0

    def record(self, subject: str, sample: Sample, joins: tuple[str, ...] = ()) -> None:
        self.given.append((subject, sample.counters.get("generation_tokens"), joins))

    def tick(self) -> None:
        self.ticks += 1


def test_every_sample_is_stored_and_a_workers_first_one_names_its_totals(tmp_path: Path) -> None:
    store = FakeStore(tmp_path / "history.sqlite")

    async def scenario() -> None:
        engines = FakeEngines()
        engines.tokens = {"new": 50.0, "old": 7000.0}
        observation = Observation(engines, MemoryHistory(), store=store)
        observation.looked_at = True
        observation.watch("new", "m", "http://new", fresh=True)
        observation.watch("old", "m", "http://old", fresh=False)
        await _until(lambda: _seen(observation))
        observation.tick()
        engines.tokens = {"new": 60.0, "old": 7005.0}
        await _until(lambda: _counted(observation, "old") == 7005.0)
        await _until(lambda: _counted(observation, "new") == 60.0)
        gpu = Gpu("n", 0, "GPU-1", "H100", utilization=0.5, power_w=300.0)
        observation.record_gpus([gpu, Gpu("n", 1, "GPU-2", "H100", fault="fallen off the bus")])
        observation.tick()
        await observation.close()
        await engines.close()

    asyncio.run(scenario())
    both = ("model/m", "fleet")
    new = [given[1:] for given in store.given if given[0] == "worker/new"]
    assert new[:2] == [(0.0, both), (50.0, ())]
    assert new[-1] == (60.0, ())
    old = [given[1:] for given in store.given if given[0] == "worker/old"]
    assert old[0] == (7000.0, both)
    assert all(joins == () for _, joins in old[1:])
    assert store.given[-2:] == [("model/m", 65.0, ()), ("fleet", 65.0, ())]
    assert [given[0] for given in store.given if given[0].startswith("gpu/")] == ["gpu/GPU-1"]
    assert store.ticks == 2
    store.close()
