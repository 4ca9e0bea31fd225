"""From a key to its picture: a real console on a pty over a scripted fleet of 4 and of 64 models.

    python -m benchmarks.key_to_paint [--size 160x48] [--rounds 16]

A key's time ends when the terminal has read the text that only this key brings. Meanwhile the fleet
sends a snapshot a second in which every number moves, as a live one does.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence

MODELS = (4, 64)
ESCAPES = re.compile(
    rb"\x1b(?:\[[0-9;?<>=]*[a-zA-Z]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[PX^_].*?\x1b\\|.)", re.DOTALL
)
GOAL_S = 0.1
_WITHIN_S = 10.0
_QUIET_S = 0.04
"""Seconds without a byte after which a picture is complete."""

_STARTED_S = 0.6
"""The same after the start."""

Step = tuple[str, bytes, str]
"""What the key does, the key, and a pattern of the text that it brings."""


def steps() -> Sequence[Step]:
    """One round; it ends where it began."""
    board = "¹engines"
    escape = b"\x1b[27u"  # as the kitty protocol has it: told at once from the start of a sequence
    return (
        ("select", b"j", "─ 2 of"),
        ("select", b"k", "─ 1 of"),
        ("panel", b"2", "²performance"),
        ("panel", b"1", board),
        ("filter", b"/", "keep"),
        ("filter", b"p", "p▏"),
        ("filter", escape, "1-4 panel"),
        ("select", b"\x1b[H", "─ 1 of"),
        ("zoom", b"z", board),
        ("zoom", b"z", "³batching"),
        ("help", b"?", "esc closes"),
        ("back", escape, "1-4 panel"),
        ("events", b"E", "esc back"),
        ("back", escape, "1-4 panel"),
        ("worker", b"\r", "esc back"),
        ("back", escape, "1-4 panel"),
        ("history", b"H", "esc back"),
        ("back", escape, "1-4 panel"),
    )


class Terminal:
    """A console on a pty, read as a terminal reads."""

    def __init__(self, models: int, columns: int, rows: int) -> None:
        self.master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environ = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        environ.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.key_to_paint", "--play", str(models)],
            stdin=slave, stdout=slave, stderr=slave, env=environ, start_new_session=True,
        )  # fmt: skip
        os.close(slave)

    def read(self, seconds: float) -> bytes:
        """What is drawn next; nothing where nothing is for so long."""
        if not select.select([self.master], [], [], seconds)[0]:
            return b""
        return os.read(self.master, 1 << 16)

    def settle(self, seconds: float = _QUIET_S) -> None:
        """Read until nothing is drawn for so long."""
        while self.read(seconds):
            pass

    def until(self, pattern: str) -> tuple[float, float]:
        """Seconds until the first byte, and until a text is drawn; ends the program without it."""
        began, drawn, first = time.perf_counter(), b"", 0.0
        wanted = pattern.encode()
        while True:
            piece = self.read(_WITHIN_S)
            now = time.perf_counter() - began
            first = first or now
            drawn += piece
            if wanted in ESCAPES.sub(b"", drawn):
                return first, now
            if not piece or now > _WITHIN_S:
                sys.exit(f"key_to_paint: {pattern} was not drawn within {_WITHIN_S:g} s")

    def press(self, key: bytes, pattern: str) -> tuple[float, float]:
        """Type a key and wait for the text that it brings."""
        os.write(self.master, key)
        return self.until(pattern)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


def play(models: int) -> None:
    """The console in this terminal, over a scripted fleet that sends a snapshot each second."""
    from dataclasses import replace
    from datetime import timedelta
    from itertools import count
    from threading import Thread

    from tests.ui.scripted import NOON, Connection, LabFleet, ScriptedClient
    from vllm_console.ui.console import Console

    client = ScriptedClient(LabFleet(models=models, gpus=8, gateway=True))
    pictures = [client.fleet.at(140 + t) for t in range(8)]

    def send() -> None:
        for t in count():
            at = (NOON + timedelta(seconds=t)).isoformat()
            client.push(replace(pictures[t % len(pictures)], at=at))
            time.sleep(1.0)

    Thread(target=send, daemon=True).start()
    Console(lambda: Connection(client)).run()


def measured(models: int, columns: int, rows: int, rounds: int) -> dict[str, list[float]]:
    """Seconds from each key to its text, by what the key does; "first byte" is of all keys."""
    chance = random.Random(1)
    terminal = Terminal(models, columns, rows)
    times: dict[str, list[float]] = {}
    try:
        terminal.until(steps()[1][2])
        terminal.settle(_STARTED_S)
        for one_round in range(rounds + 1):
            for what, key, pattern in steps():
                terminal.settle()
                time.sleep(chance.uniform(0.0, 0.15))
                terminal.settle(0.001)
                first, whole = terminal.press(key, pattern)
                if one_round:  # the first round loads modules and style sheets
                    times.setdefault(what, []).append(whole)
                    times.setdefault("first byte", []).append(first)
    finally:
        terminal.close()
    return times


def percentile(values: Sequence[float], share: float) -> float:
    """The value that so large a share does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main() -> int:
    """Print a table for each fleet; 1 where the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="160x48")
    parser.add_argument("--rounds", type=int, default=16, help="of 18 keys each")
    parser.add_argument("--models", type=int, nargs="*", default=MODELS)
    parser.add_argument("--play", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.play is not None:
        play(args.play)
        return 0
    columns, rows = map(int, args.size.split("x"))
    missed = False
    for models in args.models:
        times = measured(models, columns, rows, args.rounds)
        every = [t for what, each in times.items() if what != "first byte" for t in each]
        print(f"\n{args.size}, {models} models, {len(every)} keys   ms   p50    p99    max")
        for what, each in (*times.items(), ("all", every)):
            shown = (percentile(each, 0.5), percentile(each, 0.99), max(each))
            print(f"  {what:<32}" + "".join(f"{1e3 * value:7.1f}" for value in shown), flush=True)
        missed = missed or percentile(every, 0.99) > GOAL_S
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
