"""A whole daemon over fake `vllm serve` trees: commands that cross, and what a restart finds."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from vllm_console.control.daemon import Daemon
from vllm_console.control.process import make_state_dir
from vllm_console.devices.nvml import Nvml, NvmlReading
from vllm_console.errors import ConsoleError, InvalidInput, NotFound
from vllm_console.fleet.find import locate
from vllm_console.fleet.load import load_fleet
from vllm_console.history.asking import question
from vllm_console.snapshot import Gpu, Model
from vllm_console.telemetry.window import Window
from vllm_console.workers.shim import descendants, process
from vllm_console.workers.states import ENDED, State

WITHIN_S = 20.0
ONE = '[models.one]\nsource = "fake/model"\naliases = ["uno"]\n'
TWO = '[models.two]\nsource = "fake/model"\n'
QUICK_ONE = "[models.one.options]\nfake_gentle = true\n"
QUICK_TWO = "[models.two.options]\nfake_gentle = true\n"
"""Ends at once; without it an engine process has to be killed, after the shim's two seconds."""
MANUAL = "autostart = false\n"
SLOW = "[models.one.options]\nfake_boot_s = 20.0\n"


class FakeNvml(Nvml):
    """A machine with so many GPUs, on which nothing happens; without one it says why."""

    def __init__(self, gpus: int = 2) -> None:
        super().__init__("here")
        self._gpus = tuple(Gpu("here", i, f"GPU-{i}", "H100") for i in range(gpus))

    def poll(self) -> NvmlReading:
        return NvmlReading(self._gpus, None if self._gpus else "no GPU here")


class Fleet:
    """One fleet file and state directory, and the daemons that come and go over them."""

    def __init__(self, root: Path, engine: Path) -> None:
        self.root = root
        self.engine = engine
        self.file = root / "fleet.toml"
        self.daemons: list[Daemon] = []

    def write(self, *models: str) -> None:
        head = f'[defaults]\nengine = "{self.engine}"\ndrain_timeout = "1s"\n'
        self.file.write_text(head + "".join(models))

    def daemon(self, nvml: Nvml | None = None) -> Daemon:
        place = locate(self.file, self.root / "state")
        make_state_dir(place)
        daemon = Daemon(place, load_fleet(self.file), nvml=nvml or FakeNvml(0))
        self.daemons.append(daemon)
        return daemon

    async def up(self, *models: str) -> Daemon:
        """The next daemon, started over these models."""
        if models:
            self.write(*models)
        daemon = self.daemon()
        await daemon.start()
        return daemon

    async def end(self) -> None:
        last = self.daemons[-1]
        if not last.stopped.is_set():
            await asyncio.wait_for(last.take_down(), WITHIN_S)
        await last.close()


Scenario = Callable[[Fleet], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path, fake_engine: Path) -> Callable[[Scenario], None]:
    """Plays a scenario; the last daemon of it takes down what still runs."""

    async def played(scenario: Scenario) -> None:
        fleet = Fleet(tmp_path, fake_engine)
        try:
            await asyncio.wait_for(scenario(fleet), 60)
        finally:
            await fleet.end()

    return lambda scenario: asyncio.run(played(scenario))


def model(daemon: Daemon, name: str = "one") -> Model:
    return next(m for m in daemon.snapshot().models if m.name == name)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - the condition is in another process
            await asyncio.sleep(0.01)


def pids(daemon: Daemon, name: str = "one") -> set[int | None]:
    return {worker.pid for worker in model(daemon, name).workers}


async def ready(daemon: Daemon, name: str = "one") -> set[int | None]:
    await until(lambda: model(daemon, name).ready == 1)
    return pids(daemon, name)


def test_a_load_while_it_unloads_starts_it_again(play: Callable[[Scenario], None]) -> None:
    async def scenario(fleet: Fleet) -> None:
        daemon = await fleet.up(ONE)
        before = await ready(daemon)
        await daemon.command("unload", {"model": "one"})
        await until(lambda: model(daemon).state == State.STOPPING)
        await daemon.command("load", {"model": "one"})
        await until(lambda: model(daemon).ready == 1 and pids(daemon) != before)

    play(scenario)


