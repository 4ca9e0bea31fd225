"""Disasters between two daemons, over real shims and fake trees: what is found, and what lives."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vllm_console.errors import ConsoleError
from vllm_console.launchers.local import LocalHandle, LocalLauncher
from vllm_console.workers import adoption, shim
from vllm_console.workers.adoption import Fate
from vllm_console.workers.launch import LaunchFailed
from vllm_console.workers.shim import boot_id, process
from vllm_console.workers.states import State
from vllm_console.workers.worker import Worker

if TYPE_CHECKING:
    from tests.faults.conftest import Rig

    Play = Callable[[Callable[[Rig], Coroutine[Any, Any, None]]], None]

OLD_SHIM = Path(__file__).with_name("old_shim.py")
FILES = ["state.json", "spec.json", "served.json", "exit.json", "shim.lock", "out.log"]


def shim_of(rig: Rig) -> tuple[int, int]:
    """(pid, start time) of the shim of the rig's worker."""
    seen = rig.launcher.inspect("tiny-1").shim
    assert seen is not None
    return seen


def second_shim(directory: Path) -> str:
    """What a shim says that is started beside the one there is."""
    argv = [sys.executable, "-I", "-S", shim.__file__, str(directory)]
    said = subprocess.run(argv, capture_output=True, check=False, timeout=15).stdout
    return str(json.loads(said)["error"])


@contextmanager
def stranger() -> Iterator[tuple[int, int]]:
    """(pid, start time) of a process that is none of ours, and is to live."""
    with subprocess.Popen(["sleep", "600"]) as sleeping:
        try:
            seen = process(sleeping.pid)
            assert seen is not None
            yield sleeping.pid, seen[0]
            assert sleeping.poll() is None
        finally:
            sleeping.kill()


async def kill_shim(rig: Rig) -> None:
    """SIGKILL the shim of the rig's worker and see it gone."""
    pid, start = shim_of(rig)
    os.kill(pid, signal.SIGKILL)
    await rig.until(lambda: rig.left_of([(pid, start)]) == [])


async def adopted(rig: Rig) -> Worker:
    """The only tree that the next daemon finds, taken over and ready."""
    (found,) = await rig.again()
    worker = rig.worker()
    worker.adopt(found)
    await worker.wait({State.READY}, 15)
    return worker


@pytest.mark.parametrize("damage", ["removed", "emptied", "garbage", "list", "directory", "fifo"])
@pytest.mark.parametrize("name", FILES)
def test_a_tree_is_adopted_and_ended_whatever_happened_to_one_of_its_files(
    play: Play, name: str, damage: str
) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker())
        members = rig.identities(worker.tree())
        path = rig.launcher.directory("tiny-1") / name
        if damage in ("removed", "directory", "fifo"):
            path.unlink(missing_ok=True)
        match damage:
            case "emptied":
                path.write_text("")
            case "garbage":
                path.write_bytes(b"\xff\x00{[" * 99)
            case "list":
                path.write_text('[{"pid": 1}]')
            case "directory":
                path.mkdir()
            case "fifo":
                os.mkfifo(path)
        worker = await adopted(rig)
        assert rig.identities(worker.tree()) == members
        assert (worker.model, worker.view.pid) == ("tiny", members[0][0])
        await worker.unload()
        assert rig.left_of(members) == []
        await rig.ready(worker)

    play(scenario)


def test_a_tree_whose_whole_directory_was_removed_is_found_by_its_shim(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker())
        members = rig.identities(worker.tree())
        spec = worker.spec
        shutil.rmtree(rig.launcher.directory("tiny-1"))
        assert LocalLauncher(rig.root).running() == ["tiny-1"]
        assert spec is not None
        with pytest.raises(LaunchFailed, match="tiny-1 still runs"):
            await rig.launcher.launch(rig.spec(), rig.environment)
        worker = await adopted(rig)
        assert worker.spec is not None
        assert (worker.spec.port, worker.spec.model) == (spec.port, "tiny")
        await worker.unload()
        assert rig.left_of(members) == []

    play(scenario)


