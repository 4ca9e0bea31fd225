"""One daemon a fleet, and a place for its state that is nobody else's."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from vllm_console.control import process
from vllm_console.control.process import AlreadyRunning, DaemonLock, is_running, make_state_dir
from vllm_console.errors import ConsoleError
from vllm_console.fleet.find import Place


class PlaceElsewhere(Place):
    """A place whose control socket lies where a long path makes it lie."""

    @property
    def socket(self) -> Path:
        return self.state_dir.parent / "shared" / "control.sock"


def place(tmp_path: Path, kind: type[Place] = Place) -> Place:
    return kind(tmp_path / "fleet.toml", "t", tmp_path / "state")


def test_the_second_daemon_of_a_fleet_is_refused_with_the_number_of_the_first(
    tmp_path: Path,
) -> None:
    here = place(tmp_path)
    make_state_dir(here)
    assert not is_running(here)
    lock = DaemonLock(here)
    lock.acquire()
    assert is_running(here)
    with pytest.raises(AlreadyRunning, match=r"already runs \(pid \d+\)"):
        DaemonLock(here).acquire()
    lock.release()
    assert not is_running(here)


def test_a_daemon_is_seen_on_a_disk_that_has_turned_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = place(tmp_path)
    make_state_dir(here)
    lock = DaemonLock(here)
    lock.acquire()
    open_writable = os.open

    def open_read_only(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return open_writable(path, flags, mode)

    monkeypatch.setattr(os, "open", open_read_only)
    assert is_running(here)
    lock.release()
    assert not is_running(here)


def test_somebody_who_looks_keeps_no_daemon_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = place(tmp_path)
    make_state_dir(here)
    monkeypatch.setattr(process, "_LOOKS_LAST_S", 10.0)
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            is_running(here)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(50):
            lock = DaemonLock(here)
            lock.acquire()
            lock.release()
    finally:
        over.set()
        looker.join()


def test_two_who_look_do_not_take_each_other_for_a_daemon(tmp_path: Path) -> None:
    here = place(tmp_path)
    make_state_dir(here)
    (here.state_dir / "daemon.lock").touch()
    seen: list[bool] = []

    def look() -> None:
        seen.extend(is_running(here) for _ in range(2000))

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    for looker in lookers:
        looker.join()
    assert not any(seen)


def test_a_directory_that_others_can_enter_is_no_place_for_the_socket(tmp_path: Path) -> None:
    here = place(tmp_path, PlaceElsewhere)
    make_state_dir(here)
    shared = here.socket.parent
    assert shared.stat().st_mode & 0o777 == 0o700
    shared.chmod(0o755)
    with pytest.raises(ConsoleError, match="open to other users"):
        make_state_dir(here)
    shared.rmdir()
    shared.symlink_to(here.workers)
    with pytest.raises(ConsoleError, match="open to other users"):
        make_state_dir(here)


def test_a_lock_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConsoleError, match="cannot keep the fleet's state here"):
        DaemonLock(place(tmp_path)).acquire()