def test_an_unload_while_it_restarts_leaves_it_stopped(play: Callable[[Scenario], None]) -> None:
    async def scenario(fleet: Fleet) -> None:
        daemon = await fleet.up(ONE)
        await ready(daemon)
        await daemon.command("restart", {"model": "one"})
        await daemon.command("restart", {"model": "one"})
        await until(lambda: model(daemon).state == State.STOPPING)
        await daemon.command("unload", {"model": "one"})
        await until(lambda: model(daemon).workers == ())
        assert model(daemon).wanted == 0

    play(scenario)


def test_nothing_is_loaded_while_the_fleet_goes_down(play: Callable[[Scenario], None]) -> None:
    async def scenario(fleet: Fleet) -> None:
        daemon = await fleet.up(ONE, TWO + MANUAL)
        await ready(daemon)
        await daemon.command("down", {})
        await until(lambda: model(daemon).state == State.STOPPING)
        for verb in ("load", "restart"):
            with pytest.raises(ConsoleError, match="is going down"):
                await daemon.command(verb, {"model": "two"})
        await daemon.command("down", {})
        await asyncio.wait_for(daemon.stopped.wait(), WITHIN_S)
        said = [event.text for event in daemon.events.newest(50)]
        assert (said.count("going down"), said.count("down")) == (1, 1)

    play(scenario)


def test_a_down_while_the_daemon_starts_leaves_nothing_running(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fleet) -> None:
        fleet.write(ONE + SLOW)
        daemon = fleet.daemon()
        down = asyncio.create_task(daemon.take_down())
        await asyncio.sleep(0)
        await daemon.start()
        await asyncio.wait_for(down, WITHIN_S)
        assert daemon.stopped.is_set()
        workers = [worker for m in daemon.models.values() for worker in m.workers.values()]
        assert [worker.state for worker in workers if worker.state not in ENDED] == []

    play(scenario)


def test_two_models_that_start_together_get_different_gpus(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fleet) -> None:
        fleet.write(ONE + "gpus = 1\n" + QUICK_ONE, TWO + "gpus = 1\n" + QUICK_TWO)
        daemon = fleet.daemon(FakeNvml())
        await daemon.start()
        await ready(daemon, "one")
        await ready(daemon, "two")
        used = [worker.gpus for m in daemon.snapshot().models for worker in m.workers]
        assert sorted(used) == [(0,), (1,)]

    play(scenario)


def test_the_log_of_an_unloaded_model_is_still_told(play: Callable[[Scenario], None]) -> None:
    async def scenario(fleet: Fleet) -> None:
        daemon = await fleet.up(ONE + QUICK_ONE, TWO + MANUAL)
        await ready(daemon)
        await daemon.command("unload", {"model": "one"})
        await until(lambda: model(daemon).workers == ())
        for name in ("one", "uno", "one-1"):
            assert "shutdown triggered" in daemon.log(name, None, 5)[1]
        with pytest.raises(NotFound, match="two has no log: none of its workers"):
            daemon.log("two", None, 5)
        with pytest.raises(NotFound, match='no worker "oen"; did you mean "one"'):
            daemon.log("oen", None, 5)

    play(scenario)


def test_a_model_that_is_no_longer_in_the_file_is_shown_and_never_started(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fleet) -> None:
        first = await fleet.up(ONE + QUICK_ONE, TWO + QUICK_TWO)
        before = await ready(first)
        await ready(first, "two")
        await first.close()
        daemon = await fleet.up(TWO + QUICK_TWO)
        assert await ready(daemon) == before
        await daemon.command("restart", {"model": "one"})
        await until(lambda: model(daemon).state == State.FAILED)
        (worker,) = model(daemon).workers
        assert worker.failure is not None
        assert "one is no longer in" in worker.failure.line
        await daemon.command("unload", {"model": "one"})
        await until(lambda: model(daemon).workers == ())

    play(scenario)


def test_a_model_new_in_the_file_starts_with_the_next_daemon(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fleet) -> None:
        first = await fleet.up(ONE + QUICK_ONE)
        await ready(first)
        await first.command("unload", {"model": "one"})
        await until(lambda: model(first).workers == ())
        await first.close()
        daemon = await fleet.up(ONE + QUICK_ONE, TWO + QUICK_TWO)
        await ready(daemon, "two")
        assert model(daemon).workers == ()

    play(scenario)


