"""Sleep and wake over fake `vllm serve` trees: nothing is lost, doubled, or told wrongly."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.faults.endpoints import ANY_PORT, END, PIECE, Crowd, Fronted, asked, url_of
from tests.faults.fake_vllm import GPU_BYTES, living
from tests.faults.test_daemon import (
    MANUAL,
    ONE,
    QUICK_ONE,
    QUICK_TWO,
    TWO,
    FakeNvml,
    events,
    model,
    until,
)
from vllm_console import http1
from vllm_console.control.daemon import Daemon
from vllm_console.devices.nvml import NvmlReading
from vllm_console.errors import ConsoleError
from vllm_console.snapshot import Gpu
from vllm_console.workers import lifecycle
from vllm_console.workers import worker as worker_module
from vllm_console.workers.states import State

SLEEPER = "sleep_level = 2\n"
FAST = "fake_step_s = 0.005\n"
STEADY = "fake_step_s = 0.01\n"
WHOLE = PIECE * 3 + END
AGAIN_S = 0.3

Scenario = Callable[["Carded"], Awaitable[None]]


class FakeCard(FakeNvml):
    """One GPU; what fake engines note that they have there is what the driver tells."""

    def __init__(self, noted: Path) -> None:
        super().__init__(1)
        self._noted = noted

    def poll(self) -> NvmlReading:
        lines = [file.read_text().split() for file in self._noted.iterdir() if living(file.name)]
        sizes = {int(pid): int(size) for pid, _, size in lines}
        used = sum(sizes.values())
        gpu = Gpu("here", 0, "GPU-0", "H100", None, used, GPU_BYTES)
        return NvmlReading((gpu,), processes={pid: {0: size} for pid, size in sizes.items()})


class Carded(Fronted):
    """A fleet with a gateway, on a machine with one GPU or none."""

    def __init__(self, root: Path, engine: Path) -> None:
        super().__init__(root, engine, ANY_PORT)
        self.noted = root / "gpu"
        self.noted.mkdir()
        self.trouble = root / "trouble"
        self.card = False

    def daemon(self, nvml: FakeNvml | None = None) -> Daemon:  # type: ignore[override]
        return super().daemon(nvml or (FakeCard(self.noted) if self.card else None))

    def troubled(self, *lines: str) -> None:
        """What of sleep mode fails from now on."""
        self.trouble.write_text("".join(f"{line}\n" for line in lines))

    @property
    def one(self) -> str:
        """A model that can sleep, and fails as `troubled` says."""
        return f'{ONE}{SLEEPER}{QUICK_ONE}{FAST}fake_trouble = "{self.trouble}"\n'


@pytest.fixture
def play(
    tmp_path: Path, fake_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Scenario], None]:
    """Plays a scenario; the last daemon of it takes down what still runs."""
    monkeypatch.setattr(lifecycle, "WAKE_AGAIN_S", AGAIN_S)

    async def played(scenario: Scenario) -> None:
        fleet = Carded(tmp_path, fake_engine)
        try:
            await asyncio.wait_for(scenario(fleet), 60)
        finally:
            await fleet.end()

    return lambda scenario: asyncio.run(played(scenario))


async def reaches(daemon: Daemon, state: State, name: str = "one") -> None:
    await until(lambda: model(daemon, name).state == state)


async def put_to_sleep(daemon: Daemon, name: str = "one") -> None:
    await until(lambda: model(daemon, name).ready >= 1)
    await daemon.command("sleep", {"model": name})
    await reaches(daemon, State.ASLEEP, name)


def pid(daemon: Daemon, name: str = "one") -> int:
    (worker,) = model(daemon, name).workers
    assert worker.pid is not None
    return worker.pid


def said(daemon: Daemon, subject: str) -> list[str]:
    return [event.text for event in daemon.events.after(0, 1000) if event.subject == subject]


def test_streams_finish_before_it_sleeps_and_a_request_wakes_it(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Carded) -> None:
        daemon = await fleet.serving(ONE + SLEEPER + QUICK_ONE + STEADY)
        url, before = url_of(daemon), pid(daemon)
        streams = [asyncio.create_task(asked(url, tokens=160)) for _ in range(6)]
        await until(lambda: model(daemon).in_flight == 6)
        await daemon.command("sleep", {"model": "one"})
        assert model(daemon).state == State.DRAINING
        assert await asyncio.gather(*streams) == [(200, PIECE * 160 + END)] * 6
        await reaches(daemon, State.ASLEEP)
        assert model(daemon).ready == 0
        answers = await asyncio.gather(*(asked(url) for _ in range(24)))
        assert answers == [(200, WHOLE)] * 24
        assert said(daemon, "one") == ["woken for a request"]
        assert pid(daemon) == before

    play(scenario)


def test_a_model_that_is_asked_all_the_time_loses_nothing_by_sleep_commands(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Carded) -> None:
        daemon = await fleet.serving(fleet.one)
        crowd = Crowd(url_of(daemon))
        crowd.start(6)
        for _ in range(8):
            await crowd.more(20)
            await until(lambda: model(daemon).ready == 1)
            await daemon.command("sleep", {"model": "one"})
        await crowd.more(20)
        await crowd.stop()
        assert crowd.wrong == []
        assert "asleep" in events(daemon)

    play(scenario)


def test_a_wake_while_requests_finish_lets_it_serve_on(play: Callable[[Scenario], None]) -> None:
    async def scenario(fleet: Carded) -> None:
        daemon = await fleet.serving(ONE + SLEEPER + QUICK_ONE + STEADY)
        stream = asyncio.create_task(asked(url_of(daemon), tokens=160))
        await until(lambda: model(daemon).in_flight == 1)
        await daemon.command("sleep", {"model": "one"})
        await daemon.command("wake", {"model": "one"})
        assert model(daemon).state == State.READY
        assert await stream == (200, PIECE * 160 + END)
        assert await asked(url_of(daemon)) == (200, WHOLE)
        assert "asleep" not in said(daemon, "one-1")

    play(scenario)


def test_the_next_daemon_adopts_it_asleep_and_can_wake_it(play: Callable[[Scenario], None]) -> None:
    async def scenario(fleet: Carded) -> None:
        first = await fleet.serving(ONE + SLEEPER + QUICK_ONE)
        before = pid(first)
        await put_to_sleep(first)
        await first.close()
        second = await fleet.up()
        await reaches(second, State.ASLEEP)
        assert model(second).ready == 0
        await until(lambda: second.snapshot().gateway.running)
        assert await asked(url_of(second)) == (200, WHOLE)
        assert pid(second) == before

    play(scenario)


def test_one_that_somebody_else_puts_to_sleep_is_seen_asleep_and_woken_for_a_request(
    play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "SETTLED_S", 0.1)

    async def scenario(fleet: Carded) -> None:
        daemon = await fleet.serving(ONE + SLEEPER + QUICK_ONE)
        await until(lambda: model(daemon).ready == 1)
        before, (worker,) = pid(daemon), model(daemon).workers
        pool = http1.Pool()
        told = await pool.request("POST", f"{worker.url}/sleep?level=1&mode=wait", timeout=5.0)
        await pool.close()
        assert told.status == 200
        await reaches(daemon, State.ASLEEP)
        assert await asked(url_of(daemon)) == (200, WHOLE)
        assert pid(daemon) == before

    play(scenario)


def test_a_load_that_comes_before_the_next_daemon_has_looked_wakes_it_all_the_same(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Carded) -> None:
        first = await fleet.serving(ONE + SLEEPER + QUICK_ONE)
        before = pid(first)
        await put_to_sleep(first)
        await first.close()
        second = await fleet.up()
        await second.command("load", {"model": "one"})
        await reaches(second, State.READY)
        assert pid(second) == before

    play(scenario)


def test_a_request_while_no_daemon_runs_is_answered_once_the_next_one_is_there(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Carded) -> None:
        first = await fleet.serving(ONE + SLEEPER + QUICK_ONE)
        url = url_of(first)
        await put_to_sleep(first)
        await first.close()
        waits = [asyncio.create_task(asked(url)) for _ in range(4)]
        await fleet.up()
        assert await asyncio.gather(*waits) == [(200, WHOLE)] * 4

    play(scenario)


@pytest.mark.parametrize("how", ["request", "load"])
def test_what_dies_in_its_sleep_stays_down_until_it_is_asked_for(
    how: str, play: Callable[[Scenario], None]
) -> None:
    async def scenario(fleet: Carded) -> None:
        daemon = await fleet.serving(ONE + SLEEPER + QUICK_ONE)
        before = pid(daemon)
        await put_to_sleep(daemon)
        os.kill(before, signal.SIGKILL)
        await reaches(daemon, State.STOPPED)
        (worker,) = model(daemon).workers
        assert (worker.reason or "").startswith("ended while it slept: ")
        await daemon.close()
        daemon = await fleet.up()  # what it had on the GPU may still be another's
        assert (model(daemon).wanted, model(daemon).workers) == (0, ())
        await until(lambda: daemon.snapshot().gateway.running)
        if how == "request":
            assert await asked(url_of(daemon)) == (200, WHOLE)
        else:
            await daemon.command("load", {"model": "one"})
        await until(lambda: model(daemon).ready == 1)
        assert pid(daemon) != before
        await daemon.close()
        assert model(await fleet.up()).wanted == 1

    play(scenario)


def test_a_sleeper_is_unloaded_restarted_and_loaded(play: Callable[[Scenario], None]) -> None:
    async def scenario(fleet: Carded) -> None:
        daemon = await fleet.serving(ONE + SLEEPER + QUICK_ONE)
        before = pid(daemon)
        await put_to_sleep(daemon)
        await daemon.command("load", {"model": "one"})
        await until(lambda: model(daemon).ready == 1)
        assert pid(daemon) == before
        await put_to_sleep(daemon)
        await daemon.command("restart", {"model": "one"})
        await until(lambda: model(daemon).ready == 1)
        assert pid(daemon) != before
        await put_to_sleep(daemon)
        await daemon.command("unload", {"model": "one"})
        await until(lambda: model(daemon).workers == ())
        assert "killed" not in events(daemon)

    play(scenario)


def test_a_new_revision_of_a_sleeper_starts_when_it_is_asked_for(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Carded) -> None:
        daemon = await fleet.serving(ONE + SLEEPER + QUICK_ONE)
        await put_to_sleep(daemon)
        fleet.write(ONE + SLEEPER + QUICK_ONE + FAST)
        await daemon.command("apply", {})
        assert model(daemon).state == State.STOPPED
        text = "one-1 slept and is stopped; revision 2 starts when asked for"
        assert text in said(daemon, "one")
        answers = await asyncio.gather(*(asked(url_of(daemon)) for _ in range(4)))
        assert answers == [(200, WHOLE)] * 4
        assert "--fake-step-s" in model(daemon).command
        assert said(daemon, "one").count("loaded for a request") == 1

    play(scenario)


def test_an_engine_that_does_not_go_to_sleep_serves_on(play: Callable[[Scenario], None]) -> None:
    async def scenario(fleet: Carded) -> None:
        daemon = await fleet.serving(fleet.one)
        fleet.troubled("/sleep 500")
        await daemon.command("sleep", {"model": "one"})
        await until(lambda: "did not go to sleep" in events(daemon))
        assert model(daemon).state == State.READY
        (worker,) = model(daemon).workers
        why = "did not go to sleep: /sleep says HTTP 500: EngineCore encountered an issue."
        assert worker.reason == why
        (event,) = [e for e in daemon.events.after(0, 1000) if why in e.text]
        assert event.level == "warn"
        assert await asked(url_of(daemon)) == (200, WHOLE)
        fleet.troubled()
        await put_to_sleep(daemon)

    play(scenario)


def test_an_engine_that_cannot_wake_is_refused_with_the_reason_and_tried_again_later(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Carded) -> None:
        daemon = await fleet.serving(fleet.one)
        await put_to_sleep(daemon)
        fleet.troubled("/wake_up 500")
        answers = await asyncio.gather(*(asked(url_of(daemon)) for _ in range(6)))
        assert [status for status, _ in answers] == [503] * 6
        assert b"cannot wake: /wake_up says HTTP 500: EngineCore encountered" in answers[0][1]
        assert model(daemon).state == State.ASLEEP
        await until(lambda: model(daemon).workers[0].reason is None)
        assert (await asked(url_of(daemon)))[0] == 503
        fleet.troubled()
        await daemon.command("wake", {"model": "one"})
        await daemon.front.drain("nobody", 10.0)  # the gateway has read that it wakes
        assert await asked(url_of(daemon)) == (200, WHOLE)

    play(scenario)


def test_weights_that_were_not_loaded_again_serve_nobody(play: Callable[[Scenario], None]) -> None:
    async def scenario(fleet: Carded) -> None:
        daemon = await fleet.serving(fleet.one)
        await put_to_sleep(daemon)
        fleet.troubled("/collective_rpc 500")
        status, body = await asked(url_of(daemon))
        assert status == 503
        assert b"/collective_rpc says HTTP 500" in body
        fleet.troubled()
        await until(lambda: model(daemon).workers[0].reason is None)
        assert await asked(url_of(daemon)) == (200, WHOLE)

    play(scenario)


def test_two_models_take_turns_on_a_card(play: Callable[[Scenario], None]) -> None:
    async def scenario(fleet: Carded) -> None:
        fleet.card = True
        memory = f'fake_gpu_memory = "{fleet.noted}"\n'
        shared = "devices = [0]\n" + SLEEPER
        two = TWO + MANUAL + shared + QUICK_TWO + memory
        daemon = await fleet.serving(ONE + shared + QUICK_ONE + memory, two)
        url = url_of(daemon)
        await put_to_sleep(daemon, "one")
        back = "gave back 60.0 GB of GPU memory and keeps 1.0 GB"
        await until(lambda: back in said(daemon, "one-1"))
        assert await asked(url, "two") == (200, WHOLE)
        assert model(daemon, "two").workers[0].gpus == (0,)
        with_whom = "GPU 0 has 18.0 GB free and it needs 60.0: "
        with_whom += "unload, or put to sleep, another there (two-1)"
        await daemon.command("wake", {"model": "one"})
        await until(lambda: f"asleep: cannot wake: {with_whom}" in said(daemon, "one-1"))
        status, body = await asked(url, "one")
        assert status == 503
        assert with_whom in body.decode()
        await put_to_sleep(daemon, "two")
        await until(lambda: back in said(daemon, "two-1"))
        await until(lambda: model(daemon, "one").workers[0].reason is None)
        assert await asked(url, "one") == (200, WHOLE)
        assert model(daemon, "two").state == State.ASLEEP

    play(scenario)


def test_who_cannot_sleep_is_refused_in_one_line(play: Callable[[Scenario], None]) -> None:
    async def scenario(fleet: Carded) -> None:
        daemon = await fleet.serving(ONE + QUICK_ONE, TWO + MANUAL + SLEEPER)
        with pytest.raises(ConsoleError, match=r"set models\.one\.sleep_level = 1, then apply"):
            await daemon.command("sleep", {"model": "one"})
        with pytest.raises(ConsoleError, match="two is stopped: only a ready model can sleep"):
            await daemon.command("sleep", {"model": "two"})
        with pytest.raises(ConsoleError, match=r"two is stopped and does not sleep; .*load two"):
            await daemon.command("wake", {"model": "two"})
        await daemon.command("wake", {"model": "one"})
        assert model(daemon).state == State.READY

    play(scenario)
