"""Processes of a benchmark: compiled tools, pinning, CPU seconds, memory, open files, their end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults.table import until

HERE = Path(__file__).resolve().parent
TOOLS_CORE, TARGET_CORE = 0, 1
"""Load generator and backends share one core, what is measured has the other for itself."""
END_S = 8.0


class Missing(Exception):
    """Something a benchmark needs is not on this machine; the text says what, in one line."""


@dataclass(frozen=True, slots=True)
class Tools:
    """The compiled programs."""

    backend: Path
    loadgen: Path


def tools(directory: Path) -> Tools:
    """Compile the C programs into `directory`. Raises `Missing` without a C compiler."""
    made = Tools(directory / "backend", directory / "loadgen")
    for program in (made.backend, made.loadgen):
        source = HERE / f"{program.name}.c"
        words = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(source)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise Missing("no C compiler: install cc") from None
        if done.returncode:
            raise Missing(f"{source.name} does not compile: {done.stderr.strip()}")
    return made


def pinned(core: int | None, words: Sequence[str]) -> list[str]:
    """A command line that runs on one core only; anywhere if that is `None` or there is but one."""
    if core is None or core not in os.sched_getaffinity(0):
        return list(words)
    return ["taskset", "-c", str(core), *words]


@contextmanager
def running(
    words: Sequence[str],
    *,
    core: int | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, ended with its children on leaving."""
    with open(log or os.devnull, "ab") as out:
        process = subprocess.Popen(
            pinned(core, words),
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=cwd,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """TERM to the session a process leads, KILL after a while; returns once it is gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
            return


@contextmanager
def backends(made: Tools, ports: Sequence[int], *options: str) -> Iterator[list[int]]:
    """Fake workers on these ports; their pids."""
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(
                running([str(made.backend), "-p", str(port), *options], core=TOOLS_CORE)
            )
            for port in ports
        ]
        for port in ports:
            until(lambda port=port: listens(port), 10.0, f"port {port} listens")  # type: ignore[misc]
        yield [process.pid for process in started]


def load(made: Tools, port: int, *options: object) -> dict[str, Any]:
    """Run the load generator to its end; what it counted, times in microseconds."""
    words = [str(made.loadgen), "-p", str(port), *map(str, options)]
    done = subprocess.run(
        pinned(TOOLS_CORE, words), capture_output=True, text=True, timeout=120, check=True
    )
    return dict(json.loads(done.stdout))


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on now, all different."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


def listens(port: int) -> bool:
    """Whether a connection to this port of the loopback is taken."""
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


# --- what a process tree uses --------------------------------------------------------------------


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            children = Path(f"/proc/{pid}/task/{task}/children").read_text().split()
            for child in children:
                found += tree(int(child))
    return found


def cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds of these processes so far, from the scheduler's nanoseconds of each thread."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(OSError):
                    counted = Path(f"/proc/{pid}/task/{task}/schedstat").read_text()
                    total += int(counted.split()[0])
    return total / 1e9


def rss_kb(pids: Sequence[int]) -> int:
    """Resident memory of these processes now, in kB."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1])
    return total


def open_files(pid: int) -> int:
    """How many descriptors a process holds."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def settled(value: Callable[[], float], within_s: float = 5.0, still_s: float = 0.5) -> float:
    """A value once it has stood still for `still_s`, or as it is after `within_s`."""
    deadline = time.monotonic() + within_s
    last, since = value(), time.monotonic()
    while time.monotonic() < deadline and time.monotonic() - since < still_s:
        time.sleep(0.05)
        now = value()
        if now != last:
            last, since = now, time.monotonic()
    return last
