"""The daemon as a process: one a fleet, in the foreground or on its own."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vllm_console.control.client import Client
from vllm_console.errors import ConsoleError, NoDaemon, TimedOut
from vllm_console.fleet.find import Place


class AlreadyRunning(ConsoleError):
    """Another daemon holds this fleet's lock."""


class DaemonLock:
    """The flock that makes a daemon the only one of its fleet; freed when the process ends."""

    def __init__(self, place: Place) -> None:
        self.path = place.state_dir / "daemon.lock"
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock and write our pid into it; raises `AlreadyRunning`."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise AlreadyRunning(
                f"a daemon of this fleet already runs (pid {pid}); see `vllm-console status`"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        self._fd = fd

    def release(self) -> None:
        """Free the lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def is_running(place: Place) -> bool:
    """Whether a daemon holds this fleet's lock."""
    try:
        fd = os.open(place.state_dir / "daemon.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def make_state_dir(place: Place) -> None:
    """Create the state directory (0700); raises `ConsoleError` where that cannot be."""
    try:
        for directory in (place.state_dir, place.workers, place.socket.parent):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(place.state_dir, os.W_OK | os.X_OK):
            raise PermissionError(13, "not writable")
    except OSError as error:
        raise ConsoleError(
            f"{place.state_dir}: cannot keep the fleet's state here ({error.strerror}); "
            "choose another with --state-dir DIR"
        ) from None


def start_detached(
    place: Place, sets: Sequence[str] = (), *, autostart: bool = True, timeout: float = 30.0
) -> Client:
    """Start the daemon in a session of its own and return once it answers.

    A daemon that already runs is returned as it is. Raises `ConsoleError` with the daemon's own
    last words when it ends instead, `TimedOut` when it does not answer.
    """
    make_state_dir(place)
    client = Client(place.socket)
    if is_running(place):
        wait_until_answering(client, timeout)
        return client
    command = [sys.executable, "-m", "vllm_console.control.main"]
    command += ["--fleet", str(place.fleet_file), "--state-dir", str(place.state_dir)]
    command += [word for pair in sets for word in ("--set", pair)]
    if not autostart:
        command.append("--no-autostart")
    start = _size(place.daemon_log)
    with place.daemon_log.open("ab") as log:
        os.fchmod(log.fileno(), 0o600)
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )

    def ended() -> str | None:
        if process.poll() is None:
            return None
        words = place.daemon_log.read_bytes()[start:].decode("utf-8", "replace").strip()
        return words.rpartition("\n")[2] or f"exit code {process.returncode}"

    wait_until_answering(client, timeout, ended)
    return client


def wait_until_answering(
    client: Client, timeout: float, ended: Callable[[], str | None] = lambda: None
) -> None:
    """Return once the daemon answers; `ended` gives its last words when it will not."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            client.snapshot_json()
            return
        except NoDaemon:
            words = ended()
            if words is not None:
                raise ConsoleError(f"the daemon did not start: {words}") from None
            if time.monotonic() > deadline:
                raise TimedOut(
                    f"the daemon did not answer on {client.path} within {timeout:g} s"
                ) from None
        time.sleep(0.02)


def wait_until_gone(place: Place, timeout: float) -> None:
    """Return once no daemon holds the lock; raises `TimedOut`."""
    deadline = time.monotonic() + timeout
    while is_running(place):
        if time.monotonic() > deadline:
            raise TimedOut(f"the daemon still runs after {timeout:g} s; see {place.daemon_log}")
        time.sleep(0.02)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
