"""What the console costs: first frame with live numbers, then CPU, memory and bytes drawn.

    python benchmarks/console_cost.py [--size 160x48] [--seconds 20]

The console runs in a pseudo-terminal that this process drains, as a terminal would, while the
demo's traffic keeps every panel moving.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time

import psutil
from common import BenchFleet, fleet, median, parser, table, workers_of

from tests.ui.screen import Screen
from vllm_console.traffic.generate import Target
from vllm_console.traffic.process import TrafficProcess

LIVE = re.compile(r"\d[\d.,]*\s?k?\s*(?:tok/s|t/s)")
"""A throughput with a number before it: drawn only once a sample has been taken."""


class Terminal:
    """A console in a pseudo-terminal of a given size."""

    def __init__(self, words: list[str], columns: int, rows: int) -> None:
        self.started = time.monotonic()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
            os.environ.update(COLUMNS=str(columns), LINES=str(rows))
            size = struct.pack("HHHH", rows, columns, 0, 0)
            fcntl.ioctl(0, termios.TIOCSWINSZ, size)
            os.execv(words[0], words)
        self.bytes = 0
        self.screen = Screen(columns, rows)
        self.first_live: float | None = None

    def drain(self, seconds: float, *, until_live: bool = False) -> None:
        """Reads what is drawn for so long, or until live numbers are on the screen."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([self.fd], [], [], left)
            if not ready:
                return
            try:
                data = os.read(self.fd, 1 << 16)
            except OSError:
                raise SystemExit(f"the console ended\n{self.screen.text}") from None
            self.bytes += len(data)
            if self.first_live is None:
                self.screen.feed(data)
                if LIVE.search(self.screen.text):
                    self.first_live = time.monotonic() - self.started
                    if until_live:
                        return

    def close(self) -> None:
        """Quits the console by its key, by force where that does not help."""
        os.write(self.fd, b"q")
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                break
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    os.read(self.fd, 1 << 16)
                except OSError:
                    os.waitpid(self.pid, 0)
                    break
        else:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


def first_frame(running: BenchFleet, columns: int, rows: int) -> float:
    """Seconds from exec to the first frame with live numbers."""
    terminal = Terminal(running.words("console"), columns, rows)
    try:
        terminal.drain(15, until_live=True)
        if terminal.first_live is None:
            raise SystemExit("no live number within 15 s")
        return terminal.first_live
    finally:
        terminal.close()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--size", default="160x48", help="COLUMNSxROWS")
    options.add_argument("--seconds", type=float, default=20.0, help="of the CPU measurement")
    options.add_argument("--rate", type=float, default=2.0, help="requests a second meanwhile")
    args = options.parse_args()
    columns, rows = (int(number) for number in args.size.split("x"))
    with fleet(args.fleet) as (running, status):
        serving = [w for w in workers_of(status) if w["url"]]
        targets = [
            Target(model["name"], worker["url"])
            for model in status["models"]
            for worker in model["workers"]
            if worker["url"]
        ]
        traffic = TrafficProcess(rate=args.rate, prompt=60, output=40)
        try:
            traffic.aim(targets)
            time.sleep(5)
            firsts = [first_frame(running, columns, rows) for _ in range(5)]
            terminal = Terminal(running.words("console"), columns, rows)
            try:
                terminal.drain(5)
                process = psutil.Process(terminal.pid)
                before, drawn, start = process.cpu_times(), terminal.bytes, time.monotonic()
                terminal.drain(args.seconds)
                after, seconds = process.cpu_times(), time.monotonic() - start
                used = after.user + after.system - before.user - before.system
                memory = process.memory_info().rss
                drawn = terminal.bytes - drawn
            finally:
                terminal.close()
        finally:
            traffic.stop(drain=False)
    table(
        [
            ["first live frame, median of 5 (s)", median(firsts)],
            ["first live frame, slowest (s)", max(firsts)],
            [f"CPU over {seconds:.0f} s (% of a core)", 100 * used / seconds],
            ["memory, RSS (MB)", memory / 1e6],
            ["drawn (kB/s)", drawn / seconds / 1e3],
        ],
        [f"console {args.size}, {len(serving)} workers", "value"],
    )


if __name__ == "__main__":
    main()
