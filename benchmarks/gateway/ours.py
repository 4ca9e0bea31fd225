"""The gateway as a process of its own, without a daemon: what a daemon would write for it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.faults.table import NotMet, until
from benchmarks.gateway.processes import cpu_s, free_ports, open_files, pinned, rss_kb
from vllm_console.gateway import link, place
from vllm_console.gateway.table import Limits, Model, Table, Worker
from vllm_console.history.account_rows import SHOWN, Terms, hash_of, made_secret
from vllm_console.history.accounts import Accounts
from vllm_console.launchers.processes import send

PROGRAM = ("-m", "vllm_console.gateway")
START_S = 20.0
END_S = 15.0
SLOTS = 4096
"""Requests that a fake worker takes at once: nothing waits unless a benchmark wants it to."""
TERMS = Terms(max_class=0, rpm=10**9, tpm=10**12, concurrency=10**6, budget=1e9)
"""Limits that are counted with each request, and that none reaches."""


def table(
    models: Mapping[str, Sequence[int]],
    *,
    slots: int = SLOTS,
    version: int = 1,
    limits: Limits | None = None,
    anonymous: bool = False,
) -> Table:
    """A table of models whose workers listen on ports of the loopback."""
    return Table(
        version=version,
        anonymous=anonymous,
        gpu_hour_cost=2.0,
        access_log=True,
        models=tuple(
            Model(
                name=name,
                state="ready",
                created=1_763_600_000,
                max_model_len=32768,
                limits=limits or Limits(),
                workers=tuple(
                    Worker(id=f"{name}-{port}", port=port, revision=1, slots=slots, gpus=1)
                    for port in ports
                ),
            )
            for name, ports in models.items()
        ),
    )


class Standalone:
    """A gateway that runs in a directory: where it is, what it uses, and what is done to it."""

    def __init__(self, directory: Path, routes: Table, core: int | None) -> None:
        """Writes what it needs; nothing runs before `start`."""
        self.root = directory
        self.directory = directory / "gateway"
        self.directory.mkdir(mode=0o700)
        self.log = self.directory / "gateway.log"
        (self.port,) = free_ports(1)
        self.routes = routes
        self._core = core
        self._started: list[int] = []
        place.write_config(self.directory, place.Config(host="127.0.0.1", port=self.port))
        place.write_table(self.directory, routes)
        self.accounts = Accounts(directory / "gateway.sqlite")
        self.secret = self.key("bench", TERMS)

    def key(self, name: str, terms: Terms) -> str:
        """Make a key; its secret."""
        secret = made_secret()
        now = time.time()
        self.accounts.create(name, hash_of(secret.encode()), secret[:SHOWN], terms, now)
        return secret

    @property
    def pid(self) -> int:
        """The process that serves; raises `NotMet` where there is none."""
        record = place.read_record(self.directory)
        if record is None:
            raise NotMet("no gateway has written its record")
        return record.pid

    def start(self) -> None:
        """Start one; where another serves it takes that one's place, and its socket."""
        before = place.read_record(self.directory)
        words = [sys.executable, *PROGRAM, str(self.directory)]
        with open(self.root / "started.log", "ab") as said:
            pid = os.posix_spawnp(
                (command := pinned(self._core, words))[0],
                command,
                os.environ,
                setsid=True,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, said.fileno(), 1),
                    (os.POSIX_SPAWN_DUP2, said.fileno(), 2),
                ],
            )
        self._started.append(pid)

        def serves() -> bool:
            self._reap()
            if pid not in self._started:
                raise NotMet(f"the gateway ends at once: {self.said()}")
            now = place.read_record(self.directory)
            mine = now is not None and now.pid == pid and now != before
            return mine and place.is_held(self.directory)

        until(serves, START_S, "the gateway serves")

    def said(self) -> str:
        """The end of what it wrote."""
        logs = (self.root / "started.log", self.log)
        text = "".join(log.read_text(errors="replace") for log in logs if log.is_file())
        return text.strip()[-400:] or "it says nothing"

    def link(self) -> socket.socket:
        """A connection as the daemon's; what is sent there is one JSON object a line."""
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with link.reached(self.directory) as short:
            connected.connect(f"{short}/{link.LINK}")
        return connected

    def tell(self, **message: object) -> None:
        """Connect as a daemon, say one thing, and be gone again."""
        with self.link() as connected:
            connected.sendall(msgspec.json.encode(message) + b"\n")
            connected.settimeout(START_S)
            connected.recv(1)  # its greeting: it has taken the connection

    def rss_kb(self) -> int:
        """Resident memory, in kB."""
        return rss_kb([self.pid])

    def cpu_s(self) -> float:
        """CPU seconds so far."""
        return cpu_s([self.pid])

    def open_files(self) -> int:
        """Descriptors it holds."""
        return open_files(self.pid)

    def processes(self) -> list[int]:
        """Those of the gateways started here that still run."""
        self._reap()
        return list(self._started)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal the one that serves."""
        pid = self.pid
        if pid in self.processes():
            os.kill(pid, number)

    def end(self) -> None:
        """End all that were started here."""
        for number, patience in ((signal.SIGTERM, END_S), (signal.SIGKILL, END_S)):
            for pid in self.processes():
                send((pid, place.start_time(pid)), number)
            with contextlib.suppress(NotMet):
                until(lambda: not self.processes(), patience, "the gateway is gone")
                break
        self.accounts.close()

    def _reap(self) -> None:
        for pid in tuple(self._started):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._started.remove(pid)


@contextmanager
def standalone(
    directory: Path,
    models: Mapping[str, Sequence[int]],
    *,
    core: int | None = None,
    slots: int = SLOTS,
    limits: Limits | None = None,
    anonymous: bool = False,
) -> Iterator[Standalone]:
    """A gateway in front of fake workers, everything on; ended on leaving."""
    routes = table(models, slots=slots, limits=limits, anonymous=anonymous)
    gateway = Standalone(directory, routes, core)
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.end()
