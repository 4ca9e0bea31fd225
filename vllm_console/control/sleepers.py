"""What sleeping workers gave back of their GPUs' memory, and whether there is room to wake one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from vllm_console.control.machine import Machine
from vllm_console.control.roster import Roster
from vllm_console.errors import ConsoleError
from vllm_console.telemetry.sample import Sample
from vllm_console.workers.states import State
from vllm_console.workers.worker import Worker

FREED_S = 5.0
"""What a driver may take to show as free what an engine gave back."""
_LOOK_S = 0.2
_GB = 1e9

Steady = Callable[[str, Collection[int]], AbstractAsyncContextManager[object]]
"""Held while a worker changes the memory of these GPUs; entered when nobody else does."""


def judge_sleep(models: Roster, worker_id: str, sample: Sample | None) -> None:
    """Have a worker asked whether it sleeps, where its metrics say that no engine of it is awake.

    Whoever reaches an engine can send it to sleep, and so can a daemon that dies while requests
    are still waited for.
    """
    if sample is None or sample.gauges.get("sleep:awake") != 0.0:
        return
    worker = models.worker(worker_id)
    if isinstance(worker, Worker):
        worker.seems_asleep()


@dataclass(frozen=True, slots=True)
class Held:
    """What is held of the GPUs of a worker."""

    sizes: Mapping[int, int]
    """Bytes by GPU."""
    own: bool
    """Of its tree; where the driver tells of none of it, of everybody there."""


class Sleepers:
    """Measures GPU memory before and after, by NVML (workers.worker.Bed). In one event loop."""

    def __init__(
        self, machine: Machine, tell: Callable[[str, str, str], None], steady: Steady
    ) -> None:
        """`tell` takes level, subject and text of an event."""
        self._machine = machine
        self._tell = tell
        self._steady = steady
        self._before: dict[str, Held] = {}
        self._freed: dict[str, dict[int, int]] = {}
        """Bytes that each worker gave back, by GPU: what it needs to wake."""

    def forget(self, worker_id: str) -> None:
        """That worker will not come back."""
        self._before.pop(worker_id, None)
        self._freed.pop(worker_id, None)

    async def lies_down(self, worker: Worker) -> None:
        """Note what it holds."""
        await self._machine.look()
        own = self._own(worker)
        self._before[worker.id] = own if own.sizes else self._everybodys(worker)
        self._freed.pop(worker.id, None)

    async def sleeps(self, worker: Worker) -> None:
        """Tell how much memory came back, or that none did."""
        before = self._before.pop(worker.id, None)
        if before is None or not before.sizes:
            return  # it has no GPU
        loop = asyncio.get_running_loop()
        deadline = loop.time() + FREED_S
        while True:
            await self._machine.look()
            if worker.state is not State.ASLEEP:
                return  # it wakes up already, or has ended
            after = (self._own(worker) if before.own else self._everybodys(worker)).sizes
            freed = {i: max(0, size - after.get(i, 0)) for i, size in before.sizes.items()}
            back, had = sum(freed.values()), sum(before.sizes.values())
            known, late = self._are_known(before.sizes), loop.time() >= deadline
            if known and (back >= had / 2 or late):
                break
            if late:
                return  # the driver does not tell
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
            self._refuse_without_room(worker.id, self._needed(worker))
            yield

    def _needed(self, worker: Worker) -> Mapping[int, int]:
        """Bytes by GPU: what it gave back, else what its log said that it took."""
        if worker.id in self._freed:
            return self._freed[worker.id]
        gpus = worker.spec.gpus if worker.spec is not None else ()
        engine = worker.engine
        known = [size for size in (engine.weights_bytes, engine.kv_cache_bytes) if size is not None]
        return {index: sum(known) // len(gpus) for index in gpus}

    def _refuse_without_room(self, worker_id: str, needed: Mapping[int, int]) -> None:
        for gpu in self._machine.devices.gpus:
            needs = needed.get(gpu.index, 0)
            if gpu.memory_total_bytes is None or gpu.memory_used_bytes is None:
                continue
            free = gpu.memory_total_bytes - gpu.memory_used_bytes
            if free < needs:
                others = [p for p in gpu.processes if p.memory_bytes and p.worker != worker_id]
                whose = dict.fromkeys(p.worker or p.name or f"pid {p.pid}" for p in others)
                raise ConsoleError(
                    f"GPU {gpu.index} has {free / _GB:.1f} GB free and it needs {needs / _GB:.1f}: "
                    f"unload, or put to sleep, another there ({', '.join(whose) or 'unknown'})"
                )

    def _are_known(self, gpus: Collection[int]) -> bool:
        """Whether the driver tells of all of them now."""
        return set(gpus) <= {gpu.index for gpu in self._machine.devices.gpus if not gpu.fault}

    def _own(self, worker: Worker) -> Held:
        processes, found = self._machine.devices.processes, dict[int, int]()
        for pid in worker.tree():
            for index, size in processes.get(pid, {}).items():
                if size is not None:
                    found[index] = found.get(index, 0) + size
        return Held(found, own=True)

    def _everybodys(self, worker: Worker) -> Held:
        gpus = worker.spec.gpus if worker.spec is not None else ()
        used = {gpu.index: gpu.memory_used_bytes for gpu in self._machine.devices.gpus}
        found = {index: size for index, size in used.items() if size is not None and index in gpus}
        return Held(found, own=False)