def test_the_next_daemon_says_how_many_it_adopted_and_how_long_that_took(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fleet) -> None:
        first = await fleet.up(ONE + QUICK_ONE, TWO + QUICK_TWO)
        await ready(first)
        await ready(first, "two")
        await first.close()
        daemon = await fleet.up()
        said = next(e.text for e in daemon.events.newest(50) if "started" in e.text)
        assert re.fullmatch(r"daemon \S+ started, 2 adopted in \d+ ms", said)

    play(scenario)


def test_the_next_daemon_remembers_what_the_one_before_saw(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fleet) -> None:
        first = await fleet.up(ONE, QUICK_ONE)
        await ready(first)
        seen = await remembered(first, 0.0)
        await first.close()
        second = await fleet.up()
        span = await remembered(second, seen.new.at)
        assert span.old.at == seen.old.at
        graph = await second.series(["worker/one-1", "model/one"], ["running"], 60, 1)
        assert sum(value is not None for value in graph["worker/one-1"]["running"]) >= 2
        assert any(value is not None for value in graph["model/one"]["running"])

    play(scenario)


def test_the_past_is_asked_by_the_fleets_names_and_goes_on_over_daemons(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fleet) -> None:
        first = await fleet.up(ONE, QUICK_ONE)
        await ready(first)
        seen = await remembered(first, 0.0)
        await first.close()
        second = await fleet.up()
        await remembered(second, seen.new.at)
        now = time.time()
        asked = question("uno", metrics=["requests", "availability"], by="worker", now=now)
        found = await second.answer(asked)
        assert found.subject == "model/one"
        parts = [(each.metric, each.part) for each in found.measured]
        assert parts == [(m, p) for m in ("requests", "availability") for p in (None, "one-1")]
        assert found.measured[0].figure.coverage > 0
        available = found.measured[2].figure.values["available"]
        assert available is not None
        assert 0 < available < 1  # it took its time to start
        told = [(mark.kind, mark.text.split()[0]) for mark in found.marks]
        daemon = ("daemon", "daemon")
        assert told == [daemon, ("start", "ready"), ("start", "adopted,"), daemon]
        with pytest.raises(NotFound, match='nothing is known of "dos"'):
            await second.answer(question("dos", now=now))

    play(scenario)


async def remembered(daemon: Daemon, after: float) -> Window:
    """All that is stored of the worker, as one window, once there is a sample after a moment."""
    async with asyncio.timeout(5 * WITHIN_S):
        while True:
            asked = daemon.store.ask(lambda past: past.window("worker/one-1", 0.0, time.time()))
            with suppress(ConsoleError):  # the file may not be there yet
                found = await asyncio.wrap_future(asked)
                if found is not None and found.new.at > after:
                    return found
            await asyncio.sleep(0.05)


def test_damaged_files_of_a_worker_keep_no_daemon_from_starting(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fleet) -> None:
        first = await fleet.up(ONE + QUICK_ONE)
        before = await ready(first)
        await first.close()
        spec = fleet.root / "state" / "workers" / "one-1" / "spec.json"
        spec.write_text('{"worker_id": "../x", "model": [], "argv": 5, "port": "a"}')
        daemon = await fleet.up()
        assert before <= {w.pid for m in daemon.snapshot().models for w in m.workers}

    play(scenario)


def test_a_restart_that_a_killed_daemon_began_is_finished_by_the_next(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fleet) -> None:
        first = await fleet.up(ONE)
        before = await ready(first)
        await first.command("restart", {"model": "one"})
        state = fleet.root / "state" / "workers" / "one-1" / "state.json"
        await until(lambda: '"asked": true' in state.read_text())
        await first.close()
        daemon = await fleet.up()
        await until(lambda: model(daemon).ready == 1 and pids(daemon) != before)

    play(scenario)


def test_an_unload_that_a_killed_daemon_began_stays_an_unload(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fleet) -> None:
        first = await fleet.up(ONE)
        await ready(first)
        await first.command("unload", {"model": "one"})
        state = fleet.root / "state" / "workers" / "one-1" / "state.json"
        await until(lambda: '"asked": true' in state.read_text())
        await first.close()
        daemon = await fleet.up()
        await until(lambda: not model(daemon).workers or model(daemon).state == State.STOPPED)
        assert model(daemon).wanted == 0

    play(scenario)


