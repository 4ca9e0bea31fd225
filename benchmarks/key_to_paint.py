"""From a key to its picture: a real console on a pty over a scripted fleet of 4 and of 64 models.

    python -m benchmarks.key_to_paint [--size 160x48] [--rounds 16] [--against CHECKOUT]

A key's time ends when what only this key brings stands on the screen that the terminal makes of
what it has read. Meanwhile the fleet sends a snapshot a second in which every number moves, as a
live one does. `--against` measures another checkout too, round by round in turn with this one.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.ui.screen import Screen

MODELS = (4, 64)
GOAL_S = 0.1
HERE = Path(__file__).resolve().parents[1]
_WITHIN_S = 10.0
_QUIET_S = 0.04
"""Seconds without a byte after which a picture is complete."""

_STARTED_S = 0.6
"""The same after the start."""

Seen = Callable[[Screen], bool]
Step = tuple[str, bytes, Seen]
"""What the key does, the key, and whether what it brings stands there."""


def shows(text: str) -> Seen:
    """A text stands there."""
    return lambda screen: text in screen.text


def hides(text: str) -> Seen:
    """A text no longer stands there."""
    return lambda screen: text not in screen.text


def bold(text: str) -> Seen:
    """A text stands there in bold."""

    def seen(screen: Screen) -> bool:
        ink = screen.ink_of(text)
        return ink is not None and "1" in ink[0]

    return seen


def steps() -> Sequence[Step]:
    """One round; it ends where it began."""
    escape = b"\x1b[27u"  # as the kitty protocol has it: told at once from the start of a sequence
    board = shows("1-4 panel  z zoom")
    return (
        ("select", b"j", shows("─ 2 of")),
        ("select", b"k", shows("─ 1 of")),
        ("panel", b"2", bold("²performance")),
        ("panel", b"1", bold("¹engines")),
        ("filter", b"/", shows("enter keep")),
        ("filter", b"p", shows("p▏")),
        ("filter", escape, board),
        ("select", b"\x1b[H", shows("─ 1 of")),
        ("zoom", b"z", shows("¹engines  ²performance")),
        ("zoom", b"z", shows("─ ³batching ─")),
        ("help", b"?", shows("esc closes")),
        ("back", escape, hides("esc closes")),
        ("events", b"E", shows("esc back")),
        ("back", escape, board),
        ("worker", b"\r", shows("esc back")),
        ("back", escape, board),
        ("history", b"H", shows("esc back")),
        ("back", escape, board),
    )


class Terminal:
    """A console of a checkout on a pty, read as a terminal reads."""

    def __init__(self, models: int, columns: int, rows: int, checkout: Path = HERE) -> None:
        self.screen = Screen(columns, rows)
        self.pieces: list[tuple[float, bytes]] = []
        self.master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environ = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        environ.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.key_to_paint", "--play", str(models)],
            stdin=slave, stdout=slave, stderr=slave, env=environ, cwd=checkout,
            start_new_session=True,
        )  # fmt: skip
        os.close(slave)

    def read(self, seconds: float) -> bool:
        """Read what is drawn next; whether anything was for so long."""
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        drawn = os.read(self.master, 1 << 16)
        self.pieces.append((time.perf_counter(), drawn))
        return True

    def settle(self, seconds: float = _QUIET_S) -> None:
        """Read until nothing is drawn for so long."""
        while self.read(seconds):
            pass

    def until(self, seen: Seen | None) -> float:
        """When what was seen came; what was read is looked at later, which so costs no time."""
        deadline, came = time.perf_counter() + _WITHIN_S, 0.0
        while True:
            self.settle()
            for at, drawn in self.pieces:
                self.screen.feed(drawn)
                if not came and (seen is None or seen(self.screen)):
                    came = at
            self.pieces.clear()
            if came or seen is None:
                return came
            if time.perf_counter() > deadline:
                sys.exit(f"key_to_paint: not seen within {_WITHIN_S:g} s on\n{self.screen.text}")

    def press(self, key: bytes, seen: Seen) -> tuple[float, float, int]:
        """Type a key; seconds to the first byte and to what it brings, and how many bytes came."""
        self.until(None)
        if seen(self.screen):
            sys.exit(f"key_to_paint: {key!r} brings what is there already\n{self.screen.text}")
        began = time.perf_counter()
        os.write(self.master, key)
        if not self.read(_WITHIN_S):
            sys.exit(f"key_to_paint: nothing within {_WITHIN_S:g} s of {key!r}")
        self.settle()
        first, count = self.pieces[0][0], sum(len(drawn) for _, drawn in self.pieces)
        return first - began, self.until(seen) - began, count

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


Times = dict[str, list[float]]
"""By what the key does; "first byte" is of all keys, "kB" what was drawn for each key."""


_OF_ALL = ("first byte", "kB")


def measured(
    models: int, columns: int, rows: int, rounds: int, checkouts: Sequence[Path]
) -> list[Times]:
    """Seconds from each key to what it brings, of each checkout."""
    chance = random.Random(1)
    terminals = [Terminal(models, columns, rows, checkout) for checkout in checkouts]
    all_times: list[Times] = [{} for _ in checkouts]
    try:
        for terminal in terminals:
            terminal.until(shows("1-4 panel"))
            terminal.settle(_STARTED_S)
        for one_round in range(rounds + 1):
            for terminal, times in zip(terminals, all_times, strict=True):
                for what, key, seen in steps():
                    terminal.settle()
                    time.sleep(chance.uniform(0.0, 0.15))
                    first, whole, count = terminal.press(key, seen)
                    if one_round:  # the first round loads modules and style sheets
                        times.setdefault(what, []).append(whole)
                        times.setdefault("first byte", []).append(first)
                        times.setdefault("kB", []).append(count / 1e6)
    finally:
        for terminal in terminals:
            terminal.close()
    return all_times


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
    parser.add_argument("--against", type=Path, help="another checkout of the console")
    parser.add_argument("--play", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.play is not None:
        play(args.play)
        return 0
    columns, rows = map(int, args.size.split("x"))
    checkouts = [HERE, *([args.against.resolve()] if args.against else [])]
    missed = False
    for models in args.models:
        found = measured(models, columns, rows, args.rounds, checkouts)
        for name, times in zip(("", ", against"), found, strict=False):
            every = [t for what, each in times.items() if what not in _OF_ALL for t in each]
            print(
                f"\n{args.size}, {models} models, {len(every)} keys{name}   ms   p50    p99    max"
            )
            for what, each in (*times.items(), ("all", every)):
                shown = (percentile(each, 0.5), percentile(each, 0.99), max(each))
                print(f"  {what:<32}" + "".join(f"{1e3 * value:7.1f}" for value in shown))
            missed = missed or (not name and percentile(every, 0.99) > GOAL_S)
        sys.stdout.flush()
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
