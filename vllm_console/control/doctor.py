"""What `doctor` finds: one judgement a subject, from what was read elsewhere to a remedy."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vllm_console.control.orphans import Named
from vllm_console.devices.driver import Driver
from vllm_console.snapshot import Gpu
from vllm_console.workers.strangers import Stray

Level = Literal["ok", "warn", "bad"]

MIB, GIB = 1 << 20, 1 << 30
MIN_SHM_BYTES = GIB
"""Workers of one model pass tensors through /dev/shm; Docker gives 64 MiB."""
MIN_FILES = 65536
"""What vLLM raises its own limit to at start (vllm/utils, set_ulimit)."""
_FIRST_DRIVER = {11: "450.80", 12: "525.60", 13: "580.65"}
"""Oldest driver for a CUDA major version (NVIDIA, CUDA Compatibility, minor version)."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    level: Level
    text: str
    remedy: str | None = None
    """What to do about it; `None` when it is well."""


@dataclass(frozen=True, slots=True)
class Room:
    """A directory that fills up, as its file system is now."""

    name: str
    path: Path
    free_bytes: int
    writable: bool
    warn_bytes: int
    bad_bytes: int


def gather(
    looks: Mapping[str, Callable[[], Sequence[Check]]], deadline_s: float = 1.8
) -> list[Check]:
    """Every look's findings, in order; one that hangs (a dead mount, a stuck driver) is said so.

    Each runs in a thread of its own that does not keep the process alive.
    """
    found: dict[str, Sequence[Check]] = {}

    def run(name: str, look: Callable[[], Sequence[Check]]) -> None:
        try:
            found[name] = look()
        except Exception as error:
            found[name] = [
                Check(name, "warn", f"could not be looked at: {error}", "mend that, then ask again")
            ]

    threads = [
        threading.Thread(target=run, args=(name, look), daemon=True) for name, look in looks.items()
    ]
    until = time.monotonic() + deadline_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    slow = f"did not answer within {deadline_s:g} s"
    late = "look at its disk, mount or driver; then ask again"
    return [check for name in looks for check in found.get(name, [Check(name, "warn", slow, late)])]


def cuda_match(driver: Driver | None, engine: str, needs: tuple[int, int] | None) -> Check:
    """Whether the driver runs the CUDA that an engine's torch is built for."""
    name = "cuda"
    if driver is None:
        return Check(
            name,
            "bad",
            f"engine {engine} needs an NVIDIA driver and none is loaded",
            'install the driver, or `vllm-console engines install cpu` and engine = "cpu"',
        )
    if needs is None or driver.cuda is None:
        return Check(name, "ok", f"engine {engine}: which CUDA its torch needs is not recorded")
    wants, has = f"{needs[0]}.{needs[1]}", f"{driver.cuda[0]}.{driver.cuda[1]}"
    text = f"engine {engine} is built for CUDA {wants}, driver {driver.version} runs up to {has}"
    if driver.cuda >= needs:
        return Check(name, "ok", text)
    if driver.cuda[0] == needs[0]:
        return Check(
            name, "warn", text, f"kernels compiled at run time may fail: upgrade to CUDA {wants}"
        )
    first = _FIRST_DRIVER.get(needs[0])
    upgrade = f"upgrade the driver to {first} or newer" if first else "upgrade the driver"
    return Check(name, "bad", text, f"{upgrade}, or install a vLLM built for CUDA {has}")


def gpu(
    gpu: Gpu, holders: Mapping[int, int | None], ours: Collection[int], seen: Collection[int]
) -> Check:
    """A GPU's health, and who else is on it.

    `holders` are GPU bytes by pid, `ours` the pids of this fleet, `seen` all pids in sight: the
    driver's pids are the host's, which a container cannot tell apart.
    """
    name = f"gpu {gpu.index}"
    if gpu.fault is not None:
        return Check(
            name, "bad", f"{gpu.name}: {gpu.fault}", "`nvidia-smi -r` resets it, or reboot"
        )
    words = [gpu.name]
    if gpu.memory_used_bytes is not None and gpu.memory_total_bytes is not None:
        words.append(
            f"{gpu.memory_used_bytes / GIB:.1f} of {gpu.memory_total_bytes / GIB:.1f} GiB used"
        )
    if gpu.temperature_c is not None:
        words.append(f"{gpu.temperature_c:.0f} °C")
    others = {pid: size for pid, size in holders.items() if pid in seen and pid not in ours}
    if others:
        pids = ", ".join(
            f"{pid}" + (f" ({size / GIB:.1f} GiB)" if size is not None else "")
            for pid, size in sorted(others.items())
        )
        words.append(f"used by others: pid {pids}")
        return Check(
            name,
            "warn",
            ", ".join(words),
            "vLLM takes a share of the whole GPU: lower gpu_memory_utilization or free it",
        )
    if gpu.throttle is not None and gpu.throttle.startswith("thermal"):
        words.append(f"throttled: {gpu.throttle}")
        return Check(name, "warn", ", ".join(words), "look at its cooling")
    return Check(name, "ok", ", ".join(words))


