"""The local launcher's own files: names, start times, damaged specs, tidying up."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vllm_console.errors import InvalidInput
from vllm_console.launchers.local import LocalHandle, LocalLauncher
from vllm_console.snapshot import Engine
from vllm_console.workers.adoption import Fate, Record
from vllm_console.workers.launch import LaunchFailed, LaunchSpec, Served
from vllm_console.workers.states import State

if TYPE_CHECKING:
    from tests.faults.conftest import Rig

    Play = Callable[[Callable[[Rig], Coroutine[Any, Any, None]]], None]


def handle(root: Path, revision: int, generation: int = 1) -> LocalHandle:
    """A handle on a tree that is not there."""
    directory = root / "tiny-1"
    directory.mkdir(exist_ok=True)
    spec = LaunchSpec("tiny-1", "tiny", revision, ("vllm",), 1, ("tiny",))
    return LocalHandle(directory, spec, Record(1, 0, "", generation, 0.0, 0), None)


@pytest.mark.parametrize("worker_id", ["", "..", "a/b", ".hidden", "a b", "-x", "x" * 129])
def test_an_id_that_is_no_file_name_is_refused(tmp_path: Path, worker_id: str) -> None:
    with pytest.raises(InvalidInput, match="worker"):
        LocalLauncher(tmp_path).directory(worker_id)


def test_the_expected_time_is_the_median_of_this_revision_or_of_the_newest(tmp_path: Path) -> None:
    launcher = LocalLauncher(tmp_path)
    assert launcher.expected_s("tiny", 1) is None
    for revision, took_s in ((1, 100.0), (1, 99.0), (2, 50.0), (1, 10.0), (1, 20.0), (1, 12.0)):
        handle(tmp_path, revision).mark_served(Served(0.0, took_s, Engine()))
    assert launcher.expected_s("tiny", 1) == 20.0
    assert launcher.expected_s("tiny", 2) == 50.0
    assert launcher.expected_s("tiny", 3) == 20.0
    assert launcher.expected_s("other", 1) is None


def test_facts_of_another_start_are_not_taken_over(tmp_path: Path) -> None:
    handle(tmp_path, 1).mark_served(Served(5.0, 2.0, Engine(version="0.32.0")))
    served = handle(tmp_path, 1).served
    assert served == Served(5.0, 2.0, Engine(version="0.32.0"))
    assert handle(tmp_path, 1, generation=2).served is None


def test_a_root_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    launcher = LocalLauncher(tmp_path / "none")
    assert launcher.running() == []
    assert asyncio.run(launcher.adopt()) == []


def test_a_tree_whose_spec_is_damaged_can_still_be_ended(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker())
        members = rig.identities(worker.tree())
        (rig.launcher.directory("tiny-1") / "spec.json").write_text("{")
        (found,) = await rig.again()
        worker = rig.worker()
        worker.adopt(found)
        assert worker.state is State.STARTING
        await worker.unload()
        assert rig.left_of(members) == []

    play(scenario)


def test_only_what_does_not_run_is_forgotten(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker())
        directory = rig.launcher.directory("tiny-1")
        rig.launcher.forget("tiny-1")
        assert (directory / "state.json").exists()
        await worker.unload()
        rig.launcher.forget("tiny-1")
        assert not directory.exists()

    play(scenario)


KILLS_ITS_SHIM = """#!{python}
import json, os, signal, subprocess, sys
subprocess.run([{python!r}, *sys.argv[1:]], stdout=subprocess.PIPE, check=True)
with open(os.path.join(sys.argv[-1], "shim.lock")) as lock:
    os.kill(json.load(lock)["pid"], signal.SIGKILL)
"""


def test_a_shim_that_is_killed_before_it_answers_leaves_nothing_behind(
    play: Play, tmp_path: Path
) -> None:
    program = tmp_path / "python"
    program.write_text(KILLS_ITS_SHIM.format(python=sys.executable))
    program.chmod(0o755)

    async def scenario(rig: Rig) -> None:
        deadly = LocalLauncher(rig.root, python=str(program))
        with pytest.raises(LaunchFailed, match="the shim of tiny-1 ended"):
            await deadly.launch(rig.spec(), rig.environment)
        assert deadly.running() == []
        await rig.ready(rig.worker())

    play(scenario)


def test_a_tree_without_its_shim_that_nobody_has_is_ended_before_the_next_start(
    play: Play,
) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker(stubborn=True))
        members = rig.identities(worker.tree())
        await worker.close()
        shim = rig.launcher.inspect("tiny-1").shim
        assert shim is not None
        os.kill(shim[0], signal.SIGKILL)
        await rig.until(lambda: rig.launcher.inspect("tiny-1").fate is Fate.SHIM_LOST)
        await rig.ready(rig.worker())
        assert rig.left_of(members) == []

    play(scenario)
