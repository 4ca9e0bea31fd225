"""Fake workers that are killed and started again, and what they wrote down of their requests."""

from __future__ import annotations

import contextlib
import re
import subprocess
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from benchmarks.gateway.processes import Tools

_RUNNING = re.compile(r"vllm:num_requests_(?:running|waiting)\{[^}]*\} (\d+)")
_COUNTED = re.compile(r"^(fake_\w+) (\d+)$", re.MULTILINE)


class Workers:
    """One fake worker a port; entered, all run, left, none does."""

    def __init__(self, made: Tools, root: Path, ports: Sequence[int], *options: str) -> None:
        """`options` are those of backend.c."""
        self.ports = list(ports)
        self._words = [str(made.backend), *options]
        self._root = root
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Workers:
        for port in self.ports:
            self.start(port)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for port in tuple(self._running):
            self.kill(port)

    def start(self, port: int) -> None:
        """Start the worker of a port."""
        with open(self._root / f"worker-{port}.log", "ab") as log:
            self._running[port] = subprocess.Popen(
                [*self._words, "-p", str(port)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self, port: int) -> None:
        """Kill the worker of a port; its requests end with it."""
        process = self._running.pop(port)
        process.kill()
        process.wait()

    def counted(self) -> dict[str, int]:
        """Sums of what the workers that run count: `fake_requests_total` and others."""
        sums: dict[str, int] = {}
        for text in map(_metrics, self._running):
            for name, value in _COUNTED.findall(text):
                sums[name] = sums.get(name, 0) + int(value)
        return sums

    def running(self) -> int:
        """Requests that run or wait in the workers now."""
        return sum(map(running_at, self._running))

    @property
    def logs(self) -> list[Path]:
        """What they wrote down, a file a worker."""
        return [self._root / f"worker-{port}.log" for port in self.ports]


def running_at(port: int) -> int:
    """Requests that run or wait in the worker of this port; raises `OSError` without one."""
    return sum(map(int, _RUNNING.findall(_metrics(port))))


def ran_on(logs: Iterable[Path], left: Mapping[str, int], within_s: float) -> tuple[int, float]:
    """How many requests ran on after their client had left, and the p99 of how long, in ms.

    `left` is when each client left, monotonic nanoseconds, by the user of its request.
    """
    ends: dict[str, int] = {}
    for log in logs:
        for line in log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # another line, or one that a kill cut short
                user, _, at, _ = line.split(" ")
                ends[user] = max(ends.get(user, 0), int(at))
    after_ms = sorted((ends[user] - at) / 1e6 for user, at in left.items() if user in ends)
    late = sum(took > within_s * 1000 for took in after_ms)
    return late, after_ms[int(0.99 * (len(after_ms) - 1))] if after_ms else 0.0


def _metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5.0) as answer:
        return str(answer.read(), "utf-8")
