"""A state.json that names a stranger, or nobody: the kernel knows better, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from tests.faults.test_trees import pausing
from vllm_console.workers.adoption import Fate
from vllm_console.workers.shim import process
from vllm_console.workers.states import State

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.conftest import Rig

    Play = Callable[[Callable[[Rig], Coroutine[Any, Any, None]]], None]


def forge(directory: Path, pid: int) -> None:
    """Let state.json name this process, with everything else as it was."""
    path = directory / "state.json"
    seen = process(pid)
    assert seen is not None
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "pid": pid, "start": seen[0]}))


def test_a_state_forged_while_the_worker_runs_does_not_lose_it(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker())
        pid = worker.view.pid
        stranger = pausing()
        try:
            forge(rig.launcher.directory("tiny-1"), stranger.pid)
            (handle,) = await rig.again()
            assert handle.pid == pid
            worker = rig.worker()
            worker.adopt(handle)
            await worker.wait({State.READY}, 15)
            await worker.unload()
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()

    play(scenario)


def test_a_tree_with_neither_shim_nor_state_is_ended_and_started_anew(play: Play) -> None:
    async def scenario(rig: Rig) -> None:
        worker = await rig.ready(rig.worker(stubborn=True))
        members = rig.identities(worker.tree())
        await worker.close()
        shim = rig.launcher.inspect("tiny-1").shim
        assert shim is not None
        rig.launcher.directory("tiny-1").joinpath("state.json").write_text('{"pid": 1')
        os.kill(shim[0], signal.SIGKILL)
        await rig.until(lambda: rig.left_of([shim]) == [])
        assert rig.launcher.inspect("tiny-1").fate is Fate.SHIM_LOST
        (handle,) = await rig.again()
        worker = rig.worker()
        worker.adopt(handle)
        await worker.wait({State.READY}, 15)
        assert rig.left_of(members) == []
        await worker.unload()
        assert rig.launcher.inspect("tiny-1").fate is Fate.EXITED

    play(scenario)
