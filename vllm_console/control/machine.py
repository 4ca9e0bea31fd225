"""The machine as the daemon sees it: GPUs, host, and what each worker's tree takes of both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from vllm_console.control.picture import Usage
from vllm_console.devices.host import HostReader
from vllm_console.devices.nvml import Nvml, NvmlReading
from vllm_console.devices.ownership import PATIENCE_S, Leaving, memory_of, with_processes
from vllm_console.devices.patient import NOT_YET, PatientNvml
from vllm_console.snapshot import Failure, Host
from vllm_console.workers.launch import LaunchFailed, iso
from vllm_console.workers.states import Cause

_LOOK_S = 0.2
"""Between two looks at GPUs that are to come free."""


class Machine:
    """Reads the machine, never waiting long for its driver. All methods run on one event loop."""

    def __init__(
        self,
        node: str,
        nvml: Nvml | None,
        tell: Callable[[str, str, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tell` takes level, subject and text of an event."""
        self.devices = NvmlReading((), NOT_YET)
        self.host: Host | None = None
        self.usage: dict[str, Usage] = {}
        self._gpus = PatientNvml(nvml or Nvml(node), clock=clock)
        self._host_reader = HostReader(node)
        self._tell = tell
        self._clock = clock
        self._seen = self.devices
        """What `devices` was made from."""
        self._leaving = Leaving(clock)
        self._trees: dict[str, set[int]] = {}
        """Pids of each worker's tree, with those that have left it and are on a GPU still."""

    @property
    def held(self) -> frozenset[int]:
        """GPUs no worker should be given: not given back by an ended one, or not answering."""
        faulty = {gpu.index for gpu in self.devices.gpus if gpu.fault is not None}
        return self._leaving.held | faulty

    async def read(self, trees: Mapping[str, Sequence[int]]) -> None:
        """Look at everything; `trees` are the pids of each worker."""
        left = {w: self._trees.get(w, set()).difference(pids) for w, pids in trees.items()}
        for worker, pids in trees.items():
            self.note(worker, pids)
        await self.look()
        for worker, pids_left in left.items():
            if worker in self._trees:
                self._trees[worker] -= pids_left.difference(self.devices.processes)
        self.host, used = await asyncio.to_thread(self._read_host, trees)
        self.usage = {
            worker: replace(usage, gpu_bytes=memory_of(self.devices, trees[worker]))
            for worker, usage in used.items()
        }

    def note(self, worker: str, pids: Iterable[int]) -> None:
        """These are pids of that worker's tree."""
        self._trees.setdefault(worker, set()).update(pids)

    def ended(self, worker: str, gpus: tuple[int, ...]) -> None:
        """Nothing of that worker's tree is left; its GPUs are free once the driver says so."""
        self._leaving.ended(worker, gpus, self._trees.pop(worker, set()))

    async def settled(self) -> None:
        """Return once the driver has answered and gave back what ended workers held.

        Waits for `PATIENCE_S`; a GPU that is not back then stays in `held`, and an event tells of
        it. Raises `LaunchFailed` when the driver itself does not answer: no start is tried then,
        and the next one is due by the usual back-off.
        """
        deadline = self._clock() + PATIENCE_S
        while self._unsettled():
            await self.look()
            if self._clock() >= deadline:
                break
            if self._unsettled():
                await asyncio.sleep(_LOOK_S)
        silent_s = self._gpus.silent_s
        if silent_s is not None:
            line = f"the NVIDIA driver does not answer for {silent_s:.0f} s"
            remedy = "see whether `nvidia-smi` answers; a driver that hangs needs a reboot"
            raise LaunchFailed(Failure(Cause.DRIVER_SILENT, line, remedy, iso(time.time())))

    async def close(self) -> None:
        """Let go of the driver."""
        await self._gpus.close()

    def _unsettled(self) -> bool:
        unread = self.devices.reason == NOT_YET or self._gpus.reading is not self._seen
        return unread or self._gpus.silent_s is not None or self._leaving.waiting

    async def look(self) -> None:
        """Ask the driver anew, and whom its processes belong to."""
        reading = await self._gpus.poll()
        self._seen = reading
        living = {pid: worker for worker, pids in self._trees.items() for pid in pids}
        for left in self._leaving.look(reading, living):
            gpus = ", ".join(map(str, left.gpus))
            text = f"has ended, and GPU {gpus} is not free after {PATIENCE_S:.0f} s"
            self._tell("warn", left.worker, text)
        owners = self._leaving.owners | living
        self.devices = replace(reading, gpus=with_processes(reading, owners, process_name))

    def _read_host(self, trees: Mapping[str, Sequence[int]]) -> tuple[Host, dict[str, Usage]]:
        """Ask /proc; runs in a thread, as a large tree takes a while."""
        usage = {worker: Usage(*self._host_reader.tree_usage(p)) for worker, p in trees.items()}
        return self._host_reader.poll(), usage


def process_name(pid: int) -> str | None:
    """A process's name of at most 15 bytes; `None` when it is not visible from here."""
    with suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return file.read().rstrip("\n") or None
    return None
