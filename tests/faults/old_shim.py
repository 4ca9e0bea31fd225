"""A fake shim of an older version: its files lack what later ones added, its lock says less.

    python -I -S old_shim.py DIR

No cgroup, no word on whether an end was asked for, no time it took to clean up.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import sys
from pathlib import Path


def start_time(pid: int) -> int:
    """Clock ticks since boot."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def main(directory: Path) -> None:
    """Run what spec.json says; end it on SIGTERM."""
    if os.fork():
        os._exit(0)
    os.setsid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1})
    lock = os.open(directory / "shim.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps({"pid": os.getpid(), "start": start_time(os.getpid())}).encode(), 0)
    ctypes.CDLL(None).prctl(15, b"vllm-shim", 0, 0, 0)
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    spec = json.loads((directory / "spec.json").read_text())
    log = os.open(directory / "out.log", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    child = os.fork()
    if child == 0:
        os.setsid()
        os.dup2(log, 1)
        os.dup2(log, 2)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        os.execvp(spec["argv"][0], spec["argv"])
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    state = {"pid": child, "start": start_time(child), "boot": boot, "at": 5.0, "log_start": 0}
    (directory / "state.json").write_text(json.dumps({**state, "generation": spec["generation"]}))
    os.write(1, b"{}\n")
    os.dup2(log, 1)
    os.dup2(log, 2)
    asked, status = False, 0
    while True:
        told = signal.sigwait({signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1})
        if told != signal.SIGCHLD:
            asked = True
            os.kill(child, signal.SIGTERM if told == signal.SIGTERM else signal.SIGKILL)
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                status = ended[1] if ended[0] == child else status
                for pid in (
                    Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
                ):
                    os.kill(int(pid), signal.SIGKILL)
        except ChildProcessError:
            break
    said = {"rc": os.waitstatus_to_exitcode(status), "asked": asked, "at": 6.0}
    (directory / "exit.json").write_text(json.dumps({**said, "generation": spec["generation"]}))
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
