"""What sleeping workers gave back of their GPUs' memory, and whether there is room to wake one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from vllm_console.control.machine import Machine
from vllm_console.errors import ConsoleError
from vllm_console.workers.worker import Worker

FREED_S = 5.0
"""What a driver may take to show as free what an engine gave back."""
_LOOK_S = 0.2
_GB = 1e9

Steady = Callable[[str, Collection[int]], AbstractAsyncContextManager[object]]
"""Held while a worker changes the memory of these GPUs; entered when nobody else does."""


class Sleepers:
    """Measures GPU memory before and after, by NVML (workers.worker.Bed). In one event loop."""

    def __init__(
        self, machine: Machine, tell: Callable[[str, str, str], None], steady: Steady
    ) -> None:
        """`tell` takes level, subject and text of an event."""
        self._machine = machine
        self._tell = tell
        self._steady = steady
        self._before: dict[str, dict[int, int]] = {}
        self._freed: dict[str, dict[int, int]] = {}
        """Bytes that each worker gave back, by GPU: what it needs to wake."""

    def forget(self, worker_id: str) -> None:
        """That worker will not come back."""
        self._before.pop(worker_id, None)
        self._freed.pop(worker_id, None)

    async def lies_down(self, worker: Worker) -> None:
        """Note what it holds."""
        await self._machine.look()
        self._before[worker.id] = self._held(worker)

    async def sleeps(self, worker: Worker) -> None:
        """Tell how much memory came back, or that none did."""
        before = self._before.pop(worker.id, {})
        if not before:
            return  # it has no GPU
        deadline = asyncio.get_running_loop().time() + FREED_S
        while True:
            await self._machine.look()
            after = self._held(worker)
            freed = {index: max(0, size - after.get(index, 0)) for index, size in before.items()}
            back, had = sum(freed.values()), sum(before.values())
            if back >= had / 2 or asyncio.get_running_loop().time() >= deadline:
                break
            await asyncio.sleep(_LOOK_S)
        self._freed[worker.id] = freed
        held = f"{(had - back) / _GB:.1f} GB"
        if back < had / 2:
            text = f"sleeps, and holds {held} of GPU memory still, of {had / _GB:.1f} GB before"
            self._tell("warn", worker.id, text)
        else:
            text = f"gave back {back / _GB:.1f} GB of GPU memory and keeps {held}"
            self._tell("ok", worker.id, text)

    @asynccontextmanager
    async def gets_up(self, worker: Worker) -> AsyncIterator[None]:
        """Held while it wakes up; raises `ConsoleError` where another has its memory."""
        spec = worker.spec
        async with self._steady(worker.id, spec.gpus if spec is not None else ()):
            await self._machine.look()
            self._refuse_without_room(self._needed(worker))
            yield

    def _needed(self, worker: Worker) -> Mapping[int, int]:
        """Bytes by GPU: what it gave back, else what its log said that it took."""
        if worker.id in self._freed:
            return self._freed[worker.id]
        gpus = worker.spec.gpus if worker.spec is not None else ()
        engine = worker.engine
        known = [size for size in (engine.weights_bytes, engine.kv_cache_bytes) if size is not None]
        return {index: sum(known) // len(gpus) for index in gpus}

    def _refuse_without_room(self, needed: Mapping[int, int]) -> None:
        for gpu in self._machine.devices.gpus:
            needs = needed.get(gpu.index, 0)
            if gpu.memory_total_bytes is None or gpu.memory_used_bytes is None:
                continue
            free = gpu.memory_total_bytes - gpu.memory_used_bytes
            if free < needs:
                whose = sorted({p.worker for p in gpu.processes if p.worker and p.memory_bytes})
                raise ConsoleError(
                    f"GPU {gpu.index} has {free / _GB:.1f} GB free and it needs {needs / _GB:.1f}: "
                    f"unload, or put to sleep, another there ({', '.join(whose) or 'unknown'})"
                )

    def _held(self, worker: Worker) -> dict[int, int]:
        """Bytes by GPU of its tree; where the driver tells of none of it, of everybody there."""
        reading, found = self._machine.devices, dict[int, int]()
        for pid in worker.tree():
            for index, size in reading.processes.get(pid, {}).items():
                if size is not None:
                    found[index] = found.get(index, 0) + size
        gpus = worker.spec.gpus if worker.spec is not None else ()
        everybody = {
            gpu.index: gpu.memory_used_bytes
            for gpu in reading.gpus
            if gpu.index in gpus and gpu.memory_used_bytes is not None
        }
        return found or everybody
