"""The daemon as a process: one a fleet, in the foreground or on its own."""

from __future__ import annotations

import fcntl
import gc
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from vllm_console.control.client import Client
from vllm_console.errors import ConsoleError, NoDaemon, TimedOut
from vllm_console.fleet.find import Place

_LOOKS_LAST_S = 0.3
"""`is_running` holds the lock for an instant; a daemon that starts meanwhile waits that out."""


_ALLOCATIONS = 50_000
"""Objects made, and not freed, between two looks for cycles; Python's own 700 is for small
programs."""


def collect_rarely() -> None:
    """Look for garbage in cycles rarely, and never among what is there already.

    Samples are made and dropped by the ten thousand and hold no cycles; looking for some took a
    tenth of the time that telemetry takes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS, 20, 20)


class AlreadyRunning(ConsoleError):
    """Another daemon holds this fleet's lock."""


class DaemonLock:
    """The flock that makes a daemon the only one of its fleet; freed when the process ends."""

    def __init__(self, place: Place) -> None:
        self.path = place.state_dir / "daemon.lock"
        self._place = place
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock and write our pid into it; raises `AlreadyRunning`."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _no_state(self._place, error) from None
        until = time.monotonic() + _LOOKS_LAST_S
        try:
            while not _locked(fd, fcntl.LOCK_EX):
                if time.monotonic() > until:
                    pid = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
                    raise AlreadyRunning(
                        f"a daemon of this fleet already runs (pid {pid}); see "
                        "`vllm-console status`"
                    )
                time.sleep(0.01)
            with suppress(OSError):  # a full disk: the lock holds without our number in it
                os.ftruncate(fd, 0)
                os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def release(self) -> None:
        """Free the lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def is_running(place: Place) -> bool:
    """Whether a daemon holds this fleet's lock."""
    try:
        fd = os.open(place.state_dir / "daemon.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _locked(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def holds_lock(state_dir: Path) -> bool:
    """Whether a daemon holds a state directory; one that cannot be looked into counts as held."""
    try:
        fd = os.open(state_dir / "daemon.lock", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return True
    except OSError:
        return False
    try:
        return not _locked(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def _locked(fd: int, kind: int) -> bool:
    """Take the lock in this kind; `False` when somebody holds it in a way that forbids it."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def make_state_dir(place: Place) -> None:
    """Create the state directory (0700); raises `ConsoleError` where that cannot be."""
    try:
        for directory in (place.state_dir, place.workers, place.socket.parent):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(place.state_dir, os.W_OK | os.X_OK):
            raise PermissionError(13, "not writable")
    except OSError as error:
        raise _no_state(place, error) from None
    shared = place.socket.parent
    if shared != place.state_dir and not _is_private(shared):
        raise ConsoleError(
            f"{shared}: is open to other users, so no place for the control socket; remove it, or "
            "choose a --state-dir with a shorter path"
        )


def _is_private(directory: Path) -> bool:
    """Whether it is a directory of this user, and no link, that nobody else can enter."""
    seen = directory.lstat()
    mine = stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.getuid()
    return mine and not seen.st_mode & 0o077


def _no_state(place: Place, error: OSError) -> ConsoleError:
    return ConsoleError(
        f"{place.state_dir}: cannot keep the fleet's state here ({error.strerror}); "
        "choose another with --state-dir DIR"
    )


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
    try:
        log = place.daemon_log.open("ab")
        os.fchmod(log.fileno(), 0o600)
    except OSError as error:
        raise _no_state(place, error) from None
    with log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )

    def ended() -> str | None:
        if process.poll() is None or is_running(place):  # two were started: the other one answers
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
        except (NoDaemon, TimedOut):
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
