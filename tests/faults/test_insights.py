"""A whole daemon over fake `vllm serve` trees tells arrivals, limits, fleet load and health."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import cast

from tests.faults.test_daemon import ONE, QUICK_ONE, Fleet, Scenario, model, play, ready, until
from vllm_console.control.daemon import Daemon
from vllm_console.snapshot import Health

__all__ = ["play"]


def health(daemon: Daemon) -> Health:
    return daemon.snapshot().health


def test_a_serving_model_tells_its_policy_its_arrivals_and_its_cold_start(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fleet) -> None:
        daemon = await fleet.up(ONE + QUICK_ONE)
        await ready(daemon)
        await until(lambda: daemon.snapshot().load.running is not None)
        told = model(daemon)
        assert told.batching.policy == "continuous"
        assert told.batching.reason == "not enough samples yet: 0 of 60"
        assert told.arrivals.pattern is None
        async with asyncio.timeout(20):
            while model(daemon).arrivals.per_s is None:  # noqa: ASYNC110 - a bin takes five seconds
                await asyncio.sleep(0.05)
        assert (model(daemon).autoscale.cold_start_s or 0.0) > 0
        await daemon.command("restart", {"model": "one"})
        await until(lambda: model(daemon).ready == 0)
        await ready(daemon)
        assert health(daemon).restarts == 1

    play(scenario)


def test_a_killed_engine_is_an_error_a_restart_and_a_recovery(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fleet) -> None:
        daemon = await fleet.up(ONE + QUICK_ONE)
        await ready(daemon)
        assert health(daemon) == Health(24.0, 0, 0, 0, 0)
        os.kill(cast(int, model(daemon).workers[0].pid), signal.SIGKILL)
        await until(lambda: health(daemon).errors == 1)
        await until(lambda: model(daemon).ready == 1)
        assert health(daemon) == Health(24.0, 1, 1, 1, 0)

    play(scenario)


def test_an_adopted_worker_is_counted_by_the_next_daemon(play: Callable[[Scenario], None]) -> None:
    async def scenario(fleet: Fleet) -> None:
        first = await fleet.up(ONE + QUICK_ONE)
        await ready(first)
        await first.close()
        second = await fleet.up()
        await ready(second)
        assert health(second).adopted == 1
        assert health(second).restarts == 0

    play(scenario)
