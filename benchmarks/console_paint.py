"""What painting costs: bytes a frame, CPU and memory of the console over a fleet without engines.

    python -m benchmarks.console_paint [--size 160x48] [--seconds 12] [--against CHECKOUT]

This process answers as a daemon does, one snapshot a second on a unix socket; the console is a
process of its own that reads them as any. "moving" changes every value, "still" none but the time
of day. `--against` measures another checkout too, in turn with this one.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from itertools import count
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from threading import Thread

import psutil

from tests.ui.scripted import NOON, LabFleet
from vllm_console.snapshot import to_json

MODELS = (4, 64, 256)
HERE = Path(__file__).resolve().parents[1]
WARM_UP_S = 4.0


_ATTACH = """
from pathlib import Path
from vllm_console.control.client import Client
from vllm_console.ui.app import run_console
run_console(lambda: Client(Path({!r}), program="console"))
"""
"""The console of the checkout that comes first in the path."""


@contextmanager
def daemon(models: int, still: bool) -> Iterator[str]:
    """Answers as a daemon of so many models; the value is its socket."""
    fleet = LabFleet(models=models, gpus=8)
    pictures = [fleet.at(140 + t) for t in range(1 if still else 8)]
    lines = [json.dumps(to_json(replace(p, at="AT"))).encode() + b"\n" for p in pictures]

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path != "/v1/snapshots":
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            with suppress(OSError):  # the console has ended
                for t in count():
                    at = (NOON + timedelta(seconds=t)).isoformat().encode()
                    line = lines[t % len(lines)].replace(b"AT", at, 1)
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                    time.sleep(1.0)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is logged."""

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/control.sock"
        with ThreadingUnixStreamServer(path, Answers) as server:
            server.daemon_threads = True
            server.block_on_close = False
            Thread(target=server.serve_forever, daemon=True).start()
            yield path
            server.shutdown()


def measured(
    models: int, still: bool, columns: int, rows: int, seconds: float, checkout: Path
) -> list[str]:
    """Kilobytes a second, CPU and memory of one console, as a row of the table."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environ = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    program = f"import sys; sys.path.insert(0, {str(checkout)!r})"
    with daemon(models, still) as socket:
        child = subprocess.Popen(
            [sys.executable, "-c", f"{program}\n{_ATTACH.format(socket)}"],
            stdin=slave, stdout=slave, stderr=slave, env=environ, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        process = psutil.Process(child.pid)
        try:
            drained(master, WARM_UP_S)
            before = sum(process.cpu_times()[:2])
            drawn = drained(master, seconds)
            cpu = (sum(process.cpu_times()[:2]) - before) / seconds
            resident = process.memory_info().rss / 2**20
        finally:
            child.kill()
            child.wait()
            os.close(master)
    kind = "still" if still else "moving"
    return [str(models), kind, f"{drawn / seconds / 1e3:.1f}", f"{cpu:.1%}", f"{resident:.0f}"]


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
    parser.add_argument("--models", type=int, nargs="*", default=MODELS)
    parser.add_argument("--against", type=Path, help="another checkout of the console")
    args = parser.parse_args()
    columns, rows = map(int, args.size.split("x"))
    print(f"{args.size}, one snapshot a second")
    print(f"{'models':>6}  {'values':<7} {'kB a frame':>10} {'CPU':>7} {'MiB':>5}")
    checkouts = {"": HERE, **({"  against": args.against.resolve()} if args.against else {})}
    for models in args.models:
        for still in (False, True):
            for name, checkout in checkouts.items():
                row = measured(models, still, columns, rows, args.seconds, checkout)
                shown = f"{row[0]:>6}  {row[1]:<7} {row[2]:>10} {row[3]:>7} {row[4]:>5}{name}"
                print(shown, flush=True)


if __name__ == "__main__":
    main()
