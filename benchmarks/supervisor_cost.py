"""What watching over workers costs: memory of the shims, CPU and memory of the daemon.

    python -m benchmarks.supervisor_cost [--workers 64] [--seconds 60]

The workers are fake `vllm serve` trees of three processes each: real process trees and HTTP servers
that say what an idle vLLM 0.32 says on /metrics (48 kB), no engine. The daemon's CPU is measured
twice: while nobody looks, and while a console reads every snapshot.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.common import ROOT, median, table
from benchmarks.faults.site import Site
from benchmarks.faults.trees import fake_fleet, model
from vllm_console.control.client import Client
from vllm_console.errors import ConsoleError

METRICS = ROOT / "tests/unit/telemetry/data/idle.txt.gz"
READY_S = 300.0
SETTLE_S = 15.0
"""The console that waited for the workers to be ready is forgotten by then: ten seconds."""
_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--workers", type=int, default=64, help="under the daemon's CPU figure")
    options.add_argument("--seconds", type=float, default=60.0, help="of each CPU measurement")
    args = options.parse_args()
    rows: list[list[object]] = []
    for count in (1, 8):
        with _fleet(count) as site:
            rows += _shims(site, count)
    with _fleet(args.workers) as site:
        rows += _shims(site, args.workers) + _daemon(site, args.workers, args.seconds)
    table(rows, ["what", "value"])


@contextmanager
def _fleet(count: int) -> Iterator[Site]:
    """A fleet of one model with so many workers, every one of them ready."""
    with tempfile.TemporaryDirectory(prefix="vllm-console-cost-") as root:
        workers = f"scale = {{ min = {count}, max = {count} }}"
        with fake_fleet(Path(root), model("m", workers, fake_metrics=str(METRICS))) as site:
            site.up()
            site.ready(within_s=READY_S)
            yield site


def _shims(site: Site, count: int) -> list[list[object]]:
    """Memory of every shim, in MB; the proportional share counts a shared page once in all."""
    shims = [shim for name in site.workers() if (shim := site.shim(name)) is not None]
    if len(shims) != count:
        raise SystemExit(f"{len(shims)} shims of {count} workers")
    shared = [_memory(pid, "Pss") for pid, _ in shims]
    resident = [_memory(pid, "Rss") for pid, _ in shims]
    workers = "1 worker" if count == 1 else f"{count} workers"
    return [
        [f"shim, {workers}: PSS, median (MB)", median(shared)],
        [f"shim, {workers}: PSS, most (MB)", max(shared)],
        [f"shim, {workers}: RSS, median (MB)", median(resident)],
    ]


def _daemon(site: Site, count: int, seconds: float) -> list[list[object]]:
    """CPU of the daemon in percent of one core, and its memory in MB."""
    daemon = site.daemon()
    if daemon is None:
        raise SystemExit("the daemon ended")
    pid = daemon[0]
    time.sleep(SETTLE_S)
    alone = _cpu(pid, seconds)
    console = Client(site.place.socket)
    watching = threading.Thread(target=_watch, args=(console,), daemon=True)
    watching.start()
    watched = _cpu(pid, seconds)
    console.close()
    watching.join(5.0)
    return [
        [f"daemon, {count} idle workers, nobody looks: CPU (% of a core)", alone],
        [f"daemon, {count} idle workers, a console looks: CPU (% of a core)", watched],
        [f"daemon, {count} idle workers: PSS (MB)", _memory(pid, "Pss")],
        [f"daemon, {count} idle workers: RSS (MB)", _memory(pid, "Rss")],
    ]


def _watch(console: Client) -> None:
    """Read every snapshot, as a console does."""
    with suppress(ConsoleError):
        for _ in console.snapshots():
            pass


def _cpu(pid: int, seconds: float) -> float:
    """Percent of one core that a process takes over so many seconds."""
    began, before = time.monotonic(), _cpu_s(pid)
    time.sleep(seconds)
    return 100 * (_cpu_s(pid) - before) / (time.monotonic() - began)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _memory(pid: int, kind: str) -> float:
    """Megabytes (10^6) of a process, by /proc/PID/smaps_rollup."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == kind:
            return int(value.split()[0]) * 1024 / 1e6
    raise SystemExit(f"no {kind} of process {pid}")


if __name__ == "__main__":
    main()
