"""Which process is an orphan, over a /proc made by hand: by what it holds, not by what it says."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from vllm_console.workers.adoption import Fate, Inspection, Record
from vllm_console.workers.orphans import Kind, Orphan, orphans
from vllm_console.workers.strangers import SHIM, Process

SERVE = ("/venv/bin/python", "/venv/bin/vllm", "serve", "m")
ENGINE = "VLLM::EngineCor"
NEW = Inspection(Fate.NEW)
GONE = " (deleted)"


@dataclass
class FakeProc:
    """A table of processes and a fake /proc with the links that are looked at."""

    root: Path
    table: dict[int, Process] = field(default_factory=dict)
    fates: dict[Path, Inspection] = field(default_factory=dict)
    daemons: set[Path] = field(default_factory=set)

    def add(
        self,
        pid: int,
        parent: int,
        name: str,
        argv: tuple[str, ...] = (),
        *,
        exe: str = "/usr/bin/python3.12",
        files: tuple[str, ...] = (),
    ) -> None:
        """A process that started at tick `pid` * 10; `files` are its open files from 0 on."""
        self.table[pid] = Process(pid, parent, name, argv, pid * 10)
        (self.root / str(pid) / "fd").mkdir(parents=True)
        (self.root / str(pid) / "fdinfo").mkdir()
        (self.root / str(pid) / "exe").symlink_to(exe)
        for number, target in enumerate(files):
            (self.root / str(pid) / "fd" / str(number)).symlink_to(target)

    def find(
        self, workers: Path | None = None, gpu_pids: Collection[int] = (), asker: int | None = None
    ) -> list[Orphan]:
        return orphans(
            self.table,
            workers,
            daemon_lives=self.daemons.__contains__,
            gpu_pids=gpu_pids,
            inspect=lambda directory: self.fates.get(directory, NEW),
            proc=self.root,
            asker=asker,
        )


def made(tmp_path: Path) -> FakeProc:
    fake = FakeProc(tmp_path / "proc")
    fake.add(1, 0, "init", exe="/sbin/init")
    return fake


def told(found: list[Orphan]) -> list[tuple[int, Kind]]:
    return [(orphan.pid, orphan.kind) for orphan in found]


def log_of(directory: Path) -> tuple[str, ...]:
    return ("/dev/null", f"{directory}/out.log")


def test_an_engine_whose_server_is_gone_is_an_orphan_with_its_workers(tmp_path: Path) -> None:
    fake = made(tmp_path)
    fake.add(40, 1, ENGINE, ("VLLM::EngineCore",))
    fake.add(41, 40, "VLLM::Worker_TP", ("VLLM::Worker_TP0",))
    [orphan] = fake.find()
    assert (orphan.pid, orphan.start, orphan.kind) == (40, 400, Kind.FOREIGN)
    assert orphan.tree == ((40, 400), (41, 410))
    assert orphan.uid is not None


def test_an_engine_below_a_server_or_a_notebook_is_none(tmp_path: Path) -> None:
    fake = made(tmp_path)
    fake.add(5, 1, "python", SERVE)
    fake.add(6, 5, ENGINE)
    fake.add(50, 1, "python", ("python", "notebook.py"))
    fake.add(51, 50, ENGINE)
    assert fake.find() == []


def test_a_name_alone_makes_no_orphan(tmp_path: Path) -> None:
    fake = made(tmp_path)
    fake.add(40, 1, ENGINE, ("VLLM::EngineCore",), exe="/usr/bin/sleep")
    assert fake.find() == []


def test_a_process_on_a_gpu_without_a_title_is_vllms_by_what_it_maps(tmp_path: Path) -> None:
    fake = made(tmp_path)
    maps = {60: "/venv/lib/python3.12/site-packages/vllm/_C.abi3.so", 61: "/opt/train/libtorch.so"}
    for pid, library in maps.items():
        fake.add(pid, 1, "python", ("python", "-c", "from multiprocessing.spawn import …"))
        (fake.root / str(pid) / "maps").write_text(f"7f-8f r-xp 00000000 00:00 0 {library}\n")
    assert told(fake.find(gpu_pids=[60, 61, 999])) == [(60, Kind.FOREIGN)]
    assert fake.find() == []


def test_a_shim_whose_directory_is_gone_is_lost_with_its_whole_tree(tmp_path: Path) -> None:
    fake, directory = made(tmp_path), tmp_path / "lab" / "workers" / "m-1"
    fake.add(10, 1, SHIM, ("python", str(directory)), files=(f"{directory}/shim.lock{GONE}",))
    fake.add(11, 10, "python", SERVE, files=log_of(directory))
    fake.add(12, 11, ENGINE)
    [orphan] = fake.find()
    assert told([orphan]) == [(10, Kind.LOST)]
    assert [pid for pid, _ in orphan.tree] == [10, 11, 12]
    assert str(directory) in orphan.why


def test_a_removed_directory_makes_no_orphan_while_a_daemon_watches_its_tree(
    tmp_path: Path,
) -> None:
    fake, directory = made(tmp_path), tmp_path / "lab" / "workers" / "m-1"
    fake.add(10, 1, SHIM, ("python", str(directory)), files=(f"{directory}/shim.lock{GONE}",))
    fake.add(11, 10, "python", SERVE, files=log_of(directory))
    fake.add(70, 1, "vllm-console", files=("anon_inode:[pidfd]",))
    (fake.root / "70" / "fdinfo" / "0").write_text("pos:\t0\nflags:\t02\nPid:\t11\nNSpid:\t11\n")
    assert fake.find() == []
    assert told(fake.find(asker=70)) == [(10, Kind.LOST)]
    fake.add(71, 1, "vllm-console", files=(f"{tmp_path}/lab/daemon.lock{GONE}",))
    assert fake.find(asker=70) == []


def test_a_daemon_that_came_after_the_directory_went_does_not_shield_the_old_tree(
    tmp_path: Path,
) -> None:
    fake, directory = made(tmp_path), tmp_path / "lab" / "workers" / "m-1"
    fake.add(10, 1, SHIM, ("python", str(directory)), files=(f"{directory}/shim.lock{GONE}",))
    fake.daemons.add(tmp_path / "lab")
    assert told(fake.find(tmp_path / "lab" / "workers")) == [(10, Kind.LOST)]


def living(fake: FakeProc, directory: Path) -> None:
    """A worker with everything it should have: shim 10, main process 11, engine 12."""
    directory.mkdir(parents=True)
    fake.add(10, 1, SHIM, ("python", str(directory)), files=(f"{directory}/shim.lock",))
    fake.add(11, 10, "python", SERVE, files=log_of(directory))
    fake.add(12, 11, ENGINE)
    record = Record(11, 110, "boot", 1, 0.0, 0)
    fake.fates[directory] = Inspection(Fate.ADOPTED, record, shim=(10, 100))


def test_a_living_worker_is_named_only_while_its_fleet_has_no_daemon(tmp_path: Path) -> None:
    fake, directory = made(tmp_path), tmp_path / "lab" / "workers" / "m-1"
    living(fake, directory)
    [orphan] = fake.find()
    assert told([orphan]) == [(11, Kind.UNATTENDED)]
    assert orphan.directory == directory
    fake.daemons.add(tmp_path / "lab")
    assert fake.find() == []
    fake.daemons.clear()
    fake.add(71, 1, "vllm-console", files=(f"{tmp_path}/lab/daemon.lock{GONE}",))
    assert fake.find() == []  # its lock was removed, and it is there all the same


def test_a_worker_that_lost_its_shim_is_its_fleets_and_none_to_end(tmp_path: Path) -> None:
    fake, directory = made(tmp_path), tmp_path / "lab" / "workers" / "m-1"
    fake.add(11, 1, "python", SERVE, files=log_of(directory))
    fake.add(12, 11, ENGINE, files=log_of(directory))
    fake.fates[directory] = Inspection(Fate.SHIM_LOST, Record(11, 110, "boot", 1, 0.0, 0))
    assert told(fake.find()) == [(11, Kind.UNATTENDED)]
    fake.daemons.add(tmp_path / "lab")
    assert fake.find() == []


def test_what_a_worker_without_shim_and_server_left_is_lost_until_a_daemon_cares(
    tmp_path: Path,
) -> None:
    fake, directory = made(tmp_path), tmp_path / "lab" / "workers" / "m-1"
    fake.add(12, 1, ENGINE, files=log_of(directory))
    fake.fates[directory] = Inspection(Fate.SHIM_LOST, Record(11, 110, "boot", 1, 0.0, 0))
    [orphan] = fake.find()
    assert (orphan.pid, orphan.kind, orphan.directory) == (12, Kind.LOST, directory)
    fake.daemons.add(tmp_path / "lab")
    assert fake.find() == []


def test_what_an_earlier_run_left_is_lost_though_the_worker_runs_again(tmp_path: Path) -> None:
    fake, directory = made(tmp_path), tmp_path / "lab" / "workers" / "m-1"
    living(fake, directory)
    fake.daemons.add(tmp_path / "lab")
    fake.add(90, 1, ENGINE, files=log_of(directory))
    assert told(fake.find()) == [(90, Kind.LOST)]


def test_a_server_whose_shim_and_directory_are_gone_is_lost(tmp_path: Path) -> None:
    fake, directory = made(tmp_path), tmp_path / "lab" / "workers" / "m-1"
    fake.add(5, 1, "bash")
    fake.add(11, 1, "python", SERVE, files=("/dev/null", f"{directory}/out.log{GONE}"))
    fake.add(20, 5, "python", SERVE, files=("/dev/null", f"{directory}/out.log{GONE}"))
    fake.add(21, 1, "python", SERVE, files=("/dev/null", "/home/me/out.log"))
    assert told(fake.find()) == [(11, Kind.LOST)]


def test_a_tree_never_reaches_into_another_owners(tmp_path: Path) -> None:
    fake, directory = made(tmp_path), tmp_path / "lab" / "workers" / "m-1"
    fake.daemons.add(tmp_path / "lab")
    living(fake, directory)
    fake.add(40, 1, ENGINE)
    fake.table[10] = Process(10, 40, SHIM, ("python", str(directory)), 100)
    [orphan] = fake.find()
    assert orphan.tree == ((40, 400),)


def test_a_moved_state_directory_is_followed_by_the_lock(tmp_path: Path) -> None:
    fake, directory = made(tmp_path), tmp_path / "moved" / "workers" / "m-1"
    living(fake, directory)
    fake.table[10] = Process(10, 1, SHIM, ("python", str(tmp_path / "lab" / "m-1")), 100)
    fake.daemons.add(tmp_path / "moved")
    assert fake.find() == []
