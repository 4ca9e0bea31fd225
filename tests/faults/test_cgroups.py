"""Each worker's cgroup: against the kernel where it lets us, against files everywhere."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vllm_console.launchers.local import LocalHandle, LocalLauncher
from vllm_console.workers import adoption, shim
from vllm_console.workers.adoption import Fate
from vllm_console.workers.shim import cgroup_kill, cgroup_members, cgroup_name, own_cgroup

if TYPE_CHECKING:
    from tests.faults.conftest import Rig

    Play = Callable[[Callable[[Rig], Coroutine[Any, Any, None]]], None]

UNIFIED = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
HYBRID = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "34 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n"
)
INSIDE = "31 23 0:28 /docker/c1 /my\\040cgroup rw - cgroup2 cgroup2 rw\n"


@pytest.mark.parametrize(
    ("mounts", "path", "directory"),
    [
        (UNIFIED, "0::/user.slice/a.scope", "/sys/fs/cgroup/user.slice/a.scope"),
        (UNIFIED, "0::/", "/sys/fs/cgroup"),
        (HYBRID, "4:memory:/x\n0::/y", "/sys/fs/cgroup/unified/y"),
        (INSIDE, "0::/docker/c1/z", "/my cgroup/z"),
        (INSIDE, "0::/docker/c2", None),
        (UNIFIED, "0::/../other", None),
        (UNIFIED, "4:memory:/x", None),
        ("", "0::/", None),
    ],
)
def test_the_own_cgroup_is_where_it_is_mounted(
    tmp_path: Path, mounts: str, path: str, directory: str | None
) -> None:
    (tmp_path / "mountinfo").write_text(mounts)
    (tmp_path / "cgroup").write_text(f"{path}\n")
    assert own_cgroup(str(tmp_path)) == directory
    assert own_cgroup(str(tmp_path / "none")) is None


def test_a_fake_cgroup_is_read_and_killed_by_its_files(tmp_path: Path) -> None:
    assert cgroup_members(str(tmp_path)) == []
    assert not cgroup_kill(str(tmp_path)), "before Linux 5.14 there is no cgroup.kill"
    (tmp_path / "cgroup.procs").write_text("7\n0\n99\n")
    (tmp_path / "cgroup.kill").write_text("")
    assert cgroup_members(str(tmp_path)) == [7, 99]
    assert cgroup_kill(str(tmp_path))
    assert (tmp_path / "cgroup.kill").read_text() == "1"


def test_only_a_cgroup_named_after_the_directory_is_its_own(tmp_path: Path) -> None:
    own = f"/sys/fs/cgroup/{cgroup_name(str(tmp_path), 3)}"
    record = adoption.Record(1, 1, shim.boot_id(), 3, 0.0, 0, cgroup=own)
    assert adoption.cgroup_of(tmp_path, record) == own
    assert adoption.cgroup_of(tmp_path, replace(record, generation=4)) is None
    assert adoption.cgroup_of(tmp_path, replace(record, boot="of yesterday")) is None
    assert adoption.cgroup_of(tmp_path, replace(record, cgroup="/sys/fs/cgroup")) is None
    assert adoption.cgroup_of(tmp_path.parent, record) is None


@pytest.fixture
def delegated(tmp_path: Path) -> Iterator[Path | None]:
    """A cgroup for the shims of one test, where we may make one; `None` elsewhere."""
    made = Path(own_cgroup() or tmp_path / "nowhere") / f"vllm-console-test-{os.getpid()}"
    try:
        made.mkdir()
    except OSError:
        yield None
        return
    yield made
    for leaf in leaves(made):
        leaf.rmdir()
    made.rmdir()


def leaves(cgroup: Path | None) -> list[Path]:
    """The cgroups of workers below that one."""
    return list(cgroup.glob("vllm-worker-*")) if cgroup else []


def launcher_in(root: Path, cgroup: Path | None, tmp_path: Path) -> LocalLauncher:
    """A launcher whose shims are in that cgroup."""
    program = tmp_path / "python"
    join = f'echo 0 > "{cgroup}/cgroup.procs"\n' if cgroup else ""
    program.write_text(f'#!/bin/sh\n{join}exec "{sys.executable}" "$@"\n')
    program.chmod(0o755)
    return LocalLauncher(root, python=str(program))


async def without_shim(rig: Rig) -> tuple[LocalHandle, list[tuple[int, int]]]:
    """A stubborn tree whose shim was killed and whose main process too; what is left of it."""
    worker = await rig.ready(rig.worker(stubborn=True))
    members = rig.identities(worker.tree())
    holder = rig.launcher.inspect("tiny-1").shim
    assert holder is not None
    await worker.close()
    for pid in (holder[0], members[0][0]):
        os.kill(pid, signal.SIGKILL)
    await rig.until(lambda: rig.left_of([holder, members[0]]) == [])
    assert len(rig.left_of(members)) == 2
    (found,) = await rig.again()
    return found, members


def test_what_a_killed_shim_leaves_is_killed_by_its_cgroup_where_there_is_one(
    play: Play, delegated: Path | None, tmp_path: Path
) -> None:
    async def scenario(rig: Rig) -> None:
        rig.launcher = launcher_in(rig.root, delegated, tmp_path)
        found, members = await without_shim(rig)
        cgroup = found.record.cgroup
        if delegated is None:
            found.kill()
        else:
            assert cgroup == f"{delegated}/{cgroup_name(str(found.directory), 1)}"
            assert sorted(cgroup_members(cgroup)) == sorted(rig.left_of(members))
            assert cgroup_kill(cgroup)
        await rig.until(lambda: rig.left_of(members) == [])
        assert (await found.gone()).rc is None
        assert leaves(delegated) == []
        assert rig.launcher.inspect("tiny-1").fate is Fate.EXITED

    play(scenario)


def test_without_a_cgroup_the_same_tree_is_found_by_its_log(
    play: Play, delegated: Path | None, tmp_path: Path
) -> None:
    if delegated is not None:
        (delegated / "cgroup.max.descendants").write_text("0")

    async def scenario(rig: Rig) -> None:
        rig.launcher = launcher_in(rig.root, delegated, tmp_path)
        found, members = await without_shim(rig)
        assert delegated is None or found.record.cgroup is None
        bare = LocalHandle(found.directory, found.spec, replace(found.record, cgroup=None), None)
        assert sorted(bare.tree()) == sorted(rig.left_of(members))
        bare.kill()
        await rig.until(lambda: rig.left_of(members) == [])
        await found.gone()

    play(scenario)


def test_a_worker_that_ends_takes_its_cgroup_with_it(
    play: Play, delegated: Path | None, tmp_path: Path
) -> None:
    async def scenario(rig: Rig) -> None:
        rig.launcher = launcher_in(rig.root, delegated, tmp_path)
        worker = await rig.ready(rig.worker(stubborn=True))
        members = rig.identities(worker.tree())
        assert len(leaves(delegated)) == (delegated is not None)
        await worker.unload()
        assert rig.left_of(members) == []
        assert leaves(delegated) == []

    play(scenario)
