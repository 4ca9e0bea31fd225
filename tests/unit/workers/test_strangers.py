"""Whose process is whose: over a table made by hand, and over this machine's own /proc."""

from __future__ import annotations

import os
from pathlib import Path

from vllm_console.workers.adoption import Fate, Inspection, Record
from vllm_console.workers.strangers import (
    Process,
    Stray,
    ancestry,
    owner_of,
    owners,
    processes,
    strays,
)

SERVE = ("/venv/bin/python", "/venv/bin/vllm", "serve", "m", "--api-key", "sk-secret")


def table(*made: Process) -> dict[int, Process]:
    return {process.pid: process for process in made}


def test_the_table_holds_this_process_and_its_parent() -> None:
    seen = processes()
    assert seen[os.getpid()].parent == os.getppid()
    assert seen[os.getpid()].argv
    assert [p.pid for p in ancestry(os.getpid(), seen)][:2] == [os.getpid(), os.getppid()]


def test_a_name_with_parentheses_and_a_zombie_are_read_right(tmp_path: Path) -> None:
    for pid, stat in ((7, "7 (a) b) (c) S 3 7"), (8, "8 (dead) Z 7 7"), (9, "9 (kthread) S 2 0")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(stat)
        (tmp_path / str(pid) / "cmdline").write_bytes(b"x\0--y\0" if pid == 7 else b"")
    (tmp_path / "self").mkdir()
    assert processes(tmp_path) == table(
        Process(7, 3, "a) b) (c", ("x", "--y")), Process(9, 2, "kthread")
    )


def test_a_shim_owns_its_tree_and_a_process_that_only_says_so_owns_nothing(tmp_path: Path) -> None:
    real, claimed = tmp_path / "m-1", tmp_path / "m-2"
    real.mkdir()
    claimed.mkdir()

    def inspect(directory: Path) -> Inspection:
        return Inspection(Fate.ADOPTED, shim=(10, 5)) if directory == real else Inspection(Fate.NEW)

    seen = table(
        Process(1, 0, "init"),
        Process(10, 1, "vllm-shim", ("python", "shim.py", str(real))),
        Process(11, 10, "python", SERVE),
        Process(12, 11, "VLLM::EngineCor", ("VLLM::EngineCore",)),
        Process(20, 1, "vllm-shim", ("python", "shim.py", str(claimed))),
        Process(21, 20, "python", SERVE),
    )
    owned = owners(seen, inspect=inspect)
    assert owned == {10: real}
    assert owner_of(12, seen, owned) == real
    assert strays(seen, owned) == [Stray(21, "vllm serve", False)]


def test_a_worker_that_lost_its_shim_is_still_its_fleets(tmp_path: Path) -> None:
    directory = tmp_path / "m-1"
    directory.mkdir()
    lost = Inspection(Fate.SHIM_LOST, Record(30, 1, "b", 1, 0.0, 0))
    seen = table(Process(30, 1, "python", SERVE), Process(31, 30, "VLLM::EngineCor"))
    owned = owners(seen, tmp_path, lambda _: lost)
    assert owner_of(31, seen, owned) == directory
    assert strays(seen, owned) == []


def test_strays_are_heads_and_an_engine_whose_server_is_gone_is_headless() -> None:
    seen = table(
        Process(1, 0, "systemd"),
        Process(5, 1, "bash", ("bash", "-c", "vllm serve x")),
        Process(6, 5, "python", SERVE),
        Process(7, 6, "VLLM::EngineCor", ("VLLM::EngineCore",)),
        Process(40, 1, "VLLM::EngineCor", ("VLLM::EngineCore",)),
        Process(41, 40, "VLLM::Worker_TP", ("VLLM::Worker_TP1",)),
        Process(50, 5, "python", ("python", "notebook.py")),
        Process(51, 50, "VLLM::EngineCor", ("VLLM::EngineCore",)),
        Process(60, 5, "grep", ("grep", "vllm", "serve")),
        Process(61, 5, "python3", ("python3", "-m", "vllm.entrypoints.openai.api_server")),
    )
    assert strays(seen, {}) == [
        Stray(6, "vllm serve", False),
        Stray(40, "VLLM::EngineCore", True),
        Stray(51, "VLLM::EngineCore", False),
        Stray(61, "vllm serve", False),
    ]


def test_a_circle_of_parents_ends() -> None:
    seen = table(Process(2, 3, "a"), Process(3, 2, "b"))
    assert [p.pid for p in ancestry(2, seen)] == [2, 3]
