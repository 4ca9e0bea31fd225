"""The host, and the usage of process trees out of a fake /proc."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vllm_console.devices.host import HostReader

_HZ = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class FakeProc:
    """Writes /proc/PID/stat as the kernel does, up to the fields that matter."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(
        self, pid: int, *, cpu_s: float, pages: int, start: int = 100, state: str = "S"
    ) -> None:
        user, system = round(cpu_s * _HZ) - 1, 1
        fields = [state, *["0"] * 10, str(user), str(system), *["0"] * 6, str(start), "0"]
        (self.root / str(pid)).mkdir(exist_ok=True)
        text = f"{pid} (VLLM::Engine (x) Core) {' '.join(fields)} {pages} 18446744073709551615\n"
        (self.root / str(pid) / "stat").write_text(text)

    def end(self, pid: int) -> None:
        (self.root / str(pid) / "stat").unlink()


class FakeClock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _burn() -> None:
    """Uses 50 ms of CPU: a few of the kernel's ticks."""
    until = os.times().user + 0.05
    while os.times().user < until:
        sum(range(1000))


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def reader(proc: FakeProc, clock: FakeClock) -> HostReader:
    return HostReader("n", proc=proc.root, clock=clock)


def test_a_tree_is_the_sum_of_its_processes(
    proc: FakeProc, clock: FakeClock, reader: HostReader
) -> None:
    proc.put(1, cpu_s=10.0, pages=100)
    proc.put(2, cpu_s=20.0, pages=50)
    assert reader.tree_usage([1, 2]) == (150 * _PAGE, None)
    clock.now = 2.0
    proc.put(1, cpu_s=11.0, pages=100)
    proc.put(2, cpu_s=24.0, pages=60)
    resident, cores = reader.tree_usage([1, 2])
    assert resident == 160 * _PAGE
    assert cores == pytest.approx(2.5)


def test_a_process_counts_from_the_second_time_on(
    proc: FakeProc, clock: FakeClock, reader: HostReader
) -> None:
    proc.put(1, cpu_s=10.0, pages=1)
    reader.tree_usage([1])
    clock.now = 1.0
    proc.put(1, cpu_s=10.5, pages=1)
    proc.put(2, cpu_s=500.0, pages=1)
    resident, cores = reader.tree_usage([1, 2])
    assert resident == 2 * _PAGE
    assert cores == pytest.approx(0.5)


def test_a_pid_that_another_process_took_over_starts_anew(
    proc: FakeProc, clock: FakeClock, reader: HostReader
) -> None:
    proc.put(1, cpu_s=10.0, pages=1, start=100)
    reader.tree_usage([1])
    clock.now = 1.0
    proc.put(1, cpu_s=99.0, pages=1, start=200)
    assert reader.tree_usage([1]) == (_PAGE, None)


def test_processes_that_are_gone_or_zombies_count_for_nothing(
    proc: FakeProc, clock: FakeClock, reader: HostReader
) -> None:
    proc.put(1, cpu_s=10.0, pages=1)
    proc.put(2, cpu_s=10.0, pages=1)
    reader.tree_usage([1, 2])
    clock.now = 1.0
    proc.end(1)
    proc.put(2, cpu_s=10.0, pages=0, state="Z")
    assert reader.tree_usage([1, 2]) == (None, None)
    assert reader.tree_usage([]) == (None, None)


def test_what_nobody_asks_about_is_forgotten(
    proc: FakeProc, clock: FakeClock, reader: HostReader
) -> None:
    proc.put(1, cpu_s=10.0, pages=1)
    reader.tree_usage([1])
    clock.now = 1000.0
    reader.poll()
    assert reader.tree_usage([1]) == (_PAGE, None)


def test_this_very_process_is_seen() -> None:
    reader = HostReader("n")
    resident, _ = reader.tree_usage([os.getpid()])
    assert resident is not None
    assert resident > 1 << 20
    _burn()
    _, cores = reader.tree_usage([os.getpid()])
    assert cores is not None
    assert cores > 0


def test_the_host_is_within_its_bounds() -> None:
    reader = HostReader("node-1")
    first = reader.poll()
    assert first.node == "node-1"
    assert first.cpu is None
    assert first.cores == os.cpu_count()
    assert first.memory_used_bytes is not None
    assert first.memory_total_bytes is not None
    assert 0 < first.memory_used_bytes < first.memory_total_bytes
    assert first.load_1m is not None
    _burn()
    second = reader.poll()
    assert second.cpu is not None
    assert 0 < second.cpu <= 1
