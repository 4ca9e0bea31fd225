"""The shim: owns one `vllm serve` process tree and outlives the daemon.

    python -I -S shim.py DIR        standard library alone; the rest of the console reads DIR

    DIR/spec.json    in   what to run: argv, cwd, stop_grace_s, log_keep_bytes, generation
    DIR/shim.lock    out  a flock held for as long as the shim lives: this *is* its identity;
                          inside, the shim's pid and start time
    DIR/state.json   out  the main process: pid, start time, boot id, where its log begins, its
                          cgroup, and whether it has been asked to end
    DIR/exit.json    out  how the main process ended, and whether the end was asked for
    DIR/out.log      out  stdout and stderr of the tree, appended by the tree itself

The environment of the shim is the environment of the worker: secrets never touch a file. The shim
answers on stdout, once, one line of JSON: `{}` when the worker runs, or `{"error": …}`.

SIGTERM stops (SIGTERM to the main process, `stop_grace_s`, then SIGKILL to the whole tree);
SIGUSR1 kills the tree at once. When the main process ends unasked, what it leaves behind (an
EngineCore survives `kill -9` of the API server, vllm#55510) is ended too. The shim exits when
nothing of the tree is left, and not before. Where it may make a cgroup (v2), the tree lives in a
leaf of its own below the shim's, so that it can be killed whole even after the shim was.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing costs every shim half a megabyte
    from typing import Any, NoReturn

ORPHAN_GRACE_S = 2.0
"""Time between SIGTERM and SIGKILL for processes whose main process is gone."""
TRIM_EVERY_S = 5.0
LOCK_PATIENCE_S = 2.0
"""An observer tests the lock by taking it for an instant; a starting shim waits that out."""

_PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 15, 36
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_PAGE = 4096
_NAME = "vllm-shim"
_GONE = " (deleted)"
_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1}


# --- what /proc says; the console reads processes with these same functions -------------------


def boot_id() -> str:
    """The id of this boot: pids and start times mean nothing across a reboot."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def process(pid: int) -> tuple[int, int] | None:
    """(start time in clock ticks since boot, parent pid) of a live process, else `None`.

    A zombie is not alive. A pid with its start time names one process for the whole boot.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    if len(fields) < 20 or fields[0] in (b"Z", b"X"):
        return None
    return int(fields[19]), int(fields[1])


def children(pid: int) -> list[int]:
    """The direct children of a process, from any of its threads; empty when it is gone."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
        except FileNotFoundError:
            if os.path.exists(f"/proc/{pid}/task/{thread}"):
                return _children_by_parent(pid)
        except OSError:
            continue
    return found


def _children_by_parent(pid: int) -> list[int]:
    """The direct children on a kernel built without CONFIG_PROC_CHILDREN."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            seen = process(int(name))
            if seen is not None and seen[1] == pid:
                found.append(int(name))
    return found


def descendants(pid: int) -> list[int]:
    """Children, grandchildren and so on, parents first; does not contain `pid`."""
    found: list[int] = []
    waiting = children(pid)
    while waiting:
        child = waiting.pop(0)
        found.append(child)
        waiting += children(child)
    return found


def shims() -> list[tuple[int, str]]:
    """(pid, directory) of every shim this user may see, by the lock that it keeps open.

    The directory is a real path; it, or the lock in it, may have been removed since.
    """
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm") as file:
                if file.read() != f"{_NAME}\n":
                    continue
            opened = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        for path in opened:
            directory, name = os.path.split(path.removesuffix(_GONE))
            if name == "shim.lock":
                found.append((int(pid), directory))
                break
    return found


# --- cgroups (v2) --------------------------------------------------------------------------------


def own_cgroup(proc: str = "/proc/self") -> str | None:
    """The directory of this process's cgroup; `None` without cgroup v2 (cgroups(7))."""
    try:
        with open(f"{proc}/cgroup") as file:
            path = next(line[3:].rstrip("\n") for line in file if line.startswith("0::/"))
        with open(f"{proc}/mountinfo") as file:
            mounts = [line.split(" - ")[0].split() for line in file if " - cgroup2 " in line]
    except (OSError, StopIteration):
        return None
    for mount in mounts:
        root, point = mount[3].rstrip("/"), mount[4].encode().decode("unicode_escape")
        if ".." not in path.split("/") and f"{path}/".startswith(f"{root}/"):
            return (point + path[len(root) :]).rstrip("/")
    return None


def cgroup_name(directory: str, generation: int) -> str:
    """The name of a worker's cgroup, which no copy of its directory shares."""
    seen = os.stat(directory)
    return f"vllm-worker-{seen.st_dev:x}-{seen.st_ino:x}-{generation}"


def cgroup_members(cgroup: str) -> list[int]:
    """Pids in a cgroup; empty when it is gone."""
    try:
        with open(f"{cgroup}/cgroup.procs") as file:
            return [int(pid) for pid in file.read().split() if pid != "0"]
    except OSError:
        return []


