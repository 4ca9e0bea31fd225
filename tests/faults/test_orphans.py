"""Orphans made on purpose of fake trees: found, named, ended on request; strangers live."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.conftest import Rig, Scenario
from tests.faults.fake_engine import FAKE
from vllm_console.control.orphans import find
from vllm_console.devices.nvml import NvmlReading
from vllm_console.launchers.reaping import Outcome, reap
from vllm_console.workers.orphans import Kind, Orphan
from vllm_console.workers.shim import descendants, process
from vllm_console.workers.sockets import free_port
from vllm_console.workers.worker import Worker

Play = Callable[[Scenario], None]
Member = tuple[int, int]


def look_of(root: Path) -> Callable[[], Mapping[int, Orphan]]:
    """Every orphan of the workers under `root`; other tests have trees of their own."""

    def look() -> Mapping[int, Orphan]:
        found = [named.orphan for named in find(None, NvmlReading(), asker=os.getpid())]
        return {o.pid: o for o in found if o.directory is not None and o.directory.parent == root}

    return look


async def abandoned(rig: Rig, worker: Worker) -> list[Member]:
    """The worker's tree, shim first, once its daemon is gone."""
    await rig.ready(worker)
    shim = rig.launcher.inspect(worker.id).shim
    assert shim is not None
    members = rig.identities([shim[0], *descendants(shim[0])])
    await worker.close()
    rig.workers.clear()
    return members


