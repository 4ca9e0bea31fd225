"""A fake vLLM tree under the real shim, launcher and worker: what runs, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vllm_console.errors import InvalidInput, TimedOut
from vllm_console.launchers.local import LocalLauncher
from vllm_console.workers import adoption, logs
from vllm_console.workers.adoption import Fate
from vllm_console.workers.launch import LaunchFailed, LaunchSpec
from vllm_console.workers.shim import boot_id, process
from vllm_console.workers.states import Cause, State

if TYPE_CHECKING:
    from tests.faults.conftest import Rig

    Play = Callable[[Callable[[Rig], Coroutine[Any, Any, None]]], None]


def pausing() -> subprocess.Popen[bytes]:
    """A process that is none of ours."""
    return subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])


def test_a_worker_becomes_ready_and_unload_leaves_nothing(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker(stubborn=True))
        view = worker.view
        members = rig.identities(worker.tree())
        assert len(members) == 3
        assert worker.tree()[0] == view.pid
        assert rig.launcher.running() == ["tiny-1"]
        assert view.url is not None
        assert (view.state, view.stage, view.failure, view.restarts) == ("ready", None, None, 0)
        assert worker.engine.version == "0.32.0"
        assert worker.engine.kv_cache_tokens == 131072
        await worker.unload()
        assert rig.left_of(members) == []
        assert worker.tree() == []
        assert rig.launcher.running() == []
        assert worker.view.pid is None
        states = [state for state, _ in rig.seen]
        assert states[0] == "queued"
        assert states[-4:] == ["ready", "draining", "stopping", "stopped"]
        ended = rig.launcher.inspect("tiny-1")
        assert ended.fate is Fate.EXITED
        assert ended.exit is not None
        assert ended.exit.asked

    play(scenario)


def test_load_and_unload_are_idempotent(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker())
        pid = worker.view.pid
        worker.load()
        worker.load()
        assert worker.view.pid == pid
        await asyncio.gather(worker.unload(), worker.unload())
        await worker.unload()
        assert worker.state is State.STOPPED

    play(scenario)


def test_a_restart_gives_a_new_process_and_a_learnt_start_time(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker())
        old = rig.identities(worker.tree())
        assert rig.launcher.expected_s("tiny", 1) is not None
        await worker.restart()
        assert rig.left_of(old) == []
        await worker.wait({State.READY}, 15)
        assert worker.view.pid != old[0][0]
        assert worker.view.restarts == 0
        expected = worker.view.expected_s
        assert expected is not None
        assert 0.05 < expected < 15

    play(scenario)


def test_a_killed_api_server_leaves_nothing_behind_and_comes_back(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker(stubborn=True))
        members = rig.identities(worker.tree())
        os.kill(members[0][0], signal.SIGKILL)
        await worker.wait({State.BACKOFF}, 10)
        assert rig.left_of(members) == []
        failure = worker.view.failure
        assert failure is not None
        assert (failure.cause, failure.exit_code) == (Cause.KILLED, -9)
        assert "starts again in" in (worker.view.reason or "")
        await worker.wait({State.READY}, 15)
        assert worker.view.restarts == 1
        assert worker.view.failure is None

    play(scenario)


def test_the_next_daemon_adopts_the_same_processes_untouched(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker(stubborn=True))
        members = rig.identities(worker.tree())
        log = rig.launcher.log_path("tiny-1").read_bytes()
        (handle,) = await rig.again()
        worker = rig.worker()
        worker.adopt(handle)
        await worker.wait({State.READY}, 5)
        assert rig.identities(worker.tree()) == members
        assert worker.view.pid == members[0][0]
        assert worker.engine.architecture == "Qwen2ForCausalLM"
        assert worker.spec == handle.spec
        assert rig.launcher.log_path("tiny-1").read_bytes() == log
        await worker.unload()
        assert rig.left_of(members) == []

    play(scenario)


def test_a_start_begun_under_one_daemon_becomes_ready_under_the_next(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = rig.worker("--fake-boot-s", "1")
        worker.load()
        await rig.until(lambda: worker.view.stage == "weights")
        pid = worker.view.pid
        (handle,) = await rig.again()
        worker = rig.worker()
        worker.adopt(handle)
        await rig.until(lambda: worker.view.stage == "weights")
        await worker.wait({State.READY}, 15)
        assert worker.view.pid == pid
        assert worker.engine.kv_cache_tokens == 131072

    play(scenario)


def test_a_crash_while_no_daemon_ran_is_on_record(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker())
        await rig.again()
        os.kill(worker.tree()[0], signal.SIGSEGV)
        await rig.until(lambda: rig.launcher.inspect("tiny-1").fate is Fate.EXITED)
        ended = rig.launcher.inspect("tiny-1").exit
        assert ended is not None
        assert (ended.rc, ended.asked) == (-signal.SIGSEGV, False)
        assert await rig.launcher.adopt() == []

    play(scenario)


@pytest.mark.parametrize("thorough", [False, True], ids=["wrong start time", "right start time"])
def test_a_forged_state_file_neither_adopts_nor_kills_a_stranger(
    play: Play, thorough: bool
) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker())
        await worker.unload()
        stranger = pausing()
        try:
            directory = rig.launcher.directory("tiny-1")
            seen = process(stranger.pid)
            assert seen is not None
            state = json.loads((directory / "state.json").read_text())
            state |= {"pid": stranger.pid, "boot": boot_id()}
            state["start"] = seen[0] if thorough else seen[0] - 1
            (directory / "state.json").write_text(json.dumps(state))
            (directory / "exit.json").unlink()
            assert rig.launcher.inspect("tiny-1").fate is Fate.VANISHED
            assert await rig.again() == []
            worker = await rig.ready(rig.worker())
            await worker.unload()
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()

    play(scenario)


def test_a_stranger_that_answers_on_the_port_is_not_taken_for_ready(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        asked: list[bytes] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readline())
            body = b'{"data": [{"id": "tiny"}]}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        worker = rig.worker("--fake-silent-socket", port=port)
        worker.load()
        await rig.until(lambda: "another process" in (worker.view.reason or ""))
        with pytest.raises(TimedOut, match="held by another process"):
            await worker.wait({State.READY}, 1.5)
        assert asked == []
        server.close()
        await server.wait_closed()
        await worker.unload()

    play(scenario)


def test_a_port_in_use_is_diagnosed_and_tried_again_elsewhere(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        taken = socket.create_server(("127.0.0.1", 0))
        ports = [taken.getsockname()[1], None]

        async def prepare() -> tuple[LaunchSpec, dict[str, str]]:
            return rig.spec(port=ports.pop(0)), rig.environment

        worker = rig.worker(prepare=prepare)
        worker.load()
        await worker.wait({State.BACKOFF}, 10)
        failure = worker.view.failure
        assert failure is not None
        assert failure.cause == Cause.PORT_IN_USE
        await worker.wait({State.READY}, 15)
        taken.close()

    play(scenario)


def test_unload_while_the_engine_boots_kills_after_a_short_grace(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = rig.worker("--fake-boot-s", "60", stubborn=True)
        worker.load()
        await rig.until(lambda: len(worker.tree()) == 3)
        members = rig.identities(worker.tree())
        async with asyncio.timeout(6):
            await worker.unload()
        assert worker.state is State.STOPPED
        assert rig.left_of(members) == []

    play(scenario)


def test_unload_before_the_launch_starts_nothing(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        go = asyncio.Event()

        async def prepare() -> tuple[LaunchSpec, dict[str, str]]:
            await go.wait()
            return rig.spec(), rig.environment

        worker = rig.worker(prepare=prepare)
        worker.load()
        await worker.wait({State.STARTING}, 5)
        leaving = asyncio.create_task(worker.unload())
        await worker.wait({State.STOPPING}, 5)
        assert not leaving.done()
        go.set()
        await leaving
        assert worker.state is State.STOPPED
        assert not rig.root.exists()

    play(scenario)


def test_a_configuration_error_is_told_with_its_remedy_and_not_retried(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = rig.worker("--fake-failure", "kv-too-small")
        worker.load()
        await worker.wait({State.FAILED}, 15)
        view = worker.view
        assert view.failure is not None
        assert view.failure.cause == Cause.KV_TOO_SMALL
        assert view.failure.line.startswith("ValueError: To serve at least one request")
        assert "384" in view.failure.remedy
        assert (view.reason, view.restarts, view.failure.exit_code) == ("kv-too-small", 0, 1)
        assert worker.tree() == []

    play(scenario)


def test_three_starts_that_never_serve_are_a_crash_loop(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = rig.worker("--fake-failure", "exit-7")
        worker.load()
        await worker.wait({State.CRASH_LOOP}, 40)
        view = worker.view
        assert view.restarts == 2
        assert view.failure is not None
        assert view.failure.exit_code == 7

    play(scenario)


def test_a_start_that_takes_too_long_is_ended(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = rig.worker("--fake-boot-s", "60", start_timeout_s=0.5)
        worker.load()
        await worker.wait({State.BACKOFF}, 15)
        failure = worker.view.failure
        assert failure is not None
        assert failure.cause == Cause.TIMED_OUT
        await worker.unload()

    play(scenario)


def test_a_missing_engine_program_fails_with_one_line(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = rig.worker(argv=("/no/such/vllm", "serve"))
        worker.load()
        await worker.wait({State.FAILED}, 10)
        failure = worker.view.failure
        assert failure is not None
        assert failure.cause == Cause.ENGINE_MISSING
        assert failure.line.startswith("cannot start /no/such/vllm: ")
        assert "\n" not in failure.line + failure.remedy
        assert not adoption.inspect(rig.launcher.directory("tiny-1")).shim

    play(scenario)


def test_what_cannot_be_prepared_fails_with_that_line(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        async def prepare() -> tuple[LaunchSpec, dict[str, str]]:
            raise InvalidInput("fleet.toml: models.tiny.env.HF_TOKEN: no such file secrets/x")

        worker = rig.worker(prepare=prepare)
        worker.load()
        await worker.wait({State.FAILED}, 5)
        failure = worker.view.failure
        assert failure is not None
        assert failure.line == "fleet.toml: models.tiny.env.HF_TOKEN: no such file secrets/x"

    play(scenario)


@pytest.mark.parametrize("short", [True, False])
def test_sockets_of_an_engine_lie_beside_its_log_where_their_path_is_short(
    play: Play, short: bool
) -> None:
    async def scenario(rig: Rig) -> None:
        with tempfile.TemporaryDirectory(prefix="s" if short else "s" * 60) as root:
            rig.launcher = LocalLauncher(Path(root))
            home = rig.launcher.directory("tiny-1") / "ipc"
            home.mkdir(parents=True)
            (home / "left-by-a-killed-engine").touch()
            worker = await rig.ready(rig.worker())
            text = rig.launcher.log_path("tiny-1").read_text()
            assert ("VLLM_RPC_BASE_PATH" in text) == short
            assert home.exists() == short
            assert not (home / "left-by-a-killed-engine").exists()
            await worker.unload()

    play(scenario)


def test_the_worker_gets_its_environment_and_no_file_holds_it(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker())
        (line,) = [
            text
            for text in logs.tail(rig.launcher.log_path("tiny-1"), 100)
            if "] environment " in text
        ]
        names = set(json.loads(line.partition("environment ")[2])) - {"VLLM_RPC_BASE_PATH"}
        assert names == {"HF_TOKEN", "LC_CTYPE", "PATH"}
        directory = rig.launcher.directory("tiny-1")
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        for path in filter(Path.is_file, directory.iterdir()):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
            assert b"hf_notinanyfile" not in path.read_bytes(), path.name
        await worker.unload()

    play(scenario)


def test_a_second_tree_of_one_worker_is_refused(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker())
        members = rig.identities(worker.tree())
        with pytest.raises(LaunchFailed, match=f"still runs \\(pid {members[0][0]}"):
            await rig.launcher.launch(rig.spec(), rig.environment)
        assert rig.left_of(members) == [pid for pid, _ in members]

    play(scenario)


def test_a_tree_without_its_shim_serves_on_and_can_be_ended(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker(stubborn=True))
        members = rig.identities(worker.tree())
        shim = rig.launcher.inspect("tiny-1").shim
        assert shim is not None
        os.kill(shim[0], signal.SIGKILL)
        await rig.until(lambda: rig.launcher.inspect("tiny-1").fate is Fate.SHIM_LOST)
        assert worker.state is State.READY
        (handle,) = await rig.again()
        worker = rig.worker()
        worker.adopt(handle)
        await worker.wait({State.READY}, 5)
        assert sorted(worker.tree()) == sorted(pid for pid, _ in members)
        await worker.unload()
        assert rig.left_of(members) == []

    play(scenario)


def test_starts_take_turns_at_the_gate(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        gate = asyncio.Semaphore(1)
        first = rig.worker(worker_id="a", gate=lambda: gate)
        second = rig.worker(worker_id="b", gate=lambda: gate)
        first.load()
        second.load()
        await first.wait({State.STARTING}, 5)
        assert second.state is State.QUEUED
        assert second.view.reason is not None
        await first.wait({State.READY}, 15)
        await second.wait({State.READY}, 15)
        assert not gate.locked()
        await asyncio.gather(first.unload(), second.unload())

    play(scenario)


def test_trimming_the_log_loses_no_line(play: Play) -> None:
    lines, keep = 150_000, 4 << 20

    async def scenario(rig: Rig) -> None:
        worker = rig.worker("--fake-chatter", str(lines), log_keep_bytes=keep)
        worker.load()
        await rig.until(lambda: rig.launcher.inspect("tiny-1").fate is Fate.ADOPTED)
        seen = rig.launcher.inspect("tiny-1")
        assert seen.shim is not None
        expected, rest = 0, b""
        async for chunk in logs.follow(rig.launcher.log_path("tiny-1"), 0, interval_s=0.005):
            *whole, rest = (rest + chunk.data).split(b"\n")
            for line in whole:
                if line.startswith(b"line "):
                    assert int(line[5:13]) == expected
                    expected += 1
            if len(chunk.data) < logs.CHUNK:
                os.kill(seen.shim[0], signal.SIGCHLD)
            if expected == lines:
                break
        log = rig.launcher.log_path("tiny-1").stat()
        assert log.st_size > lines * 110
        assert log.st_blocks * 512 < 3 * keep
        newest = logs.tail(rig.launcher.log_path("tiny-1"), 1_000)
        numbers = [int(line[5:13]) for line in newest if line.startswith("line ")]
        assert numbers == list(range(numbers[0], lines))
        await worker.wait({State.READY}, 15)
        await worker.unload()

    play(scenario)


def test_a_closed_worker_runs_on(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker())
        members = rig.identities(worker.tree())
        await worker.close()
        assert len(rig.left_of(members)) == 3

    play(scenario)
