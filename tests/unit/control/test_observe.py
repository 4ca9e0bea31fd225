"""What an observation makes of scrapes: models and the fleet add up, and nothing is missed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from vllm_console import http1
from vllm_console.control.observe import Observation
from vllm_console.history.memory import MemoryHistory

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
