"""One worker that sleeps, over a fake `vllm serve` tree: direct clients, hangs, and kills."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.faults.conftest import WITHIN_S, Rig, Scenario
from vllm_console.workers import sleeping
from vllm_console.workers.states import State
from vllm_console.workers.worker import Worker

TOKEN = b'{"text": " x"}'


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sleeping, "ABORT_S", 1.0)


async def sleeper(rig: Rig, *options: str, **changes: object) -> Worker:
    """A worker that is ready and can sleep."""
    rig.environment["VLLM_SERVER_DEV_MODE"] = "1"
    given = {"sleep_level": 1, **changes}
    return await rig.ready(rig.worker(*options, **given))  # type: ignore[arg-type]


async def asleep(worker: Worker) -> Worker:
    worker.sleep()
    await worker.wait({State.ASLEEP}, WITHIN_S)
    return worker


async def awake(worker: Worker) -> Worker:
    worker.wake()
    await worker.wait({State.READY}, WITHIN_S)
    return worker


async def asked(rig: Rig, worker: Worker, tokens: int) -> bytes:
    """What a client that goes to the worker itself is answered."""
    said = b'{"model": "tiny", "prompt": "x", "max_tokens": %d}' % tokens
    url = f"{worker.view.url}/v1/completions"
    return (await rig.http.request("POST", url, body=said, timeout=WITHIN_S)).body


async def running(rig: Rig, worker: Worker, requests: int) -> None:
    """Return once so many run in the engine."""
    while True:
        told = await rig.http.request("GET", f"{worker.view.url}/metrics", timeout=WITHIN_S)
        if b"vllm:num_requests_running %d.0" % requests in told.body:
            return


@asynccontextmanager
async def troubled(tmp_path: Path, *lines: str) -> AsyncIterator[None]:
    """What of sleep mode fails meanwhile."""
    trouble = tmp_path / "trouble"
    trouble.write_text("\n".join(lines))
    try:
        yield
    finally:
        trouble.unlink()


def test_who_asks_the_worker_itself_is_waited_for(play: Callable[[Scenario], None]) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await sleeper(rig)
        stream = asyncio.create_task(asked(rig, worker, 60))
        await running(rig, worker, 1)
        worker.sleep()
        await rig.until(lambda: worker.view.reason == "falls asleep")
        late = asyncio.create_task(asked(rig, worker, 3))
        assert (await stream).count(TOKEN) == 60
        await worker.wait({State.ASLEEP}, WITHIN_S)
        assert not late.done()
        await awake(worker)
        assert (await late).count(TOKEN) == 3

    play(scenario)


def test_who_takes_longer_than_the_grace_is_broken_off(play: Callable[[Scenario], None]) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await sleeper(rig, stop_grace_s=0.5)
        stream = asyncio.create_task(asked(rig, worker, 10_000))
        await running(rig, worker, 1)
        await asleep(worker)
        assert 0 < (await stream).count(TOKEN) < 1000
        await awake(worker)
        assert (await asked(rig, worker, 3)).count(TOKEN) == 3

    play(scenario)


def test_a_wake_while_it_falls_asleep_comes_after_it(play: Callable[[Scenario], None]) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await sleeper(rig, sleep_level=2)
        stream = asyncio.create_task(asked(rig, worker, 40))
        await running(rig, worker, 1)
        worker.sleep()
        await rig.until(lambda: worker.view.reason == "falls asleep")
        worker.wake()
        assert worker.state is State.DRAINING
        await worker.wait({State.READY}, WITHIN_S)
        assert (await stream).count(TOKEN) == 40
        assert (await asked(rig, worker, 3)).count(TOKEN) == 3
        states = [state for state, _ in rig.seen]
        assert states[-4:] == ["ready", "draining", "starting", "ready"]

    play(scenario)


def test_a_hang_of_sleep_ends_and_holds_no_request_back(
    play: Callable[[Scenario], None], tmp_path: Path
) -> None:
    async def scenario(rig: Rig) -> None:
        trouble = ("--fake-trouble", str(tmp_path / "trouble"))
        worker = await sleeper(rig, *trouble, stop_grace_s=0.3)
        async with troubled(tmp_path, "/sleep hang"):
            worker.sleep()
            await rig.until(lambda: worker.state is State.DRAINING)
            await worker.wait({State.READY}, WITHIN_S)
            url = f"{worker.view.url}/sleep"
            why = f"did not go to sleep: POST {url}: no response within 1 s"
            assert worker.view.reason == why
            assert (await asked(rig, worker, 3)).count(TOKEN) == 3

    play(scenario)


@pytest.mark.parametrize("level", [1, 2])
def test_an_engine_that_says_500_and_holds_requests_back_is_told_to_serve(
    level: int, play: Callable[[Scenario], None], tmp_path: Path
) -> None:
    async def scenario(rig: Rig) -> None:
        trouble = ("--fake-trouble", str(tmp_path / "trouble"))
        worker = await sleeper(rig, *trouble, sleep_level=level)
        await rig.http.request("POST", f"{worker.view.url}/sleep?level=2&mode=wait", timeout=5)
        async with troubled(tmp_path, "/sleep 500"):
            worker.sleep()
            await worker.wait({State.DRAINING}, WITHIN_S)
            await worker.wait({State.READY}, WITHIN_S)
        if level == 2:
            assert (await asked(rig, worker, 3)).count(TOKEN) == 3
        assert await sleeping.is_asleep(rig.http, str(worker.view.url)) is False

    play(scenario)


def test_an_engine_that_can_neither_sleep_nor_serve_counts_as_asleep(
    play: Callable[[Scenario], None], tmp_path: Path
) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await sleeper(rig, "--fake-trouble", str(tmp_path / "trouble"))
        await rig.http.request("POST", f"{worker.view.url}/sleep?level=1&mode=wait", timeout=5)
        async with troubled(tmp_path, "/sleep 500", "/wake_up 500"):
            await asleep(worker)
        await awake(worker)
        assert (await asked(rig, worker, 3)).count(TOKEN) == 3

    play(scenario)


def test_a_hang_of_wake_up_ends_in_a_new_start(
    play: Callable[[Scenario], None], tmp_path: Path
) -> None:
    async def scenario(rig: Rig) -> None:
        trouble = ("--fake-trouble", str(tmp_path / "trouble"))
        worker = await asleep(await sleeper(rig, *trouble, start_timeout_s=1.5))
        before = worker.view.pid
        async with troubled(tmp_path, "/wake_up hang"):
            worker.wake()
            await worker.wait({State.STOPPING}, WITHIN_S)
        await worker.wait({State.READY}, WITHIN_S)
        assert worker.view.pid != before
        assert (await asked(rig, worker, 3)).count(TOKEN) == 3

    play(scenario)


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_sleeper_that_is_killed_or_stopped_is_unloaded_in_time(
    signal_number: signal.Signals, play: Callable[[Scenario], None]
) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await asleep(await sleeper(rig, stop_grace_s=0.5))
        tree = rig.identities(worker.tree())
        os.kill(tree[0][0], signal_number)
        await worker.unload()
        assert worker.state is State.STOPPED
        await rig.until(lambda: rig.left_of(tree) == [])

    play(scenario)


def test_a_sleeper_found_by_the_next_daemon_is_asked_and_not_touched(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await asleep(await sleeper(rig))
        before = worker.view.pid
        (handle,) = await rig.again()
        rig.seen.clear()
        worker = rig.worker(sleep_level=1)
        worker.adopt(handle)
        assert not worker.serves
        await worker.wait({State.ASLEEP}, WITHIN_S)
        assert [state for state, _ in rig.seen] == ["starting", "asleep"]
        await awake(worker)
        assert worker.view.pid == before
        assert (await asked(rig, worker, 3)).count(TOKEN) == 3

    play(scenario)


def test_an_awake_one_that_can_sleep_is_found_ready(play: Callable[[Scenario], None]) -> None:
    async def scenario(rig: Rig) -> None:
        await sleeper(rig)
        (handle,) = await rig.again()
        worker = rig.worker(sleep_level=1)
        worker.adopt(handle)
        await worker.wait({State.READY}, WITHIN_S)
        assert "asleep" not in [state for state, _ in rig.seen]

    play(scenario)