def disk(room: Room) -> Check:
    """Whether there is room, and a right, to write."""
    name = f"disk: {room.name}"
    text = f"{_size(room.free_bytes)} free at {room.path}"
    if not room.writable:
        return Check(
            name, "bad", f"{room.path} cannot be written to", "`chown` it or choose another"
        )
    if room.free_bytes < room.bad_bytes:
        return Check(name, "bad", text, f"free at least {_size(room.bad_bytes)}")
    if room.free_bytes < room.warn_bytes:
        return Check(name, "warn", text, f"{_size(room.warn_bytes)} leave room to work")
    return Check(name, "ok", text)


def locality(path: Path, remote: str | None) -> list[Check]:
    """What to do where the state lies on a file system of other machines, of type `remote`."""
    if remote is None:
        return []
    text = f"{path} is on {remote}: SQLite's journal and locks want a local disk"
    return [Check("disk: state", "warn", text, "--state-dir DIR or XDG_STATE_HOME on a local one")]


def shm(total_bytes: int | None) -> Check:
    """Whether shared memory is as large as tensor-parallel workers want."""
    remedy = "in a container: --shm-size=8g or --ipc=host; else remount /dev/shm with size="
    if total_bytes is None:
        return Check("shm", "bad", "there is no /dev/shm", remedy)
    text = f"/dev/shm holds {_size(total_bytes)}"
    if total_bytes < MIN_SHM_BYTES:
        return Check("shm", "warn", f"{text}: too little for workers on several GPUs", remedy)
    return Check("shm", "ok", text)


def open_files(soft: int, hard: int) -> Check:
    """Whether a process may open enough files; -1 is no limit (getrlimit(2))."""
    text = f"open files: {_limit(soft)}, may be raised to {_limit(hard)}"
    if 0 <= hard < MIN_FILES:
        return Check(
            "ulimit",
            "warn",
            text,
            f"vLLM wants {MIN_FILES}: `nofile` in /etc/security/limits.conf, or LimitNOFILE=",
        )
    return Check("ulimit", "ok", text)


def orphans(found: Sequence[Named], strays: Sequence[Stray]) -> list[Check]:
    """Every orphan with what ends it, and the vLLM trees that are just somebody else's."""
    name = "orphans"
    checks = [Check(name, "warn", f"pid {n.orphan.pid}, {n.line}", n.remedy) for n in found]
    counted = {pid for named in found for pid, _ in named.orphan.tree}
    others = [str(s.pid) for s in strays if not s.headless and s.pid not in counted]
    if others:
        text = f"vLLM that no console started: pid {', '.join(others)}; see `vllm-console discover`"
        checks.append(Check(name, "ok", text))
    return checks or [Check(name, "ok", "none")]


def clock(now: float, newest: float, synchronised: bool | None) -> Check:
    """Whether the wall clock can be right; `newest` is the latest time stamp of our own files."""
    remedy = "`timedatectl set-ntp true` keeps it right"
    if now < newest - 60:
        text = f"the clock is {newest - now:.0f} s behind files written earlier"
        return Check("clock", "bad", text, f"set it; {remedy}")
    if synchronised is None:
        return Check("clock", "ok", "plausible; whether it is synchronised cannot be told here")
    if not synchronised:
        return Check("clock", "warn", "plausible, but not synchronised by NTP", remedy)
    return Check("clock", "ok", "synchronised")


def cgroups(version: int | None, kill: bool) -> Check:
    """Which control groups there are; trees are followed by /proc anyway."""
    if version == 2:
        return Check("cgroup", "ok", f"version 2, {'with' if kill else 'without'} cgroup.kill")
    what = "none" if version is None else "version 1"
    return Check("cgroup", "ok", f"{what}: process trees are followed by /proc alone")


def port(host: str, number: int, free: bool, pid: int | None, ours: bool) -> Check:
    """Whether the gateway's port is there for it."""
    where = f"{host}:{number}"
    if free:
        return Check("gateway", "ok", f"{where} is free")
    if ours:
        return Check("gateway", "ok", f"{where} is held by this fleet (pid {pid})")
    by = f"pid {pid}" if pid is not None else "another user's process"
    return Check("gateway", "warn", f"{where} is taken by {by}", "set another [gateway] port")


def nearest(path: Path) -> Path:
    """The path, or the closest of its parents that exists."""
    return next((place for place in (path, *path.parents) if place.exists()), Path("/"))


def room(name: str, path: Path, *, warn_bytes: int = GIB, bad_bytes: int = 100 * MIB) -> Room:
    """A directory, or where it would be made, as its file system is now; raises `OSError`."""
    there = nearest(path)
    stat = os.statvfs(there)
    writable = os.access(there, os.W_OK | os.X_OK)
    return Room(name, path, stat.f_bavail * stat.f_frsize, writable, warn_bytes, bad_bytes)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.1f} GiB" if size_bytes >= GIB else f"{size_bytes / MIB:.0f} MiB"


def _limit(value: int) -> str:
    return "no limit" if value < 0 else str(value)
