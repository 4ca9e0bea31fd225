"""The machine the daemon runs on, by psutil, and what a process tree takes of it, by /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from vllm_console.snapshot import Host

_FORGET_S = 300.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Fields of /proc/PID/stat counted after the command's closing parenthesis (proc(5): state is 3).
_UTIME, _STIME, _START, _RSS = 14 - 3, 15 - 3, 22 - 3, 24 - 3


class HostReader:
    """Reads one machine; CPU shares are of the time between two calls, so the first has none."""

    def __init__(
        self,
        node: str,
        *,
        proc: Path = Path("/proc"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node = node
        self._proc = str(proc)
        self._clock = clock
        self._cores = psutil.cpu_count()
        self._busy: tuple[float, float] | None = None
        self._used: dict[tuple[int, int], tuple[float, float]] = {}
        """(time read, CPU seconds) of every process asked about, by pid and start time."""

    def poll(self) -> Host:
        """What the machine does now."""
        self._prune()
        memory = psutil.virtual_memory()
        return Host(
            node=self._node,
            cpu=self._cpu(),
            cores=self._cores,
            memory_used_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
            load_1m=os.getloadavg()[0],
        )

    def _cpu(self) -> float | None:
        """Share of all cores busy since the last call; time waiting for disks is not busy."""
        times = psutil.cpu_times()
        # Linux counts guest time in user time as well (proc(5)).
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        idle = times.idle + getattr(times, "iowait", 0.0)
        before, self._busy = self._busy, (total - idle, total)
        if before is None or total <= before[1]:
            return None
        return min(1.0, max(0.0, (self._busy[0] - before[0]) / (total - before[1])))

    def tree_usage(self, pids: Iterable[int]) -> tuple[int | None, float | None]:
        """Resident bytes and cores in use, summed over the given processes (1.0 is one core).

        Memory that processes share counts for each of them. A process counts towards the cores
        from the second call that names it; `None` where no process is left, or none was named
        before. A pid that another process has taken over is another process.
        """
        now = self._clock()
        resident: int | None = None
        cores: float | None = None
        for pid in pids:
            stat = self._stat(pid)
            if stat is None:
                continue
            start, seconds, size = stat
            resident = size + (resident or 0)
            before = self._used.get((pid, start))
            self._used[pid, start] = (now, seconds)
            if before is not None and now > before[0]:
                cores = max(0.0, seconds - before[1]) / (now - before[0]) + (cores or 0.0)
        return resident, cores

    def _prune(self) -> None:
        """Forgets processes nobody asked about for a while."""
        old = self._clock() - _FORGET_S
        for key in [key for key, (at, _) in self._used.items() if at < old]:
            del self._used[key]

    def _stat(self, pid: int) -> tuple[int, float, int] | None:
        """Start time in ticks, CPU seconds and resident bytes; `None` when the process is gone."""
        try:
            with open(f"{self._proc}/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return None
        if fields[0] in (b"Z", b"X"):
            return None
        seconds = (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS_PER_S
        return int(fields[_START]), seconds, int(fields[_RSS]) * _PAGE_BYTES
