"""`reap` as a user types it, over orphans that are made up; nothing here is signalled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from vllm_console.cli.main import main
from vllm_console.cli.reap import chosen_of, lines
from vllm_console.control import orphans
from vllm_console.control.orphans import Named
from vllm_console.devices.nvml import NvmlReading
from vllm_console.errors import ConsoleError, InvalidInput, NotFound
from vllm_console.launchers import reaping
from vllm_console.launchers.reaping import Look, Outcome
from vllm_console.workers.orphans import Kind, Orphan

ME = os.geteuid()
MORNING = 1_795_330_800.0


def named(pid: int, kind: Kind = Kind.FOREIGN, uid: int = ME) -> Named:
    ours = kind is not Kind.FOREIGN
    directory = Path("/state/lab/workers/m-1") if ours else None
    why = "worker m-1 of /state/lab, which has no daemon" if ours else "its server is gone"
    tree = ((pid, 7), (pid + 1, 8))
    orphan = Orphan(pid, 7, kind, "VLLM::EngineCore", why, uid, directory, tree)
    return Named(orphan, MORNING, 3 << 30)


FOUND = [named(40), named(50, Kind.UNATTENDED), named(60, uid=ME + 1)]


class FakeReaper:
    """Takes the place of what finds and ends orphans."""

    def __init__(self) -> None:
        self.found = list(FOUND)
        self.outcome = Outcome.ENDED
        self.reaped: list[int] = []

    def find(self, state_dir: Path | None, reading: NvmlReading, **_: object) -> list[Named]:
        return self.found

    def reap(
        self, chosen: Sequence[Orphan], look: Look, *, grace_s: float
    ) -> Mapping[int, Outcome]:
        assert set(look()) == {n.orphan.pid for n in self.found}
        self.reaped += [orphan.pid for orphan in chosen]
        return {orphan.pid: self.outcome for orphan in chosen}


@pytest.fixture
def reaper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeReaper:
    fake = FakeReaper()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(orphans, "find", fake.find)
    monkeypatch.setattr(orphans, "read_gpus", NvmlReading)
    monkeypatch.setattr(reaping, "reap", fake.reap)
    return fake


def test_alone_it_lists_what_it_would_end_and_ends_nothing(
    reaper: FakeReaper, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reap"]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == (
        "40  VLLM::EngineCore since 2026-11-22 07:00 UTC, 3.0 GiB on GPUs: its server is gone, "
        "2 processes → `vllm-console reap 40` ends it"
    )
    assert "`vllm-console up -d --state-dir /state/lab` adopts it" in second
    assert third.startswith(f"60 (user {ME + 1})  ")
    assert reaper.reaped == []
    reaper.found = []
    assert main(["reap"]) == 0
    assert capsys.readouterr().out == "no orphans\n"


def test_all_means_those_of_this_user_that_no_daemon_can_adopt() -> None:
    assert [n.orphan.pid for n in chosen_of(FOUND, ())] == [40]
    assert "reap --all" in lines([named(40), named(41)])[-1]


def test_a_living_worker_is_refused_even_by_its_pid() -> None:
    with pytest.raises(ConsoleError, match=r"living worker m-1 .* adopts it"):
        chosen_of(FOUND, ["50"])


def test_what_is_another_users_needs_root_and_its_pid() -> None:
    with pytest.raises(ConsoleError, match="belongs to user"):
        chosen_of([named(60, uid=1001)], ["60"], uid=1000)
    assert [n.orphan.pid for n in chosen_of([named(60, uid=1001)], ["60"], uid=0)] == [60]
    assert chosen_of([named(60, uid=1001)], [], uid=0) == []


def test_a_pid_that_is_no_orphan_and_a_word_that_is_no_pid_are_refused(
    reaper: FakeReaper, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reap", "1", "--yes"]) == NotFound.exit_code
    assert main(["reap", "all", "--yes"]) == InvalidInput.exit_code
    assert main(["reap", "40", "--all"]) == InvalidInput.exit_code
    assert capsys.readouterr().err.count("\n") == 3
    assert reaper.reaped == []


def test_without_a_terminal_it_wants_to_be_told_yes(
    reaper: FakeReaper, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reap", "40"]) == 2
    assert "--yes" in capsys.readouterr().err
    assert reaper.reaped == []
    assert main(["reap", "--all", "--yes"]) == 0
    assert capsys.readouterr().out == "40  VLLM::EngineCore: ended\n"
    assert reaper.reaped == [40]


@pytest.mark.parametrize(("typed", "reaped"), [("y", [40]), ("", []), ("n", [])])
def test_on_a_terminal_it_shows_what_and_asks(
    reaper: FakeReaper,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    reaped: list[int],
) -> None:
    class FakeTerminal:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return typed

    monkeypatch.setattr("sys.stdin", FakeTerminal())
    assert main(["reap", "40"]) == 0
    assert "its server is gone\nend it and what it started? [y/N] " in capsys.readouterr().err
    assert reaper.reaped == reaped


@pytest.mark.parametrize(
    ("outcome", "code"),
    [("ended", 0), ("killed", 0), ("gone", 0), ("changed", 1), ("denied", 1), ("alive", 5)],
)
def test_the_exit_code_tells_what_became_of_it(
    reaper: FakeReaper, capsys: pytest.CaptureFixture[str], outcome: str, code: int
) -> None:
    reaper.outcome = Outcome(outcome)
    assert main(["reap", "40", "--yes", "--json"]) == code
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "vllm-console/reap/1"
    [orphan] = told["orphans"]
    assert orphan["outcome"] == outcome
    assert orphan["tree"] == [40, 41]
    assert orphan["gpu_memory_bytes"] == 3 << 30
