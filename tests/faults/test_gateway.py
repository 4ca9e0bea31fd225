"""The gateway of a whole fleet over fake `vllm serve` trees: who dies, and what a client sees."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.faults.endpoints import (
    END,
    PIECE,
    Crowd,
    Fronted,
    alerted,
    ask,
    asked,
    connected,
    kill,
    pid_of,
    url_of,
)
from tests.faults.test_daemon import MANUAL, ONE, QUICK_ONE, QUICK_TWO, TWO, events, model, until
from vllm_console.control.client import Client
from vllm_console.errors import ConsoleError
from vllm_console.fleet.find import Place, locate
from vllm_console.gateway.place import is_held
from vllm_console.snapshot import Alert, Gateway
from vllm_console.workers.shim import process
from vllm_console.workers.states import State

FAST = QUICK_ONE + "fake_step_s = 0.005\n"
TWO_WORKERS = "scale = { min = 2, max = 2 }\n"

Scenario = Callable[[Fronted], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path, fake_engine: Path) -> Callable[[Scenario], None]:
    """Plays a scenario; the last daemon of it takes down what still runs."""

    async def played(scenario: Scenario) -> None:
        fleet = Fronted(tmp_path, fake_engine)
        try:
            await asyncio.wait_for(scenario(fleet), 60)
        finally:
            await fleet.end()
        assert not is_held(fleet.directory)

    return lambda scenario: asyncio.run(played(scenario))


def test_it_serves_every_model_at_one_address_and_goes_down_with_the_fleet(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fronted) -> None:
        daemon = await fleet.serving(ONE + QUICK_ONE, TWO + QUICK_TWO)
        await until(lambda: model(daemon, "two").ready == 1)
        url, pid = url_of(daemon), pid_of(daemon)
        for name in ("one", "uno", "two"):
            assert await asked(url, name) == (200, PIECE * 3 + END)
        assert (await asked(url, "three"))[0] == 404
        spread = "least outstanding, prefix affinity"
        await until(lambda: [m.balancing for m in daemon.snapshot().models] == [spread] * 2)
        await daemon.take_down()
        assert process(pid) is None
        with pytest.raises(ConnectionRefusedError):
            await asked(url)

    play(scenario)


def test_requests_go_on_while_no_daemon_runs_and_the_next_one_adopts_it(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fronted) -> None:
        first = await fleet.serving(ONE + FAST)
        url, pid = url_of(first), pid_of(first)
        crowd = Crowd(url)
        crowd.start()
        await crowd.more(20)
        await first.close()
        await crowd.more(20)
        second = await fleet.up()
        await until(lambda: second.snapshot().gateway.running)
        await crowd.more(20)
        await crowd.stop()
        assert crowd.wrong == []
        assert (url_of(second), pid_of(second)) == (url, pid)
        assert f"adopted, pid {pid}, {url}, not touched" in events(second)

    play(scenario)


def test_a_hot_restart_loses_no_request_and_no_stream(play: Callable[[Scenario], None]) -> None:
    async def scenario(fleet: Fronted) -> None:
        daemon = await fleet.serving(ONE + FAST)
        url, before = url_of(daemon), pid_of(daemon)
        kept, fresh = Crowd(url), Crowd(url, keep_alive=False)
        stream = asyncio.create_task(asked(url, tokens=300))
        kept.start(3)
        fresh.start(3)
        await kept.more(10)
        await daemon.command("gateway-restart", {})
        after = pid_of(daemon)
        assert after != before
        await kept.more(10)
        await fresh.more(10)
        await daemon.command("gateway-restart", {})
        await kept.more(10)
        await fresh.more(10)
        await kept.stop()
        await fresh.stop()
        assert kept.wrong + fresh.wrong == []
        assert await stream == (200, PIECE * 300 + END)
        await until(lambda: process(before) is None)
        assert len({before, after, pid_of(daemon)}) == 3

    play(scenario)


def test_connections_to_a_killed_gateway_wait_for_the_next_one(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fronted) -> None:
        daemon = await fleet.serving(ONE + QUICK_ONE)
        url, before = url_of(daemon), pid_of(daemon)
        kill(before)
        await until(lambda: process(before) is None)
        answers = await asyncio.gather(*(asked(url) for _ in range(8)))
        assert answers == [(200, PIECE * 3 + END)] * 8
        assert pid_of(daemon) != before
        assert f"ended, pid {before} (signal 9); starts again in 0.2 s" in events(daemon)
        assert [alert for alert in daemon.snapshot().alerts if alert.subject == "gateway"] == []

    play(scenario)


def test_a_gateway_that_died_while_no_daemon_ran_is_started_again(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fronted) -> None:
        first = await fleet.serving(ONE + QUICK_ONE)
        before = pid_of(first)
        await first.close()
        kill(before)
        second = await fleet.serving()
        assert pid_of(second) != before
        assert await asked(url_of(second)) == (200, PIECE * 3 + END)

    play(scenario)


def test_an_unload_waits_for_the_streams_of_its_worker(play: Callable[[Scenario], None]) -> None:
    async def scenario(fleet: Fronted) -> None:
        slow = QUICK_ONE + "fake_step_s = 0.01\n"
        daemon = await fleet.serving(ONE + slow)
        stream = asyncio.create_task(asked(url_of(daemon), tokens=100))
        await until(lambda: model(daemon).in_flight == 1)
        await daemon.command("unload", {"model": "one"})
        await until(lambda: model(daemon).state == State.DRAINING)
        assert await stream == (200, PIECE * 100 + END)
        await until(lambda: model(daemon).workers == ())

    play(scenario)


def test_replacing_workers_under_load_loses_no_request(play: Callable[[Scenario], None]) -> None:
    async def scenario(fleet: Fronted) -> None:
        daemon = await fleet.serving(ONE + TWO_WORKERS + FAST)
        await until(lambda: model(daemon).ready == 2)
        crowd = Crowd(url_of(daemon))
        crowd.start(6)
        await crowd.more(20)
        before = {worker.pid for worker in model(daemon).workers}
        fleet.write(ONE + TWO_WORKERS + QUICK_ONE + "fake_step_s = 0.004\n")
        await daemon.command("apply", {})
        await crowd.more(20)
        await crowd.stop()
        assert crowd.wrong == []
        assert not before & {worker.pid for worker in model(daemon).workers}

    play(scenario)


def test_a_request_for_a_model_that_is_not_loaded_loads_it(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fronted) -> None:
        daemon = await fleet.serving(ONE + QUICK_ONE, TWO + MANUAL + QUICK_TWO)
        assert model(daemon, "two").workers == ()
        answers = await asyncio.gather(*(asked(url_of(daemon), "two") for _ in range(5)))
        assert answers == [(200, PIECE * 3 + END)] * 5
        said = [e.text for e in daemon.events.after(0) if e.subject == "two"]
        assert said.count("loaded for a request") == 1

    play(scenario)


def test_a_model_that_cannot_start_is_refused_with_the_reason(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fronted) -> None:
        broken = QUICK_TWO + 'fake_failure = "kv-too-small"\n'
        daemon = await fleet.serving(ONE + QUICK_ONE, TWO + MANUAL + broken)
        status, body = await asked(url_of(daemon), "two")
        assert status == 503
        assert b"kv-too-small" in body
        assert model(daemon, "two").state == State.FAILED
        assert (await asked(url_of(daemon), "two"))[0] == 503
        said = [e.text for e in daemon.events.after(0) if e.subject == "two"]
        assert said.count("loaded for a request") == 1

    play(scenario)


def test_a_model_that_is_not_on_demand_is_refused_at_once(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fronted) -> None:
        asleep = TWO + MANUAL + "on_demand = false\n" + QUICK_TWO
        daemon = await fleet.serving(ONE + QUICK_ONE, asleep)
        assert (await asked(url_of(daemon), "two"))[0] == 503
        assert model(daemon, "two").workers == ()

    play(scenario)


def test_a_port_that_somebody_else_has_costs_the_fleet_nothing(
    tmp_path: Path, fake_engine: Path
) -> None:
    async def scenario(fleet: Fronted, taken: socket.socket) -> None:
        daemon = await fleet.up(ONE + QUICK_ONE)
        await until(lambda: model(daemon).ready == 1)
        port = taken.getsockname()[1]
        (alert,) = await alerted(daemon)
        text = f"127.0.0.1:{port} is taken by pid {os.getpid()}; set another [gateway] port, "
        assert alert == Alert("crit", "gateway", text + "then `apply`")
        assert daemon.snapshot().gateway.reason == alert.text
        fleet.gateway = "port = 0\n"
        fleet.write(ONE + QUICK_ONE)
        await daemon.command("apply", {})
        await until(lambda: daemon.snapshot().gateway.running)
        assert await asked(url_of(daemon)) == (200, PIECE * 3 + END)
        assert await alerted(daemon, 0) == []

    async def played() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            fleet = Fronted(tmp_path, fake_engine, f"port = {port}\n")
            try:
                await asyncio.wait_for(scenario(fleet, taken), 60)
            finally:
                await fleet.end()

    asyncio.run(played())


def test_another_address_in_the_fleet_file_moves_it_and_old_connections_finish(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fronted) -> None:
        daemon = await fleet.serving(ONE + FAST)
        url, before = url_of(daemon), pid_of(daemon)
        stream = asyncio.create_task(asked(url, tokens=200))
        await until(lambda: model(daemon).in_flight == 1)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        fleet.gateway = f"port = {port}\n"
        fleet.write(ONE + FAST)
        await daemon.command("apply", {})
        await until(lambda: pid_of(daemon) != before)
        assert url_of(daemon) == f"http://127.0.0.1:{port}"
        assert await asked(url_of(daemon)) == (200, PIECE * 3 + END)
        assert await stream == (200, PIECE * 200 + END)
        await until(lambda: process(before) is None)
        with pytest.raises(ConnectionRefusedError):
            await asked(url)

    play(scenario)


def test_it_is_switched_off_and_on_by_the_fleet_file(play: Callable[[Scenario], None]) -> None:
    async def scenario(fleet: Fronted) -> None:
        daemon = await fleet.serving(ONE + QUICK_ONE)
        pid = pid_of(daemon)
        fleet.gateway = "port = 0\nenabled = false\n"
        fleet.write(ONE + QUICK_ONE)
        await daemon.command("apply", {})
        await until(lambda: process(pid) is None)
        await until(lambda: (daemon.snapshot().gateway.reason or "").startswith("off"))
        with pytest.raises(ConsoleError, match=r"the gateway is off"):
            await daemon.command("gateway-restart", {})
        fleet.gateway = "port = 0\n"
        fleet.write(ONE + QUICK_ONE)
        await daemon.command("apply", {})
        await until(lambda: daemon.snapshot().gateway.running)

    play(scenario)


def test_limits_in_the_fleet_file_take_effect_without_touching_a_worker(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fronted) -> None:
        daemon = await fleet.serving(ONE + QUICK_ONE)
        worker, gateway = model(daemon).workers[0].pid, pid_of(daemon)
        fleet.write(ONE + QUICK_ONE + "[models.one.limits]\nbody = 100\nconcurrency = 1\n")
        await daemon.command("apply", {})
        assert (model(daemon).workers[0].pid, pid_of(daemon)) == (worker, gateway)
        assert (model(daemon).batching.policy, model(daemon).batching.limit) == ("limited", 1)
        url = url_of(daemon)

        def too_long() -> int:
            connection = connected(url)
            try:
                connection.request("POST", "/v1/completions", b" " * 200)
                return connection.getresponse().status
            finally:
                connection.close()

        assert await asyncio.to_thread(too_long) == 413

    play(scenario)


def test_a_gateway_that_hangs_is_found_by_the_next_daemon_and_replaced(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fronted) -> None:
        first = await fleet.serving(ONE + QUICK_ONE)
        before = pid_of(first)
        await first.close()
        os.kill(before, signal.SIGSTOP)
        second = await fleet.serving()
        assert process(before) is None
        assert f"pid {before} does not answer, and is ended" in events(second)
        assert await asked(url_of(second)) == (200, PIECE * 3 + END)

    play(scenario)


def test_a_gateway_of_another_version_is_adopted_and_replaced_without_a_lost_request(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fronted) -> None:
        first = await fleet.serving(ONE + FAST)
        url, before = url_of(first), pid_of(first)
        crowd = Crowd(url)
        crowd.start()
        await crowd.more(10)
        await first.close()
        second = await fleet.up()
        running = second.front.endpoint
        await until(lambda: running.now is not None)
        assert running.now is not None
        running.now.hello["version"] = "0.0.1"
        running.changed()
        await until(lambda: running.now is not None and running.now.pid != before)
        await crowd.more(10)
        await crowd.stop()
        assert crowd.wrong == []
        assert url_of(second) == url

    play(scenario)


def test_a_gateway_that_says_nothing_any_more_is_ended_and_started_again(
    play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(fleet: Fronted) -> None:
        daemon = await fleet.serving(ONE + QUICK_ONE)
        url, before = url_of(daemon), pid_of(daemon)
        monkeypatch.setattr("vllm_console.control.endpoint.SILENT_S", 2.5)
        os.kill(before, signal.SIGSTOP)
        await until(lambda: process(before) is None)
        assert await asked(url) == (200, PIECE * 3 + END)
        assert f"pid {before} says nothing for 2 s, and is ended" in events(daemon)
        await until(lambda: daemon.snapshot().gateway.running)
        monkeypatch.undo()

    play(scenario)


def test_a_second_gateway_on_the_same_place_takes_over_and_is_adopted(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(fleet: Fronted) -> None:
        first = await fleet.serving(ONE + FAST)
        url, before = url_of(first), pid_of(first)
        connection = connected(url)
        assert (await asyncio.to_thread(ask, connection))[0] == 200
        connection.close()
        await first.close()
        other = await asyncio.create_subprocess_exec(
            *first.front.endpoint.program, str(fleet.directory)
        )
        await until(lambda: process(before) is None)
        second = await fleet.serving()
        assert (pid_of(second), url_of(second)) == (other.pid, url)
        await second.take_down()
        assert await other.wait() == 0

    play(scenario)


def verb(place: Place, *words: str) -> int:
    """Run a verb of the command line as a person would; its exit code."""
    command = [sys.executable, "-m", "vllm_console", *words, "--fleet", str(place.fleet_file)]
    command += ["--state-dir", str(place.state_dir)]
    return subprocess.run(command, check=False, timeout=90, capture_output=True).returncode


def test_a_daemon_killed_under_load_costs_no_request(tmp_path: Path, fake_engine: Path) -> None:
    fleet = Fronted(tmp_path, fake_engine)
    fleet.write(ONE + FAST)
    place = locate(fleet.file, tmp_path / "state")
    client = Client(place.socket)

    async def gateway_of(client: Client) -> Gateway:
        async with asyncio.timeout(20):
            while True:
                snapshot = await asyncio.to_thread(client.snapshot)
                if snapshot.gateway.running and snapshot.models[0].ready:
                    return snapshot.gateway
                await asyncio.sleep(0.02)

    async def scenario() -> None:
        await asyncio.to_thread(verb, place, "up", "-d")
        before = await gateway_of(client)
        assert before.url is not None
        crowd = Crowd(before.url)
        crowd.start()
        for _ in range(2):
            await crowd.more(10)
            daemon = int((place.state_dir / "daemon.lock").read_text())
            kill(daemon)
            await until(lambda pid=daemon: process(pid) is None)  # type: ignore[misc]
            await crowd.more(10)
            await asyncio.to_thread(verb, place, "up", "-d")
            after = await gateway_of(client)
            assert (after.pid, after.url) == (before.pid, before.url)
        await crowd.more(10)
        await crowd.stop()
        assert crowd.wrong == []

    async def limited() -> None:
        await asyncio.wait_for(scenario(), 90)

    try:
        asyncio.run(limited())
    finally:
        verb(place, "down")
    assert not is_held(place.gateway)


def test_a_gateway_that_is_left_alone_goes_down_with_a_fleet_that_has_no_daemon(
    tmp_path: Path, fake_engine: Path
) -> None:
    fleet = Fronted(tmp_path, fake_engine)
    fleet.write(ONE + MANUAL)
    place = locate(fleet.file, tmp_path / "state")

    async def scenario() -> int:
        daemon = await fleet.up()
        await until(lambda: daemon.snapshot().gateway.running)
        pid = pid_of(daemon)
        await daemon.close()
        return pid

    pid = asyncio.run(scenario())
    assert process(pid) is not None
    assert verb(place, "down") == 0
    assert process(pid) is None
    assert verb(place, "down") == 3