def test_a_worker_whose_shim_is_killed_is_still_stopped(play: Callable[[Scenario], None]) -> None:
    async def scenario(fleet: Fleet) -> None:
        daemon = await fleet.up(ONE)
        await ready(daemon)
        lock = fleet.root / "state" / "workers" / "one-1" / "shim.lock"
        shim = json.loads(lock.read_text())["pid"]
        tree = {pid: process(pid) for pid in descendants(shim)}
        os.kill(shim, signal.SIGKILL)
        await until(lambda: process(shim) is None)
        await daemon.command("unload", {"model": "one"})
        await until(lambda: model(daemon).workers == ())
        assert tree
        assert [pid for pid in tree if process(pid) is not None] == []

    play(scenario)


def test_an_unknown_verb_is_refused(play: Callable[[Scenario], None]) -> None:
    async def scenario(fleet: Fleet) -> None:
        daemon = await fleet.up(ONE + MANUAL)
        with pytest.raises(InvalidInput, match="no command dance"):
            await daemon.command("dance", {})

    play(scenario)


class HoldingNvml(FakeNvml):
    """Lists processes on GPU 0 for as long as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, dict[int, int | None]] = {}

    def poll(self) -> NvmlReading:
        return replace(super().poll(), processes=dict(self.held))


def test_a_worker_starts_again_only_once_the_driver_has_its_gpu_back(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fleet) -> None:
        nvml = HoldingNvml()
        fleet.write(ONE + "devices = [0]\n")
        daemon = fleet.daemon(nvml)
        await daemon.start()
        (pid,) = await ready(daemon)
        assert pid is not None
        nvml.held = {pid: {0: 1 << 30}}
        await daemon.command("restart", {"model": "one"})
        await until(lambda: pids(daemon) == {None})
        await until(lambda: bool(daemon.snapshot().gpus[0].processes))
        (process,) = daemon.snapshot().gpus[0].processes
        assert (process.pid, process.worker, process.name) == (pid, "one-1", None)
        assert pids(daemon) == {None}
        nvml.held = {}
        assert pid not in await ready(daemon)

    play(scenario)


def test_a_frozen_engine_is_seen_by_its_counters_and_restarted(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fleet) -> None:
        impatient = 'stall_after = "1s"\non_stall = "restart"\n'
        daemon = await fleet.up(ONE, impatient)
        (pid,) = await ready(daemon)
        (worker,) = model(daemon).workers
        assert pid is not None
        assert worker.url is not None
        body = json.dumps({"model": "one", "max_tokens": 10_000}).encode()
        port = int(worker.url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            head = f"POST /v1/completions HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await until(lambda: model(daemon).workers[0].running == 1)
            os.kill(descendants(pid)[0], signal.SIGSTOP)
            await until(lambda: "no iteration has finished" in events(daemon))
            await until(lambda: model(daemon).ready == 1 and pids(daemon) != {pid})
        finally:
            writer.close()

    play(scenario)


def test_a_model_tells_what_limits_it_and_what_its_engine_complains_about(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fleet) -> None:
        daemon = await fleet.up(ONE, QUICK_ONE)
        await ready(daemon)

        def looked() -> Model:
            daemon.snapshot_json()  # who looks is scraped for each second
            return model(daemon)

        await until(lambda: looked().limits.now == "idle")
        assert looked().limits.shares == {"idle": 1.0}
        await until(lambda: looked().workers[0].log_errors is not None)
        (log,) = (fleet.root / "state").rglob("*.log")
        with log.open("a", encoding="utf-8") as file:
            file.write("(EngineCore pid=7) ERROR 11-21 05:19:30 [core.py:1] it is too hot\n")
        await until(lambda: (e := looked().workers[0].log_errors) is not None and e.errors == 1)
        told = looked().workers[0].log_errors
        assert told is not None
        assert told.newest == "it is too hot"

    play(scenario)


def events(daemon: Daemon) -> str:
    return "\n".join(event.text for event in daemon.events.after(0, 1000))
