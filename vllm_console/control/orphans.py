"""Names orphans for alerts, `doctor` and `reap`: since when, how much GPU memory, what to do."""

from __future__ import annotations

import asyncio
import os
import shlex
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vllm_console.control.process import holds_lock
from vllm_console.devices.nvml import Nvml, NvmlReading
from vllm_console.devices.ownership import memory_of
from vllm_console.devices.patient import PatientNvml
from vllm_console.snapshot import Alert
from vllm_console.workers.orphans import Kind, Orphan, orphans
from vllm_console.workers.strangers import processes

LOOK_S = 60.0
"""Seconds between two looks of a daemon."""
_GPU_WAIT_S = 1.0
_MOST_ALERTS = 8

Tell = Callable[[str, str, str], None]
"""Records an event: level, subject, text."""


@dataclass(frozen=True, slots=True)
class Named:
    """An orphan with what a person wants to know before it is ended."""

    orphan: Orphan
    since: float
    """Seconds since the epoch."""
    gpu_bytes: int | None
    """What its tree holds on all GPUs; `None` where the driver does not tell."""

    @property
    def line(self) -> str:
        """What it is, since when, its GPU memory, and why it counts as an orphan."""
        held = "" if self.gpu_bytes is None else f", {self.gpu_bytes / 2**30:.1f} GiB on GPUs"
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M UTC")
        return f"{self.orphan.title} since {since}{held}: {self.orphan.why}"

    @property
    def remedy(self) -> str:
        """The command that ends it."""
        orphan = self.orphan
        if orphan.kind is Kind.UNATTENDED and orphan.directory is not None:
            where = f"--state-dir {shlex.quote(str(orphan.directory.parent.parent))}"
            return f"`vllm-console up -d {where}` adopts it, `down` with the same ends it"
        return f"`vllm-console reap {orphan.pid}` ends it"

    @property
    def alert(self) -> Alert:
        """Its line on the screen."""
        return Alert("warn", f"pid {self.orphan.pid}", f"orphan, {self.line}; {self.remedy}")


def find(
    state_dir: Path | None,
    reading: NvmlReading,
    *,
    attended: bool = False,
    asker: int | None = None,
) -> list[Named]:
    """Every orphan of this machine as far as this user may see; reads /proc, signals nothing.

    `state_dir` is of the fleet that is meant, which counts as having a daemon when it is
    `attended`; see `workers.orphans.orphans` for `asker`.
    """
    workers = None if state_dir is None else state_dir / "workers"
    found = orphans(
        processes(),
        workers,
        daemon_lives=lambda place: (attended and place == state_dir) or holds_lock(place),
        gpu_pids=reading.processes,
        asker=asker,
    )
    boot = _boot_time()
    ticks = os.sysconf("SC_CLK_TCK")
    return [
        Named(o, boot + o.start / ticks, memory_of(reading, [pid for pid, _ in o.tree]))
        for o in found
    ]


def read_gpus() -> NvmlReading:
    """What the GPU driver says now, or nothing of a driver that takes longer than a second."""

    async def ask() -> NvmlReading:
        nvml = PatientNvml(Nvml())
        try:
            return await nvml.poll(_GPU_WAIT_S)
        finally:
            await nvml.close()

    return asyncio.run(ask())


class OrphanWatch:
    """Looks for orphans at the start of a daemon and rarely after; never signals one."""

    def __init__(
        self,
        state_dir: Path,
        devices: Callable[[], NvmlReading],
        tell: Tell,
        look: Callable[..., list[Named]] = find,
    ) -> None:
        self._state_dir = state_dir
        self._devices = devices
        self._tell = tell
        self._look = look
        self._found: Mapping[tuple[int, int], Named] = {}

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """One line an orphan; beyond eight the rest in one line."""
        shown = [named.alert for named in self._found.values()]
        more = len(shown) - _MOST_ALERTS
        if more > 0:
            rest = Alert("warn", "orphans", f"{more} more: `vllm-console reap` lists them")
            shown = [*shown[:_MOST_ALERTS], rest]
        return tuple(shown)

    async def look(self) -> None:
        """Look once, in a thread; an orphan that is new makes an event."""
        found = await asyncio.to_thread(self._look, self._state_dir, self._devices(), attended=True)
        before, self._found = self._found, _by_identity(found)
        for identity, named in self._found.items():
            if identity not in before:
                self._tell(named.alert.level, named.alert.subject, named.alert.text)

    async def look_for_ever(self) -> None:
        """Look now, then every minute."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)


def _by_identity(found: Collection[Named]) -> dict[tuple[int, int], Named]:
    return {(named.orphan.pid, named.orphan.start): named for named in found}


def _boot_time() -> float:
    """Seconds since the epoch at which the machine started (proc(5), /proc/stat btime)."""
    with open("/proc/stat", encoding="ascii") as file:
        for line in file:
            if line.startswith("btime "):
                return float(line.split()[1])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