def test_a_second_shim_refuses_a_directory_whose_lock_was_replaced(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker())
        members = rig.identities(worker.tree())
        directory = rig.launcher.directory("tiny-1")
        (directory / "shim.lock").unlink()
        (directory / "shim.lock").write_text("{}")
        assert "another shim already runs this worker" in second_shim(directory)
        assert adoption.inspect(directory).fate is Fate.ADOPTED
        worker = await adopted(rig)
        assert rig.identities(worker.tree()) == members
        await worker.unload()
        assert rig.left_of(members) == []

    play(scenario)


def test_a_tree_of_an_older_shim_is_adopted_served_and_stopped(play: Play, tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{OLD_SHIM}" "$4"\n')
    program.chmod(0o755)

    async def scenario(rig: Rig) -> None:
        rig.launcher = LocalLauncher(rig.root, python=str(program))
        worker = await rig.ready(rig.worker())
        members = rig.identities(worker.tree())
        state = rig.launcher.directory("tiny-1") / "state.json"
        assert "cgroup" not in json.loads(state.read_text())
        worker = await adopted(rig)
        assert rig.identities(worker.tree()) == members
        await worker.unload()
        assert rig.left_of(members) == []
        ended = rig.launcher.inspect("tiny-1").exit
        assert ended is not None
        assert ended.asked

    play(scenario)


def test_files_of_a_newer_version_are_understood_as_far_as_they_go(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker())
        members = rig.identities(worker.tree())
        directory = rig.launcher.directory("tiny-1")
        for name in ("state.json", "spec.json", "served.json", "shim.lock"):
            content = json.loads((directory / name).read_text())
            (directory / name).write_text(json.dumps({**content, "colour": {"of": ["x"]}}))
        times = directory.parent / "start-times.json"
        times.write_text(json.dumps({**json.loads(times.read_text()), "schema": 7, "b": {"1": 2}}))
        worker = await adopted(rig)
        assert worker.spec is not None
        assert (worker.spec.model, worker.spec.revision) == ("tiny", 1)
        assert worker.engine.version == "0.32.0"
        assert worker.view.expected_s is not None
        await worker.unload()
        assert rig.left_of(members) == []

    play(scenario)


def test_after_a_reboot_nobody_is_signalled_and_the_next_start_is_clean(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker())
        members = rig.identities(worker.tree())
        await kill_all(rig, members)
        with stranger() as (pid, start):
            state = rig.launcher.directory("tiny-1") / "state.json"
            before = json.loads(state.read_text())
            forged = {"pid": pid, "start": start, "boot": "of yesterday"}
            state.write_text(json.dumps({**before, **forged}))
            assert await rig.again() == []
            (loss,) = rig.launcher.losses()
            assert (loss.worker_id, loss.exit, loss.rebooted) == ("tiny-1", None, True)
            assert not state.exists()
            assert rig.launcher.losses() == []
            worker = await rig.ready(rig.worker())
            await worker.unload()

    play(scenario)


async def kill_all(rig: Rig, members: list[tuple[int, int]]) -> None:
    """As a power cut: shim and tree at once; a handle on the tree is not asked."""
    lost = [shim_of(rig), *members]
    for worker in rig.workers:
        await worker.close()
    for pid, _ in lost:
        os.kill(pid, signal.SIGKILL)
    await rig.until(lambda: rig.left_of(lost) == [])


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_recorded_pid_that_is_a_strangers_now_is_never_signalled(play: Play, how: str) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker())
        members = rig.identities(worker.tree())
        await kill_all(rig, members)
        with stranger() as (pid, start):
            directory = rig.launcher.directory("tiny-1")
            state = directory / "state.json"
            before = json.loads(state.read_text())
            forged = {**before, "pid": pid, "start": start, "boot": boot_id()}
            state.write_text(json.dumps(forged))
            assert await rig.again() == []
            assert rig.launcher.running() == []
            record = adoption.Record(pid, start, boot_id(), 1, 0.0, 0, False, "/")
            handle = LocalHandle(directory, rig.spec(), record, None)
            handle.stop() if how == "stop" else handle.kill()
            assert handle.tree() == []
            assert (await handle.gone()).rc is None

    play(scenario)


