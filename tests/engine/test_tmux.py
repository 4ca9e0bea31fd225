"""The console as a person has it all day: in tmux, over real vLLM, by keys alone."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.engine.test_fleet import FLEET, Fleet
from vllm_console.engines.environment import EngineEnvironment

pytestmark = pytest.mark.engine

WITHIN_S = 30.0
STARTS_WITHIN_S = 300.0


class Tmux:
    """A tmux server of its own with one window, in which a command runs."""

    def __init__(self, socket: Path, command: list[str], columns: int, rows: int) -> None:
        self._socket = str(socket)
        self._code = socket.with_name("exit-code")
        self.tell(
            "-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(rows), "cat"
        )
        self.tell("set-option", "-g", "remain-on-exit", "on")
        self.tell("set-option", "-s", "escape-time", "0")
        self.size(columns, rows)
        self.tell("respawn-pane", "-k", f"{shlex.join(command)}; echo $? > {self._code}")

    def tell(self, *words: str) -> str:
        """Give tmux a command; what it prints."""
        unsized = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        done = subprocess.run(
            ["tmux", "-S", self._socket, *words],
            capture_output=True, text=True, timeout=WITHIN_S, env=unsized,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def size(self, columns: int, rows: int) -> None:
        """Make the window another size."""
        self.tell("resize-window", "-x", str(columns), "-y", str(rows))

    def press(self, *keys: str) -> None:
        """Type keys, by tmux's names."""
        self.tell("send-keys", *keys)

    def screen(self) -> str:
        """What is on the screen."""
        return self.tell("capture-pane", "-p")

    def until(self, pattern: str, within_s: float = WITHIN_S) -> str:
        """Wait until the screen shows something; the screen."""
        deadline = time.monotonic() + within_s
        while re.search(pattern, shown := self.screen()) is None:
            assert time.monotonic() < deadline, f"{pattern} is not on the screen:\n{shown}"
            time.sleep(0.1)
        return shown

    def ended(self) -> str:
        """Wait until the command has ended; its exit code, which this tmux may not tell."""
        deadline = time.monotonic() + WITHIN_S
        while not self._code.exists() or not (told := self._code.read_text()).endswith("\n"):
            assert time.monotonic() < deadline, self.screen()
            time.sleep(0.1)
        return told.strip()

    def close(self) -> None:
        """End the server and what runs in it."""
        subprocess.run(["tmux", "-S", self._socket, "kill-server"], capture_output=True, timeout=30)


@pytest.fixture
def fleet(engine_environment: EngineEnvironment, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet that nobody has started, of one model that a key loads; taken down at the end."""
    text = FLEET.format(engine=engine_environment.name).partition("[models.tiny]")[0]
    (tmp_path / "fleet.toml").write_text(
        text + '[models.tiny]\nsource = "tiny:small"\nautostart = false\n'
    )
    fleet = Fleet(tmp_path / "fleet.toml", tmp_path / "state")
    try:
        yield fleet
    finally:
        down = fleet.run("down")
        assert down.returncode in (0, 3), down.stderr


@pytest.fixture
def tmux(fleet: Fleet, tmp_path: Path) -> Iterator[Tmux]:
    """The console of that fleet, which starts its daemon."""
    command = [sys.executable, "-m", "vllm_console", "console", *fleet.words]
    tmux = Tmux(tmp_path / "tmux", command, 160, 48)
    try:
        yield tmux
    finally:
        tmux.close()


def test_load_watch_unload_and_quit_by_keys_alone(fleet: Fleet, tmux: Tmux) -> None:
    tmux.until(r"○ tiny +stopped")
    tmux.press("l")
    tmux.until(r"load(ing)? tiny|loading …|◐ tiny")
    tmux.until(r"● tiny is ready|● tiny +\d+%", STARTS_WITHIN_S)
    tmux.until(r"● tiny +\d+% +0\+0")

    (worker,) = fleet.status()["models"][0]["workers"]
    done = threading.Event()

    def ask() -> None:
        url = f"{worker['url']}/v1"
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            stream = client.completions.create(
                model="tiny",
                prompt="once",
                max_tokens=1500,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            with stream:
                for _ in stream:
                    if done.is_set():
                        return

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        tmux.until(r"● tiny +\d+% +1\+0 +[1-9]")
        tmux.size(80, 24)
        tmux.until(r"¹engines +²performance +³batching +⁴scaling")
        tmux.press("2")
        tmux.until(r"▲ generated +[1-9][\d,.]* tok/s")
        tmux.press("Enter")
        tmux.until(r"tiny-1")
        tmux.press("Escape")
        tmux.until(r"1-4 panel")
        tmux.size(160, 48)
        tmux.until(r"¹engines ─.*²performance ─")
    finally:
        done.set()
        asking.join()

    tmux.press("1")
    tmux.press("u")
    tmux.until(r"unload tiny\?")
    tmux.press("y")
    tmux.until(r"● tiny is stopped", 2 * WITHIN_S)
    tmux.until(r"○ tiny +stopped")
    tmux.press("q")
    assert tmux.ended() == "0"
    status = fleet.status()
    assert status["daemon"]["running"]
    assert status["models"][0]["workers"] == []
