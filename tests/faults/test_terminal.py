"""Terminals that stall, and recordings on a terminal: real processes on a real pty."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from tests.ui.screen import Screen
from vllm_console.control.client import Client
from vllm_console.errors import NotFound
from vllm_console.fleet.find import Place, locate
from vllm_console.history.when import seconds_of

WITHIN_S = 30.0
COLUMNS, ROWS = 200, 60


class Terminal:
    """A pty with a console in it; what it draws is read only when a test asks for it."""

    def __init__(self, *words: str) -> None:
        self.master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        environ = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        environ.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vllm_console", *words],
            stdin=slave, stdout=slave, stderr=slave, env=environ, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.screen = Screen(COLUMNS, ROWS)

    @property
    def waiting(self) -> int:
        """Bytes that the console has written and nobody has read."""
        count = fcntl.ioctl(self.master, termios.FIONREAD, struct.pack("i", 0))
        return int(struct.unpack("i", count)[0])

    def read(self) -> bool:
        """Read what there is; whether there was something."""
        if not select.select([self.master], [], [], 0.05)[0]:
            return False
        try:
            self.screen.feed(os.read(self.master, 1 << 16))
        except OSError:  # the console has ended
            return False
        return True

    def until_drawn(self, text: str) -> None:
        """Read until a text is on the screen."""
        deadline = time.monotonic() + WITHIN_S
        while text not in self.screen.text:
            assert time.monotonic() < deadline, f"{text} is not on\n{self.screen.text}"
            self.read()

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self.master, keys.encode())

    def ended(self) -> int:
        """Read until the console has ended; its exit code."""
        deadline = time.monotonic() + WITHIN_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline
            self.read()
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)


@pytest.fixture
def place(tmp_path: Path, fake_engine: Path) -> Iterator[Place]:
    """A fleet of one fake worker under a daemon of its own."""
    file = tmp_path / "fleet.toml"
    file.write_text(
        '[fleet]\nname = "lab"\n[gateway]\nport = 0\n'
        f'[defaults]\nengine = "{fake_engine}"\ndrain_timeout = "1s"\n'
        '[models.one]\nsource = "fake/model"\nautostart = false\n'
        "[models.one.options]\nfake_gentle = true\n"
    )
    words = ["--fleet", str(file), "--state-dir", str(tmp_path / "state")]
    subprocess.run([sys.executable, "-m", "vllm_console", "up", "-d", *words], check=True)
    try:
        yield locate(file, tmp_path / "state")
    finally:
        subprocess.run([sys.executable, "-m", "vllm_console", "down", *words], check=True)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """Opens consoles on ptys, and ends those that are left."""
    opened: list[Terminal] = []

    def open_one(*words: str) -> Terminal:
        opened.append(Terminal(*words))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def recorded(client: Client) -> bool:
    """Whether the past has a sample of now."""
    try:
        return client.snapshot_at(client.snapshot().at).models[0].load.running is not None
    except NotFound:
        return False


def test_a_stalled_terminal_never_stops_the_fleet(
    place: Place, terminal: Callable[..., Terminal]
) -> None:
    shown = terminal(
        "console", "--fleet", str(place.fleet_file), "--state-dir", str(place.state_dir)
    )
    until(lambda: shown.waiting >= 1024)
    held = shown.waiting
    client = Client(place.socket)
    times = [snapshot.at for snapshot in islice(client.snapshots(), 6)]
    assert times == sorted(set(times))
    client.command("load", model="one")
    until(lambda: client.snapshot().models[0].state == "ready")
    assert shown.waiting >= held  # nobody has read: the console still waits to write
    assert shown.process.poll() is None
    shown.until_drawn("engines")
    shown.press("q")
    assert shown.ended() == 0
    assert client.snapshot().models[0].state == "ready"
    client.close()


def test_the_past_of_a_fleet_is_on_the_terminal_with_a_daemon_and_without(
    place: Place, terminal: Callable[..., Terminal]
) -> None:
    client = Client(place.socket)
    client.command("load", model="one")
    until(lambda: client.snapshot().models[0].state == "ready")
    until(lambda: recorded(client))
    now = client.snapshot()
    past = client.snapshot_at(now.at)
    assert past.at == now.at
    assert [w.id for w in past.models[0].workers] == ["one-1"]
    assert past.models[0].state == "ready"
    until_then = seconds_of(now.at)
    (values,) = client.series(["model/one"], ["running"], 10, 1, until_then)["model/one"].values()
    assert len(values) == 10
    assert any(value is not None for value in values)
    client.close()
    shown = terminal("replay", str(place.state_dir))
    shown.until_drawn("RECORDED ")
    shown.until_drawn("one")
    shown.press("t0s\r")
    shown.until_drawn("PAST ")
    shown.press("u")
    shown.until_drawn("nothing can be changed")
    shown.press("q")
    assert shown.ended() == 0
