"""Rows in which the disk is the fault: flooded, full, read-only."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.faults.clients import Clients
from benchmarks.faults.site import Site
from benchmarks.faults.table import NotMet, Outcome, Row, Trials, require, times, until
from benchmarks.faults.trees import fake_fleet, model
from vllm_console.launchers.processes import send
from vllm_console.workers.launch import LaunchSpec
from vllm_console.workers.logs import read
from vllm_console.workers.shim import TRIM_EVERY_S

LOG_FLOOD = "log flood at 50 MB/s"
DISK_FULL = "disk full"
READ_ONLY = "state directory read-only"

FLOOD_MB_S = 50
_LINE = re.compile(rb"^line (\d{9}) x{113}$", re.MULTILINE)
_NO_ROOM = re.compile("No space left|File too large|is full|not kept")
_NO_WRITING = re.compile("Read-only file system|Permission denied")
_CLONE_NEWNS = 0x00020000
_DISK = 32 << 20
_FULL_S = 4.0
"""Seconds for which the disk stays full."""


class Follower(threading.Thread):
    """Reads a log by offsets as it grows, and counts its numbered lines and the disk it takes."""

    def __init__(self, log: Path) -> None:
        super().__init__(daemon=True)
        self.log = log
        self.lines = 0
        self.gaps = 0
        """Lines that were not the one after the last."""
        self.over = threading.Event()
        """The last line has been read."""
        self.most_bytes = 0
        """On disk at any time."""

    def run(self) -> None:
        offset, rest = 0, b""
        while not self.over.is_set():
            chunk = read(self.log, offset, 4 << 20)
            offset = chunk.end
            if not chunk.data:
                time.sleep(0.005)
                continue
            self.most_bytes = max(self.most_bytes, self.log.stat().st_blocks * 512)
            whole, _, rest = (rest + chunk.data).rpartition(b"\n")
            for number in map(int, _LINE.findall(whole)):
                self.gaps += number != self.lines
                self.lines = number + 1
            if b"flood over" in whole:
                self.over.set()


def log_flood(root: Path) -> Outcome:
    """A follower reads every line, while the shim gives old blocks back to the file system."""
    megabytes = times(600)
    trials = Trials(1)
    keep = LaunchSpec("one-1", "one", 1, (), 0, ()).log_keep_bytes
    bound = 2 * keep + int((TRIM_EVERY_S + 1.0) * FLOOD_MB_S * (1 << 20))
    flooding = {"fake_flood_mb": megabytes, "fake_flood_mb_s": FLOOD_MB_S}
    note = ""
    with fake_fleet(root, model("one", fake_gentle=True, **flooding)) as site, trials.injection():
        follower = Follower(site.directory("one-1") / "out.log")
        site.up()
        began = time.monotonic()
        follower.start()
        site.ready()
        with Clients(site.targets()) as clients:
            until(follower.over.is_set, 10.0 + megabytes / 10, "the flood is over", every_s=0.1)
        took = time.monotonic() - began
        wanted = megabytes * 16 * 512
        require((follower.lines, follower.gaps) == (wanted, 0), f"{follower.gaps} gaps")
        require(follower.most_bytes <= bound, f"{follower.most_bytes >> 20} MB on disk")
        require(not clients.counted.lost, f"requests lost: {dict(clients.counted.reasons)}")
        said = site.client.log("one-1", lines=1).text
        require("flood over" in said, "`logs` shows the last line")
        note = (
            f"{wanted:,} lines at {megabytes / took:.0f} MB/s, none lost; at most "
            f"{follower.most_bytes >> 20} of {megabytes} MB on disk"
        )
        counted = clients.counted
    return trials.outcome(LOG_FLOOD, "fake", note, lost=counted.lost, sent=counted.sent)


def disk_full(root: Path) -> Outcome:
    """What runs goes on, what is wrong is told, and what could not start does so afterwards."""
    trials = Trials(3)
    lost = sent = 0
    state = root / "state"
    with _small_disk(state) as how, fake_fleet(root, *_two()) as site:
        site.up()
        for _ in trials:
            site.ready()
            with trials.injection(), Clients({"one-1": site.targets()["one-1"]}) as clients:
                daemon, tree = site.daemon(), site.tree("two-1")
                with _full(site):
                    send(tree[0], signal.SIGKILL)
                    until(lambda: _tells(site, _NO_ROOM), 5.0, "status tells of it")
                    _serves_on(clients)
                    time.sleep(_FULL_S)
                    require(site.daemon() == daemon, "the daemon goes on")
                began = time.monotonic()
                if site.state("two-1") == "crash-loop":
                    site.command("load", model="two")
                site.ready()
                trials.recovered(time.monotonic() - began)
                until(lambda: not _tells(site, _NO_ROOM), 20.0, "status tells of it no more")
            lost, sent = lost + clients.counted.lost, sent + clients.counted.sent
            if clients.counted.lost:
                trials.broken.append(f"requests lost: {dict(clients.counted.reasons)}")
    return trials.outcome(DISK_FULL, "fake", how, lost=lost, sent=sent)


def read_only(root: Path) -> Outcome:
    """Workers serve on, the daemon does as it is told, and a new one says in one line why not."""
    trials = Trials(3)
    lost = sent = 0
    how = ""
    _own_mounts()
    with fake_fleet(root, *_two()) as site:
        site.up()
        for number in trials:
            site.ready()
            with trials.injection(), Clients({"one-1": site.targets()["one-1"]}) as clients:
                pids = site.pids()
                with _read_only(site.place.state_dir) as how:
                    site.command("unload", model="two")
                    until(lambda: site.state("two-1") is None, 15.0, "two is unloaded")
                    site.command("load", model="two")
                    until(lambda: _tells(site, _NO_WRITING), 5.0, "status tells why two is down")
                    if number % 2:
                        site.kill_daemon()
                        done = site.verb("up", "-d", check=False)
                        said = done.stderr.strip()
                        require(done.returncode == 1, f"`up -d` exits 1, not {done.returncode}")
                        refused = "cannot keep the fleet's state" in said
                        require(refused and "\n" not in said, f"`up -d` says why not: {said}")
                    _serves_on(clients)
                began = time.monotonic()
                site.up()
                site.command("load", model="two")
                site.ready()
                trials.recovered(time.monotonic() - began)
                require(site.pids()["one-1"] == pids["one-1"], "one-1 was not touched")
            lost, sent = lost + clients.counted.lost, sent + clients.counted.sent
            if clients.counted.lost:
                trials.broken.append(f"requests lost: {dict(clients.counted.reasons)}")
    return trials.outcome(READ_ONLY, "fake", how, lost=lost, sent=sent)


ROWS: dict[str, Row] = {LOG_FLOOD: log_flood, DISK_FULL: disk_full, READ_ONLY: read_only}


def _two() -> tuple[str, str]:
    return model("one", fake_gentle=True), model("two", fake_gentle=True)


def _serves_on(clients: Clients) -> None:
    """Wait for a request that is completed from now on."""
    completed = clients.counted.completed
    until(lambda: clients.counted.completed > completed, 5.0, "one-1 serves on")


def _tells(site: Site, words: re.Pattern[str]) -> bool:
    """An alert says so, or the failure of a worker that could not be launched."""
    snapshot = site.snapshot()
    texts = [alert.text for alert in snapshot.alerts]
    texts += [w.failure.line for m in snapshot.models for w in m.workers if w.failure]
    return any(words.search(text) for text in texts)


def _own_mounts() -> bool:
    """Give this process mounts of its own, which end with it; `False` where that is forbidden."""
    if os.getuid() or ctypes.CDLL(None).unshare(_CLONE_NEWNS):
        return False
    return _mount("--make-rprivate", "/")


def _mount(*words: str) -> bool:
    return subprocess.run(["mount", *words], stderr=subprocess.DEVNULL, check=False).returncode == 0


@contextmanager
def _small_disk(state: Path) -> Iterator[str]:
    """A disk of its own for the state directory, where this may be mounted; how it gets full."""
    state.mkdir()
    if not _own_mounts() or not _mount("-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(state)):
        yield "the daemon's RLIMIT_FSIZE is 0"
        return
    try:
        yield f"a tmpfs of {_DISK >> 20} MB is full"
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)


@contextmanager
def _full(site: Site) -> Iterator[None]:
    """No byte more can be written to the state directory."""
    state = site.place.state_dir
    if os.path.ismount(state):
        ballast = state / "ballast"
        try:
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while file.write(bytes(1 << 16)):
                    continue
            yield
        finally:
            ballast.unlink(missing_ok=True)
        return
    daemon = site.daemon()
    if daemon is None:
        raise NotMet("there is no daemon to limit")
    soft, hard = resource.prlimit(daemon[0], resource.RLIMIT_FSIZE)
    resource.prlimit(daemon[0], resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.prlimit(daemon[0], resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def _read_only(state: Path) -> Iterator[str]:
    """The state directory cannot be written to; how that is done (a mode does not bind root)."""
    if os.getuid():
        folders = [state, state / "workers"]
        for folder in folders:
            folder.chmod(0o500)
        try:
            yield "its mode is 0500"
        finally:
            for folder in folders:
                folder.chmod(0o700)
        return
    if not _mount("--bind", str(state), str(state)):
        raise NotMet("root without the right to mount: run this row as another user")
    try:
        _mount("-o", "remount,bind,ro", str(state))
        yield "a read-only bind mount"
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)
