"""Shims started through a fake systemd-run: in its scope while it works, without it when not."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vllm_console.launchers.local import LocalLauncher
from vllm_console.launchers.scope import Scopes
from vllm_console.workers.states import State

if TYPE_CHECKING:
    from tests.faults.conftest import Rig

    Play = Callable[[Callable[[Rig], Coroutine[Any, Any, None]]], None]

FAKE = """#!/bin/sh
echo "$*" >> "{log}"
case "$*" in *description*) {launches} ;; esac
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""


def scopes(root: Path, launches: str) -> Scopes:
    """Scopes by a fake systemd-run that does this when it is to launch a worker."""
    manager = root / "manager"
    (manager / "systemd").mkdir(parents=True)
    (manager / "systemd" / "private").touch()
    program = manager / "systemd-run"
    program.write_text(FAKE.format(log=manager / "asked", launches=launches))
    program.chmod(0o755)
    return Scopes({"PATH": str(manager), "XDG_RUNTIME_DIR": str(manager)}, root=False)


@pytest.mark.parametrize(("launches", "calls"), [(":", 3), ("echo no bus; exit 1", 2)])
def test_a_worker_starts_in_a_scope_or_without_one(
    play: Play, tmp_path: Path, launches: str, calls: int
) -> None:
    async def scenario(rig: Rig) -> None:
        rig.launcher = LocalLauncher(rig.root, scopes=scopes(tmp_path, launches))
        worker = await rig.ready(rig.worker())
        log = rig.launcher.log_path("tiny-1").read_text()
        assert "XDG_RUNTIME_DIR" not in log, "the environment of the worker is its own"
        members = rig.identities(worker.tree())
        await worker.restart()
        await worker.wait({State.READY}, 15)
        assert rig.left_of(members) == []
        await worker.unload()
        asked = (tmp_path / "manager" / "asked").read_text()
        assert len(asked.splitlines()) == calls
        assert "hf_notinanyfile" not in asked

    play(scenario)