def cgroup_kill(cgroup: str) -> bool:
    """SIGKILL all of a cgroup in one step; False before Linux 5.14, or when it is gone."""
    try:
        kill = os.open(f"{cgroup}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(kill, b"1")
    except OSError:
        return False
    finally:
        os.close(kill)
    return True


# --- the shim ------------------------------------------------------------------------------------


class _Refused(Exception):
    """The worker was not started; the text says why."""


class Shim:
    """One worker: starts it, waits, ends it, and tidies its log."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.umask = os.umask(0o077)
        self.generation = 0
        self.grace_s = 0.0
        self.keep = 0
        """Log bytes to keep, at least."""
        self.log = -1
        self.pid = 0
        self.cgroup: str | None = None
        """The leaf that holds the tree and nothing else."""
        self.asked = False
        self.state: dict[str, Any] = {}
        """What state.json says, once the worker runs."""
        self.ended: dict[str, Any] | None = None
        """What exit.json says, once the main process has ended."""
        self.kill_at: float | None = None
        """Monotonic time at which SIGTERM has had its chance."""

    def start(self) -> None:
        """Take the lock, start the worker, write state.json.

        Raises `_Refused` when another shim holds the lock or the program cannot be executed.
        """
        self.libc.prctl(_PR_SET_NAME, _NAME.encode(), 0, 0, 0)
        self._lock()
        self.libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        with open(f"{self.directory}/spec.json") as file:
            spec = json.load(file)
        self.grace_s = float(spec["stop_grace_s"])
        self.keep = int(spec["log_keep_bytes"])
        self.generation = int(spec["generation"])
        self.log = os.open(
            f"{self.directory}/out.log",
            os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC,
            0o600,
        )
        log_start = os.fstat(self.log).st_size
        self._make_cgroup()
        try:
            self.pid = self._spawn(spec["argv"], spec["cwd"])
        finally:
            if self.cgroup is not None and self.pid not in cgroup_members(self.cgroup):
                self._remove_cgroup()
        seen = process(self.pid)
        self.state = {
            "pid": self.pid,
            "start": seen[0] if seen else 0,
            "boot": boot_id(),
            "generation": self.generation,
            "at": time.time(),
            "log_start": log_start,
            "cgroup": self.cgroup,
            "asked": False,
        }
        try:
            self._save("state.json", self.state)
        except OSError as error:
            self._kill()
            raise _Refused(f"cannot write {self.directory}/state.json: {error.strerror}") from None

    def run(self) -> NoReturn:
        """Wait for the worker and for signals; exit when nothing of the tree is left."""
        while True:
            self._reap()
            if self.ended is not None:
                self._clean(self.ended)
                os._exit(0)
            self._trim()
            now = time.monotonic()
            if self.kill_at is not None and now >= self.kill_at:
                self._kill()
                self.kill_at = now + 1.0
            patience = TRIM_EVERY_S if self.kill_at is None else self.kill_at - now
            self._wait(max(0.0, min(TRIM_EVERY_S, patience)))

    def _lock(self) -> None:
        """Hold DIR/shim.lock, and see that no shim holds one that was removed from there."""
        path = f"{self.directory}/shim.lock"
        until = time.monotonic() + LOCK_PATIENCE_S
        while True:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock), os.stat(path)):
                    break
            os.close(lock)
            if time.monotonic() > until:
                raise _Refused("another shim already runs this worker")
            time.sleep(0.01)
        here = os.path.realpath(self.directory)
        if any(pid != os.getpid() and directory == here for pid, directory in shims()):
            raise _Refused("another shim already runs this worker, and its lock was removed")
        seen = process(os.getpid())
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps({"pid": os.getpid(), "start": seen and seen[0]}).encode(), 0)

    def _spawn(self, argv: list[str], cwd: str) -> int:
        environment = _environment()
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        told, tell = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                self._join_cgroup()
                os.dup2(null, 0)
                os.dup2(self.log, 1)
                os.dup2(self.log, 2)
                for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
                    signal.signal(number, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_SETMASK, set())
                os.umask(self.umask)
                os.chdir(cwd)
                os.execvpe(argv[0], argv, environment)
            except BaseException as error:
                os.write(tell, str(error).encode())
            os._exit(127)
        os.close(tell)
        with open(told, "rb") as file:
            failed = file.read().decode()
        if failed:
            os.waitpid(pid, 0)
            raise _Refused(failed)
        return pid

    def _wait(self, seconds: float) -> None:
        told = signal.sigtimedwait(_SIGNALS, seconds)
        if told is None or told.si_signo == signal.SIGCHLD:
            return
        self._ask(signal.Signals(told.si_signo))

    def _ask(self, number: signal.Signals) -> None:
        self.asked = True
        if number == signal.SIGUSR1:
            self.kill_at = time.monotonic()
        elif self.kill_at is None:
            self.kill_at = time.monotonic() + self.grace_s
            if self.ended is None:
                _signal(self.pid, signal.SIGTERM)
        if not self.state["asked"]:  # so that the next daemon knows, should this one end now
            self.state["asked"] = True
            with contextlib.suppress(OSError):
                self._save("state.json", self.state)

    def _reap(self) -> bool:
        """Collect the dead; False when no child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.pid:
                self.ended = {
                    "rc": os.waitstatus_to_exitcode(status),
                    "asked": self.asked,
                    "at": time.time(),
                    "pid": self.pid,
                    "generation": self.generation,
                    "clean_s": None,
                }
                self._save_exit(self.ended)

    def _clean(self, ended: dict[str, Any]) -> None:
        """End what the main process left behind, then say so in exit.json."""
        began = time.monotonic()
        kill_at = began + ORPHAN_GRACE_S
        pause = 0.02
        told: set[int] = set()
        while self._reap():
            for pid in set(children(os.getpid())) - told:
                _signal(pid, signal.SIGTERM)
                told.add(pid)
            now = time.monotonic()
            if now >= kill_at or (self.kill_at is not None and now >= self.kill_at):
                self._kill()
                pause = min(1.0, pause * 1.2)
            self._wait(pause)
        self._remove_cgroup()
        self._save_exit({**ended, "clean_s": time.monotonic() - began})

    def _kill(self) -> None:
        """SIGKILL the tree by its cgroup, else the direct children.

        Nobody but the shim reaps those, so their pids are theirs; deeper processes become direct
        children as their parents die, the shim being the subreaper.
        """
        if self.cgroup is not None:
            cgroup_kill(self.cgroup)
        for pid in children(os.getpid()):
            _signal(pid, signal.SIGKILL)

    def _make_cgroup(self) -> None:
        """A leaf below our own cgroup, where that is allowed: as root, or under Delegate=yes."""
        home = own_cgroup()
        if home is None:
            return
        self.cgroup = f"{home}/{cgroup_name(self.directory, self.generation)}"
        with contextlib.suppress(OSError):  # an empty one may be left of an earlier run
            os.rmdir(self.cgroup)
        try:
            os.mkdir(self.cgroup)
        except OSError:
            self.cgroup = None

    def _join_cgroup(self) -> None:
        """Move this process into the leaf; one that stays outside is killed by walking /proc."""
        if self.cgroup is not None:
            with contextlib.suppress(OSError), open(f"{self.cgroup}/cgroup.procs", "w") as file:
                file.write("0")

    def _remove_cgroup(self) -> None:
        if self.cgroup is not None:
            with contextlib.suppress(OSError):
                os.rmdir(self.cgroup)
            self.cgroup = None

    def _trim(self) -> None:
        """Give the blocks of old log bytes back to the file system: no copy, no line lost.

        Offsets stay as they are. Where holes cannot be punched (NFS before 4.2), the newest bytes
        move to out.log.old and the file starts again; lines written in between are lost.
        """
        size = os.fstat(self.log).st_size
        if size <= 2 * self.keep or os.fstat(self.log).st_blocks * 512 <= 2 * self.keep:
            return
        length = (size - self.keep) // _PAGE * _PAGE
        done = self.libc.fallocate(
            self.log, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(length)
        )
        if done != 0 and ctypes.get_errno() in (errno.EOPNOTSUPP, errno.ENOSYS):
            self._start_again()

    def _start_again(self) -> None:
        size = os.fstat(self.log).st_size
        newest = os.pread(self.log, self.keep, max(0, size - self.keep))
        with open(f"{self.directory}/out.log.old", "wb") as file:
            file.write(newest)
        os.ftruncate(self.log, 0)

    def _save_exit(self, value: dict[str, Any]) -> None:
        """A full disk must not keep the shim from cleaning up."""
        with contextlib.suppress(OSError):
            self._save("exit.json", value)

    def _save(self, name: str, value: dict[str, Any]) -> None:
        path = f"{self.directory}/{name}"
        with open(f"{path}.tmp", "w") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{path}.tmp", path)


def _environment() -> dict[bytes, bytes]:
    """The environment as it was handed over: Python itself adds LC_CTYPE to `os.environ`."""
    with open("/proc/self/environ", "rb") as file:
        pairs = (entry.partition(b"=") for entry in file.read().split(b"\0") if entry)
        return {key: value for key, _, value in pairs if key}


def _signal(pid: int, number: signal.Signals) -> None:
    """Signal a child that is not reaped yet."""
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def _answer(value: dict[str, str]) -> None:
    """Tell whoever launched; that it is gone by now changes nothing."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(value).encode() + b"\n")


def main(directory: str) -> None:
    """Become a shim: nobody's child (a dying Ray worker kills its direct children), own session."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    shim = Shim(directory)
    try:
        shim.start()
    except (_Refused, OSError, ValueError, KeyError) as error:
        said = str(error) if isinstance(error, _Refused) else repr(error)
        if isinstance(error, OSError) and error.filename:
            said = f"{error.filename}: {error.strerror}"
        _answer({"error": said})
        os._exit(1)
    _answer({})
    os.dup2(shim.log, 1)
    os.dup2(shim.log, 2)
    shim.run()


if __name__ == "__main__":
    main(sys.argv[1])
