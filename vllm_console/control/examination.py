"""Looks at this machine and one fleet for `doctor`; starts, stops and signals nothing."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import vllm_console
from vllm_console.control import doctor
from vllm_console.control.client import Client
from vllm_console.control.doctor import GIB, Check
from vllm_console.control.orphans import find, read_gpus
from vllm_console.control.process import is_running
from vllm_console.devices.driver import read_driver
from vllm_console.devices.mounts import remote_filesystem
from vllm_console.devices.nvml import Nvml
from vllm_console.engines.cuda import torch_cuda
from vllm_console.engines.environment import (
    EngineEnvironment,
    engines_dir,
    environments,
    has_nvidia_driver,
    resolve,
)
from vllm_console.engines.flags import cached_schema
from vllm_console.errors import ConsoleError
from vllm_console.fleet.find import Place
from vllm_console.fleet.model import Fleet, Gateway
from vllm_console.gateway.place import is_held, read_record
from vllm_console.workers.shim import process
from vllm_console.workers.sockets import listeners, sockets_of
from vllm_console.workers.strangers import owner_of, owners, processes, strays

DAEMON_ANSWER_S = 1.0
_STA_UNSYNC, _TIME_ERROR = 0x40, 5


def examine(
    place: Place | None, fleet: Fleet | None, environ: Mapping[str, str] = os.environ
) -> list[Check]:
    """Every check, within 2 s; without a fleet those of the machine alone."""
    machine: dict[str, Callable[[], Sequence[Check]]] = {
        "python": _python,
        "engines": lambda: _engines(fleet, environ),
        "gpus": lambda: _gpus(place),
        "disk: state": lambda: _state_disk(place),
        "disk: engines": lambda: [
            doctor.disk(doctor.room("engines", engines_dir(environ), warn_bytes=12 * GIB))
        ],
        "disk: models": lambda: [
            doctor.disk(doctor.room("models", hub_cache(environ), warn_bytes=20 * GIB))
        ],
        "daemon": lambda: _daemon(place),
        "gateway": lambda: _gateway(place, fleet.gateway if fleet else Gateway()),
        "shm": _shm,
        "ulimit": lambda: [doctor.open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))],
        "orphans": lambda: _orphans(place),
        "clock": lambda: [doctor.clock(time.time(), _newest(place), ntp_synchronised())],
        "cgroup": _cgroup,
    }
    return doctor.gather(machine)


def hub_cache(environ: Mapping[str, str]) -> Path:
    """Where models of the hub are kept (huggingface_hub, constants.py)."""
    if chosen := environ.get("HF_HUB_CACHE"):
        return Path(chosen).expanduser()
    if home := environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "huggingface" / "hub"


def ntp_synchronised() -> bool | None:
    """What the kernel says of its clock; `None` where it does not tell. Format: adjtimex(2)."""

    class Timex(ctypes.Structure):
        _fields_ = (
            ("modes", ctypes.c_uint),
            ("offset", ctypes.c_long),
            ("freq", ctypes.c_long),
            ("maxerror", ctypes.c_long),
            ("esterror", ctypes.c_long),
            ("status", ctypes.c_int),
            ("rest", ctypes.c_char * 256),
        )

    told = Timex()
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.byref(told))
    except (OSError, AttributeError):
        return None
    if state < 0:
        return None
    return not (state == _TIME_ERROR or told.status & _STA_UNSYNC)


def _python() -> list[Check]:
    text = f"Python {platform.python_version()}, vllm-console {vllm_console.__version__}"
    return [Check("python", "ok", text)]


def _engines(fleet: Fleet | None, environ: Mapping[str, str]) -> list[Check]:
    """The engines the fleet means, and every managed one besides."""
    wanted = (
        {"vllm"}
        if fleet is None
        else {model.engine for model in fleet.models.values() if not model.attached}
    )
    checks, meant = [], {}
    for name in sorted(wanted):
        try:
            meant[name] = resolve(name, environ=environ)
        except ConsoleError as error:
            text, _, remedy = str(error).rpartition("; ")
            checks.append(Check("engine", "bad", text or remedy, remedy if text else None))
    shown = {engine.program for engine in meant.values()}
    besides = [e for e in environments(engines_dir(environ)) if e.program not in shown]
    checks += [_engine(name, engine) for name, engine in meant.items()]
    checks += [_engine(engine.name, engine) for engine in besides]
    driver = None
    cuda = [(name, engine) for name, engine in meant.items() if engine.device == "cuda"]
    if has_nvidia_driver():
        driver = read_driver()
        if driver is not None:
            runs = f", CUDA up to {driver.cuda[0]}.{driver.cuda[1]}" if driver.cuda else ""
            checks.append(Check("driver", "ok", f"NVIDIA {driver.version}{runs}"))
    return checks + [doctor.cuda_match(driver, name, torch_cuda(e)) for name, e in cuda]


def _engine(name: str, engine: EngineEnvironment) -> Check:
    version = f"vLLM {engine.version or 'of unknown version'}"
    options = "options read" if cached_schema(engine) else "options not read yet"
    text = f"{name}: {version}, {engine.device or 'device unknown'}, {engine.found}, {options}"
    if engine.version is None:
        return Check("engine", "warn", text, f"look at `{engine.program} --version`")
    return Check("engine", "ok", text)


def _gpus(place: Place | None) -> list[Check]:
    nvml = Nvml()
    reading = nvml.poll()
    nvml.close()
    if not reading.gpus:
        return [Check("gpus", "ok", reading.reason or "none")]
    table = processes()
    workers = place.workers if place is not None else None
    owned = owners(table, workers)
    ours = [
        pid
        for pid in reading.processes
        if (directory := owner_of(pid, table, owned)) is not None and directory.parent == workers
    ]
    return [
        doctor.gpu(
            gpu,
            {
                pid: sizes[gpu.index]
                for pid, sizes in reading.processes.items()
                if gpu.index in sizes
            },
            ours,
            table,
        )
        for gpu in reading.gpus
    ]


def _state_disk(place: Place | None) -> list[Check]:
    if place is None:
        return []
    lies_on = remote_filesystem(place.state_dir.resolve())
    found = doctor.locality(place.state_dir, lies_on)
    return [doctor.disk(doctor.room("state", place.state_dir)), *found]


def _daemon(place: Place | None) -> list[Check]:
    if place is None:
        return []
    if not is_running(place):
        return [Check("daemon", "ok", "none runs; `vllm-console up -d` starts one")]
    try:
        told = json.loads(Client(place.socket, timeout=DAEMON_ANSWER_S).snapshot_json())["daemon"]
    except ConsoleError:
        text = f"one holds {place.state_dir}/daemon.lock and does not answer"
        return [Check("daemon", "bad", text, f"see {place.daemon_log}")]
    text = f"runs, pid {told['pid']}, version {told['version']}"
    if told["version"] != vllm_console.__version__:
        text += f"; this program is {vllm_console.__version__}"
        remedy = f"`kill {told['pid']}`, then `vllm-console up -d`: workers serve on"
        return [Check("daemon", "warn", text, remedy)]
    return [Check("daemon", "ok", text)]


def _is_gateway(place: Place, pid: int) -> bool:
    """Whether this process serves the fleet: an earlier daemon may have started it."""
    record = read_record(place.gateway) if is_held(place.gateway) else None
    seen = process(pid)
    return record is not None and record.pid == pid and seen is not None and record.is_of(seen[0])


def _gateway(place: Place | None, gateway: Gateway) -> list[Check]:
    if not gateway.enabled:
        return [Check("gateway", "ok", "off: [gateway] enabled = false")]
    host, number = gateway.host, gateway.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, number, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
        return [doctor.port(host, number, free=True, pid=None, ours=False)]
    except PermissionError:
        text = f"{host}:{number} needs rights this user lacks"
        return [Check("gateway", "bad", text, "set a [gateway] port above 1023")]
    except OSError as error:
        sockets = listeners(number)
        if not sockets:
            text = f"{host}:{number} cannot be listened on: {error.strerror}"
            return [Check("gateway", "bad", text, "set [gateway] host and port")]
    table = processes()
    pid = next((pid for pid in sorted(table) if sockets_of(pid) & sockets), None)
    ours = pid is not None and place is not None and _is_gateway(place, pid)
    return [doctor.port(host, number, free=False, pid=pid, ours=ours)]


def _shm() -> list[Check]:
    try:
        stat = os.statvfs("/dev/shm")
    except OSError:
        return [doctor.shm(None)]
    return [doctor.shm(stat.f_blocks * stat.f_frsize)]


def _orphans(place: Place | None) -> list[Check]:
    found = find(place.state_dir if place is not None else None, read_gpus())
    table = processes()
    workers = place.workers if place is not None else None
    return doctor.orphans(found, strays(table, owners(table, workers)))


def _newest(place: Place | None) -> float:
    """The latest time at which a file of ours was surely there, in seconds since the epoch."""
    newest = 0.0
    for path in (Path(vllm_console.__file__), *((place.daemon_log,) if place else ())):
        with suppress(OSError):
            newest = max(newest, path.stat().st_mtime)
    return newest


def _cgroup() -> list[Check]:
    root = Path("/sys/fs/cgroup")
    if not (root / "cgroup.controllers").exists():
        return [doctor.cgroups(1 if (root / "memory").is_dir() else None, kill=False)]
    with suppress(OSError):
        own = Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip()
        return [doctor.cgroups(2, kill=(root / own.lstrip("/") / "cgroup.kill").exists())]
    return [doctor.cgroups(2, kill=False)]
