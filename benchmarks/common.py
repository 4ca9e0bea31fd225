"""What every benchmark needs: the CLI as a user runs it, a fleet of its own, medians, tables."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CLI = Path(sys.executable).with_name("vllm-console")
"""The console script beside this Python: what a user's shell starts."""

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed is compiled
if (ROOT / ".engines").is_dir():  # where `make` keeps them
    os.environ.setdefault("VLLM_CONSOLE_ENGINES", str(ROOT / ".engines"))


@dataclass(frozen=True, slots=True)
class BenchFleet:
    """A fleet with a state directory of its own, so that no other fleet is touched."""

    file: Path
    state_dir: Path

    def words(self, *verb: str) -> list[str]:
        """The command line of a verb on this fleet."""
        words = [str(CLI), "--fleet", str(self.file), "--state-dir", str(self.state_dir)]
        return [*words, *verb]

    def run(self, *verb: str, timeout: float = 60.0) -> str:
        """Runs a verb to its end; its stdout. Ends the benchmark when the verb fails."""
        done = subprocess.run(
            self.words(*verb), capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(verb)}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def status(self) -> dict[str, Any]:
        """`status --json`, parsed."""
        return dict(json.loads(self.run("status", "--json")))

    def wait_ready(self, models: Sequence[str], timeout: float = 600.0) -> dict[str, Any]:
        """The status once every worker of these models serves."""
        deadline = time.monotonic() + timeout
        while True:
            status = self.status()
            states = {m["name"]: m["state"] for m in status["models"] if m["name"] in models}
            if all(state == "ready" for state in states.values()):
                return status
            broken = {n: s for n, s in states.items() if s in ("failed", "crash-loop")}
            if broken or time.monotonic() > deadline:
                raise SystemExit(f"not ready: {broken or states}")
            time.sleep(0.25)


def workers_of(status: dict[str, Any]) -> list[dict[str, Any]]:
    """Every worker of a status, over all models."""
    return [worker for model in status["models"] for worker in model["workers"]]


@contextmanager
def fleet(
    file: Path, models: Sequence[str] | None = None
) -> Iterator[tuple[BenchFleet, dict[str, Any]]]:
    """A running fleet with `models` ready (default: those that start by themselves), then gone."""
    state_dir = Path(tempfile.mkdtemp(prefix="vllm-console-bench-"))
    running = BenchFleet(file, state_dir)
    try:
        if models is None:
            running.run("up", "-d")
            names = [m["name"] for m in running.status()["models"] if m["autostart"]]
        else:
            running.run("up", "-d", "--no-autostart")
            names = list(models)
            for name in names:
                running.run("load", name, timeout=600)
        yield running, running.wait_ready(names)
    finally:
        subprocess.run(running.words("down"), capture_output=True, timeout=120, check=False)
        shutil.rmtree(state_dir, ignore_errors=True)


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options all benchmarks share."""
    made = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    made.add_argument("--fleet", type=Path, default=ROOT / "fleet.toml", help="the fleet file")
    return made


def wall(words: Sequence[str]) -> float:
    """Seconds from starting a command to its end; ends the benchmark when it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    code = process.wait()  # a wait with a timeout polls, in steps of up to 50 ms
    took = time.perf_counter() - start
    if code:
        raise SystemExit(f"{' '.join(words)}: exit {code}")
    return took


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> None:
    """Prints rows under a header, columns aligned, numbers to the right."""
    text = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *text]) for i in range(len(header))]
    print("  ".join(name.ljust(width) for name, width in zip(header, widths, strict=True)).rstrip())
    for row, shown in zip(rows, text, strict=True):
        cells = (
            cell.rjust(width) if isinstance(value, (int, float)) else cell.ljust(width)
            for value, cell, width in zip(row, shown, widths, strict=True)
        )
        print("  ".join(cells).rstrip())


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 10 else f"{value:.1f}"
    return "–" if value is None else str(value)


def disk_bytes(path: Path) -> int:
    """Bytes on disk under a directory, as `du` counts them; 0 if there is none."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total