@pytest.mark.parametrize("main_dies", [False, True])
def test_a_tree_that_lost_its_shim_is_found_and_ended_whole(play: Play, main_dies: bool) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker(stubborn=True))
        members = rig.identities(worker.tree())
        assert len(members) == 3
        for actor in rig.workers:
            await actor.close()
        await kill_shim(rig)
        if main_dies:
            os.kill(members[0][0], signal.SIGKILL)
            await rig.until(lambda: rig.left_of(members[:1]) == [])
        (found,) = await rig.again()
        assert rig.launcher.inspect("tiny-1").fate is Fate.SHIM_LOST
        assert set(found.tree()) == set(rig.left_of(members))
        worker = rig.worker()
        worker.adopt(found)
        await worker.unload()
        assert rig.left_of(members) == []
        assert shim.cgroup_members(found.record.cgroup or "") == []

    play(scenario)


def test_a_shim_killed_while_it_cleans_up_leaves_nothing_for_ever(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker(stubborn=True))
        members = rig.identities(worker.tree())
        for actor in rig.workers:
            await actor.close()
        directory = rig.launcher.directory("tiny-1")
        holder = shim_of(rig)
        os.kill(members[0][0], signal.SIGKILL)
        await rig.until(lambda: (directory / "exit.json").exists())
        os.kill(holder[0], signal.SIGKILL)
        await rig.until(lambda: rig.left_of([holder]) == [])
        (found,) = await rig.again()
        assert (found.alive(), len(found.tree())) == (False, 2)
        ended = await found.gone()
        assert (ended.rc, ended.asked) == (-9, False)
        assert rig.left_of(members) == []

    play(scenario)


def test_an_end_while_no_daemon_ran_is_told_once_with_its_exit_code(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker())
        members = [*rig.identities(worker.tree()), shim_of(rig)]
        for actor in rig.workers:
            await actor.close()
        os.kill(members[0][0], signal.SIGKILL)
        await rig.until(lambda: rig.left_of(members) == [])
        assert await rig.again() == []
        (loss,) = rig.launcher.losses()
        assert loss.exit is not None
        assert (loss.worker_id, loss.exit.rc, loss.rebooted) == ("tiny-1", -9, False)
        assert rig.launcher.losses() == []

    play(scenario)


def test_an_end_that_a_daemon_saw_is_not_told_by_the_next(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker())
        os.kill(worker.tree()[0], signal.SIGKILL)
        await worker.wait({State.BACKOFF}, 15)
        await rig.again()
        assert rig.launcher.losses() == []

    play(scenario)


@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0, 1e9])
def test_a_clock_that_was_changed_between_two_daemons_moves_no_elapsed_time(
    play: Play, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker())
        before = worker.view.elapsed_s
        assert before is not None
        wall = time.time
        monkeypatch.setattr(time, "time", lambda: wall() + jump_s)
        (found,) = await rig.again()
        assert 0.0 <= found.age_s < 60.0
        worker = rig.worker()
        worker.adopt(found)
        await worker.wait({State.READY}, 15)
        view = worker.view
        assert view.elapsed_s is not None
        assert before <= view.elapsed_s <= found.age_s
        assert view.restarts == 0
        await worker.unload()

    play(scenario)


def test_a_start_that_is_found_done_teaches_no_start_time(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.ready(rig.worker())
        directory = rig.launcher.directory("tiny-1")
        (directory / "served.json").unlink()
        times = (directory.parent / "start-times.json").read_text()
        worker = await adopted(rig)
        assert (directory.parent / "start-times.json").read_text() == times
        assert json.loads((directory / "served.json").read_text())["took_s"] is None
        worker = await adopted(rig)
        assert worker.engine.version == "0.32.0"
        await worker.unload()

    play(scenario)


def test_a_state_directory_that_cannot_be_read_stops_the_daemon_with_one_line(
    tmp_path: Path,
) -> None:
    root = tmp_path / "workers"
    root.write_text("")
    with pytest.raises(ConsoleError, match="workers: cannot be read"):
        LocalLauncher(root).running()


def test_a_copy_of_a_state_directory_owns_nothing(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker())
        members = rig.identities(worker.tree())
        copy = rig.root.with_name("copy")
        shutil.copytree(rig.root, copy)
        other = LocalLauncher(copy)
        assert (await other.adopt(), other.running()) == ([], [])
        seen = other.inspect("tiny-1")
        assert seen.record is not None
        handle = LocalHandle(copy / "tiny-1", rig.spec(), seen.record, None)
        handle.kill()
        assert rig.left_of(members) == [pid for pid, _ in members]
        await worker.unload()

    play(scenario)