def test_what_a_worker_leaves_that_lost_shim_and_server_is_found_and_ended(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        members = await abandoned(rig, rig.worker(stubborn=True))
        look = look_of(rig.root)
        shim, main = members[0][0], members[1][0]
        os.kill(shim, signal.SIGKILL)
        os.kill(main, signal.SIGKILL)
        await rig.until(lambda: len(rig.left_of(members)) == 2)
        [orphan] = look().values()
        assert (orphan.kind, orphan.title) == (Kind.LOST, "VLLM::EngineCor")
        assert sorted(pid for pid, _ in orphan.tree) == sorted(rig.left_of(members))
        assert reap([orphan], look, grace_s=0.2) == {orphan.pid: Outcome.KILLED}
        assert rig.left_of(members) == []
        assert look() == {}

    play(scenario)


def test_a_tree_whose_directory_was_removed_is_ended_through_its_shim(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        members = await abandoned(rig, rig.worker())
        look = look_of(rig.root)
        assert [o.kind for o in look().values()] == [Kind.UNATTENDED]
        shutil.rmtree(rig.root)
        [orphan] = look().values()
        assert (orphan.pid, orphan.kind) == (members[0][0], Kind.LOST)
        assert {pid for pid, _ in orphan.tree} == {pid for pid, _ in members}
        assert reap([orphan], look, grace_s=15.0) == {orphan.pid: Outcome.ENDED}
        assert rig.left_of(members) == []

    play(scenario)


def test_a_stubborn_tree_without_directory_is_killed_to_the_last_process(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        members = await abandoned(rig, rig.worker(stubborn=True))
        shutil.rmtree(rig.root)
        look = look_of(rig.root)
        [orphan] = look().values()
        assert reap([orphan], look, grace_s=0.1) == {orphan.pid: Outcome.KILLED}
        assert rig.left_of(members) == []

    play(scenario)


def test_a_worker_that_a_daemon_can_adopt_is_named_and_never_signalled(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        members = await abandoned(rig, rig.worker())
        look = look_of(rig.root)
        [orphan] = look().values()
        assert orphan.kind is Kind.UNATTENDED
        assert orphan.pid == members[1][0]
        assert reap([orphan], look) == {orphan.pid: Outcome.CHANGED}
        forged = replace(orphan, kind=Kind.LOST)
        assert reap([forged], look) == {orphan.pid: Outcome.CHANGED}
        assert len(rig.left_of(members)) == len(members)

    play(scenario)


def test_a_daemon_that_still_watches_a_tree_shields_it_whatever_happened_to_its_files(
    play: Play,
) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker())
        kept = rig.root.with_name("kept")
        shutil.copytree(rig.root, kept)
        shutil.rmtree(rig.root)
        found = [named.orphan for named in find(None, NvmlReading())]  # our own pidfds count
        assert [
            o for o in found if o.directory is not None and o.directory.parent == rig.root
        ] == []
        rig.root.mkdir()
        await worker.unload()

    play(scenario)


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[list[Member]]:
    """Engine and worker processes of a fake server that no console started, its server killed."""
    script = tmp_path / "vllm"
    shutil.copy(FAKE, script)
    argv = [sys.executable, "-I", str(script), "serve", "m", "--served-model-name", "m"]
    with subprocess.Popen(
        [*argv, "--port", str(free_port())], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as server:
        assert server.stdout is not None
        assert any(b"startup complete" in line for line in server.stdout)
        left = Rig.identities(descendants(server.pid))
        server.kill()
    yield left
    for pid in Rig.left_of(left):
        os.kill(pid, signal.SIGKILL)


def test_an_engine_of_somebody_else_whose_server_died_is_named_with_its_memory_and_ended(
    foreign: list[Member],
) -> None:
    pids = [pid for pid, _ in foreign]
    reading = NvmlReading(processes={pids[0]: {0: 3 << 30}})

    def look() -> dict[int, Orphan]:
        found = [named.orphan for named in find(None, reading, asker=os.getpid())]
        return {orphan.pid: orphan for orphan in found if orphan.pid in pids}

    [named] = [n for n in find(None, reading) if n.orphan.pid == pids[0]]
    assert named.orphan.kind is Kind.FOREIGN
    assert named.gpu_bytes == 3 << 30
    assert named.line.startswith("VLLM::EngineCor since 20")
    assert named.line.endswith("3.0 GiB on GPUs: its server is gone")
    assert str(pids[0]) in named.alert.subject
    outcomes = reap(list(look().values()), look, grace_s=0.2)
    assert set(outcomes.values()) <= {Outcome.ENDED, Outcome.KILLED, Outcome.GONE}
    assert Rig.left_of(foreign) == []


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with any of this."""
    with subprocess.Popen(["sleep", "600"]) as running:
        yield running
        running.kill()


def orphan_at(pid: int, start: int) -> Orphan:
    return Orphan(pid, start, Kind.FOREIGN, "VLLM::EngineCore", "its server is gone", os.getuid(),
                  tree=((pid, start),))  # fmt: skip


def test_a_pid_that_became_another_process_between_list_and_signal_is_let_alone(
    stranger: subprocess.Popen[bytes],
) -> None:
    seen = process(stranger.pid)
    assert seen is not None
    listed = orphan_at(stranger.pid, seen[0] - 1)
    now = orphan_at(stranger.pid, seen[0])
    for look in (lambda: {}, lambda: {stranger.pid: now}, look_of(Path("/nowhere"))):
        assert reap([listed], look, grace_s=0.1) == {stranger.pid: Outcome.CHANGED}
        assert stranger.poll() is None
    other_reason = replace(now, why="holds GPU memory")
    assert reap([now], lambda: {stranger.pid: other_reason}) == {stranger.pid: Outcome.CHANGED}
    assert stranger.poll() is None
    assert reap([now], lambda: {stranger.pid: now}) == {stranger.pid: Outcome.ENDED}
    assert stranger.wait(5) == -signal.SIGTERM


def test_a_member_of_a_tree_whose_pid_is_anothers_by_now_is_not_killed(
    stranger: subprocess.Popen[bytes],
) -> None:
    with subprocess.Popen(["sleep", "600"]) as head:
        first, other = process(head.pid), process(stranger.pid)
        assert first is not None
        assert other is not None
        tree = ((head.pid, first[0]), (stranger.pid, other[0] - 1))
        orphan = replace(orphan_at(head.pid, first[0]), tree=tree)
        assert reap([orphan], lambda: {head.pid: orphan}) == {head.pid: Outcome.ENDED}
        assert head.wait(5) == -signal.SIGTERM
    assert stranger.poll() is None


def test_one_that_ended_by_itself_is_told_so() -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait(5)
    assert reap([orphan_at(ended.pid, 1)], dict) == {ended.pid: Outcome.GONE}
