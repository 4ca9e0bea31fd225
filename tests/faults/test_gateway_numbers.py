"""What the gateway of a whole fleet counts, found in its history while everybody dies."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from tests.faults.endpoints import Fronted, asked, pid_of, url_of
from tests.faults.test_daemon import ONE, QUICK_ONE
from vllm_console.answer import Question
from vllm_console.control.daemon import Daemon
from vllm_console.errors import NotFound

WITHIN_S = 30.0
REQUESTS = 12


async def counted(daemon: Daemon, subject: str, metric: str) -> float | None:
    """Requests behind a metric of the last hour; `None` where nothing is known."""
    now = time.time()
    question = Question(subject, (metric,), now - 3600, now + 1)
    try:
        answer = await daemon.answer(question)
    except NotFound:
        return None
    return answer.measured[0].figure.count


async def reaches(daemon: Daemon, subject: str, metric: str, count: int) -> None:
    """Return once so many are counted; fails when they are not in time, or more are."""
    found = None
    async with asyncio.timeout(WITHIN_S):
        while found != count:
            found = await counted(daemon, subject, metric)
            assert found is None or found <= count
            await asyncio.sleep(0.05)


def test_every_request_is_in_the_history_whoever_dies(tmp_path: Path, fake_engine: Path) -> None:
    async def scenario() -> None:
        fleet = Fronted(tmp_path, fake_engine)
        try:
            first = await fleet.serving(ONE + QUICK_ONE)
            for _ in range(REQUESTS):
                await asked(url_of(first))
            await reaches(first, "gateway/one", "requests", REQUESTS)
            await reaches(first, "gateway", "ttft", REQUESTS)
            url = url_of(first)
            await first.close()
            for _ in range(REQUESTS):
                await asked(url)
            second = await fleet.serving(ONE + QUICK_ONE)
            await reaches(second, "gateway/one", "e2e", 2 * REQUESTS)
            await reaches(second, "gateway", "requests", 2 * REQUESTS)
            os.kill(pid_of(second), signal.SIGKILL)
            for _ in range(REQUESTS):
                await asked(url)
            await reaches(second, "gateway/one", "requests", 3 * REQUESTS)
            await reaches(second, "gateway", "requests", 3 * REQUESTS)
        finally:
            await fleet.end()

    asyncio.run(scenario())
