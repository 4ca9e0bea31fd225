"""What painting costs: bytes a frame and CPU of the console over a scripted fleet, no engine.

    python -m benchmarks.console_paint [--size 160x48] [--seconds 12]

One snapshot a second. "moving" changes every value, "still" none but the time of day.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace

import psutil

MODELS = (4, 64, 256)
WARM_UP_S = 4.0


def play(models: int, still: bool) -> None:
    """The console in this terminal, over a scripted fleet that sends a snapshot each second."""
    from datetime import timedelta
    from itertools import count
    from threading import Thread

    from tests.ui.scripted import NOON, LabFleet, ScriptedClient
    from vllm_console.ui.console import Console

    client = ScriptedClient(LabFleet(models=models, gpus=8))

    pictures = [client.fleet.at(140 + t) for t in range(1 if still else 8)]

    def send() -> None:
        for t in count():
            snapshot = pictures[t % len(pictures)]
            client.push(replace(snapshot, at=(NOON + timedelta(seconds=t)).isoformat()))
            time.sleep(1.0)

    Thread(target=send, daemon=True).start()
    Console(lambda: client).run()


def measured(models: int, still: bool, columns: int, rows: int, seconds: float) -> list[str]:
    """Kilobytes a second and CPU of one console, as a row of the table."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    words = [sys.executable, "-m", "benchmarks.console_paint", "--play", str(models)]
    environ = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    child = subprocess.Popen(
        words + ["--still"] * still,
        stdin=slave, stdout=slave, stderr=slave, env=environ, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    process = psutil.Process(child.pid)
    try:
        drained(master, WARM_UP_S)
        before = sum(process.cpu_times()[:2])
        count = drained(master, seconds)
        cpu = (sum(process.cpu_times()[:2]) - before) / seconds
        resident = process.memory_info().rss / 2**20
    finally:
        child.kill()
        child.wait()
        os.close(master)
    kind = "still" if still else "moving"
    return [str(models), kind, f"{count / seconds / 1e3:.1f}", f"{cpu:.1%}", f"{resident:.0f}"]


def drained(master: int, seconds: float) -> int:
    """Bytes that are drawn in so many seconds."""
    count, deadline = 0, time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([master], [], [], left)[0]:
            count += len(os.read(master, 1 << 16))
    return count


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="160x48")
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--play", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--still", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.play is not None:
        play(args.play, args.still)
        return
    columns, rows = map(int, args.size.split("x"))
    print(f"{args.size}, one snapshot a second")
    print(f"{'models':>6}  {'values':<7} {'kB a frame':>10} {'CPU':>7} {'MiB':>5}")
    for models in MODELS:
        for still in (False, True):
            row = measured(models, still, columns, rows, args.seconds)
            print(f"{row[0]:>6}  {row[1]:<7} {row[2]:>10} {row[3]:>7} {row[4]:>5}", flush=True)


if __name__ == "__main__":
    main()
