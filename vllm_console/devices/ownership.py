"""Whose process computes on which GPU, and which GPUs an ended process tree still holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from vllm_console.devices.nvml import NvmlReading
from vllm_console.snapshot import Gpu, GpuProcess

PATIENCE_S = 30.0
"""Seconds a driver may take to free what an ended process held before somebody should look."""


def with_processes(
    reading: NvmlReading,
    owners: Mapping[int, str],
    name: Callable[[int], str | None],
) -> tuple[Gpu, ...]:
    """The GPUs with who computes on each, the most memory first.

    `owners` gives the worker of a pid, `name` a process's name, or `None` for one that is not
    visible from here.
    """
    found: dict[int, list[GpuProcess]] = {}
    for pid, sizes in reading.processes.items():
        process = GpuProcess(pid, worker=owners.get(pid), name=name(pid))
        for index, size in sizes.items():
            found.setdefault(index, []).append(replace(process, memory_bytes=size))
    for processes in found.values():
        processes.sort(key=lambda p: (-(p.memory_bytes or 0), p.pid))
    return tuple(
        replace(gpu, processes=tuple(found[gpu.index])) if gpu.index in found else gpu
        for gpu in reading.gpus
    )


def memory_of(reading: NvmlReading, pids: Iterable[int]) -> int | None:
    """Bytes these processes hold on all GPUs; `None` when the driver tells of none of them."""
    told = [
        size for pid in pids for size in reading.processes.get(pid, {}).values() if size is not None
    ]
    return sum(told) if told else None


def released(now: NvmlReading, gpus: Collection[int], pids: Collection[int]) -> bool:
    """Whether the driver answers for these GPUs and none of these processes is on one of them.

    Where the driver counts pids of another namespace nothing can be told apart, and the end of the
    processes, which frees their memory in the kernel, has to do.
    """
    silent = {gpu.index for gpu in now.gpus if gpu.fault is not None}
    return silent.isdisjoint(gpus) and all(
        set(now.processes.get(pid, ())).isdisjoint(gpus) for pid in pids
    )


@dataclass(frozen=True, slots=True)
class Leftover:
    """A process tree that has ended, as far as its GPUs are concerned."""

    worker: str
    gpus: tuple[int, ...]
    pids: frozenset[int]
    since: float
    told: bool = False
    """It took too long, and that was said."""


class Leaving:
    """The trees that have ended and whose GPUs the driver has not given back yet."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: list[Leftover] = []

    def ended(self, worker: str, gpus: tuple[int, ...], pids: Iterable[int]) -> None:
        """Nothing of this worker's tree is left."""
        if gpus:
            self._left.append(Leftover(worker, gpus, frozenset(pids), self._clock()))

    def look(self, now: NvmlReading, living: Collection[int] = ()) -> list[Leftover]:
        """Strike off what `now` shows to be free; returns what is overdue, each once.

        `living` are pids of trees that run, which may be numbers of ended processes used again.
        """
        still, overdue = [], []
        for left in self._left:
            if now.at >= left.since and released(now, left.gpus, left.pids.difference(living)):
                continue
            if not left.told and self._clock() - left.since >= PATIENCE_S:
                left = replace(left, told=True)
                overdue.append(left)
            still.append(left)
        self._left = still
        return overdue

    @property
    def held(self) -> frozenset[int]:
        """Indexes of the GPUs that are not free yet."""
        return frozenset(index for left in self._left for index in left.gpus)

    @property
    def owners(self) -> dict[int, str]:
        """The worker that each ended process belonged to."""
        return {pid: left.worker for left in self._left for pid in left.pids}

    @property
    def waiting(self) -> bool:
        """Whether any of them may still come back by itself."""
        return any(not left.told for left in self._left)
