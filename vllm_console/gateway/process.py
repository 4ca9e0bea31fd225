"""The gateway as a process: `python -m vllm_console.gateway DIR [--fd N]`.

DIR holds what `vllm_console.gateway.place` lists. The listening socket is descriptor N, else that
of a gateway that serves here already, else a new one. A gateway that serves here hands its place
over, and ends when the last of its requests has.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import uvloop

from vllm_console import __version__
from vllm_console.errors import ConsoleError
from vllm_console.gateway import place
from vllm_console.gateway.access_log import AccessLog
from vllm_console.gateway.app import App
from vllm_console.gateway.keyring import Keyring
from vllm_console.gateway.ledger import Ledger
from vllm_console.gateway.link import Handover, Links, NotHandedOver, shared, take_over
from vllm_console.gateway.measures import Measures
from vllm_console.gateway.place import Config, Record
from vllm_console.gateway.routes import Gateway
from vllm_console.gateway.serving import BACKLOG, Serving
from vllm_console.gateway.stats import Stats
from vllm_console.gateway.table import Table
from vllm_console.gateway.writer import Writer

STOP_S = 8.0
"""How long requests may go on once it is told to end; the daemon kills after 10 s."""
LEAVING_S = 3600.0
"""How long they may once another gateway has taken over: the default limit of one answer."""
TLS_LOOK_S = 5.0
"""Between two looks at the files of the certificate."""
FIRST_S, FRESH_S = 5.0, 1.0
"""How long connections wait for the daemon's table: where there is none, and where there is an
earlier one. It comes within some 50 ms."""
SWITCH_S = 0.0005
"""Seconds the writer's thread may keep the loop from the interpreter; CPython's own 5 ms were to be
seen in every hundredth answer."""
_TICK_S = 1.0
_OBSERVED_S = 0.5
"""Who looks whether the lock is held has it for an instant; that is waited out."""

_log = logging.getLogger(__name__)


class Process:
    """One gateway and everything around it. All but the writer's work is on one event loop."""

    def __init__(self, directory: Path, config: Config) -> None:
        self._directory = directory
        self._config = config
        self._started_at = time.time()
        self._start = place.start_time(os.getpid())
        self._url = ""
        self._lock = -1
        self._retired = False
        self._told = asyncio.Event()
        """Set once the table is of the daemon that runs, or of who served here before."""
        self._stopping = False
        table = place.read_table(directory) or Table(version=0, anonymous=False)
        keyring = Keyring()
        self._ledger = Ledger(directory.parent / "gateway.sqlite", keyring)
        self._ledger.begin()
        keyring.allow_anonymous = table.anonymous
        self._gateway = Gateway(table, keyring, Measures())
        self._stats = Stats(
            self._gateway, version=__version__, now=monotonic(), started_at=self._started_at
        )
        self._access = AccessLog(directory / "access.jsonl")
        self._links = Links(self, self._hello)
        self._gateway.demand = self._links.want
        self._choose_sinks(table)

    # -- what a daemon asks for (link.Linked) ---------------------------------------------------

    def configure(self, table: Table) -> None:
        """Serve by this table from now on."""
        self._told.set()
        self._gateway.keyring.allow_anonymous = table.anonymous
        self._choose_sinks(table)
        self._gateway.configure(table)
        if not self._retired:
            self._writer.table = table

    def in_flight(self, worker: str) -> int:
        """Requests that a worker has from here."""
        return self._gateway.in_flight(worker)

    def stop(self) -> None:
        """Finish what runs, then end."""
        if not self._stopping:
            self._stopping = True
            self._told.set()
            self._serving.stop(STOP_S)
            asyncio.get_running_loop().call_later(STOP_S, self._gateway.close)
            self._end_idle()

    # -- its life -------------------------------------------------------------------------------

    async def run(self, given: socket.socket | None) -> None:
        """Serve until told to end; raises `ConsoleError` where that cannot begin."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        sock = self._take_place(given)
        port = sock.getsockname()[1]
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        self._url = f"{'https' if self._config.tls_cert else 'http'}://{host}:{port}"
        self._writer = Writer(
            self._directory,
            self._ledger,
            self._access,
            lambda rows: loop.call_soon_threadsafe(self._gateway.keyring.replace, rows),
        )
        handover = Handover(sock, self._lock, lambda: self._gateway.table, self._taken_over)
        try:
            self._write_record()
            await self._links.start(self._directory)
            handover.start(self._directory)
        except OSError as error:
            raise ConsoleError(f"{self._directory}: {error.strerror}; give it room") from None
        self._writer.start()
        await self._know_whom_to_serve(by_daemon=given is not None)
        serving = asyncio.create_task(self._serving.run())
        ticking = asyncio.create_task(self._tick_for_ever())
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)  # what a request leaves holds no cycles
        sys.setswitchinterval(SWITCH_S)
        try:
            await serving
        finally:
            ticking.cancel()
            handover.close()
            sock.close()
            await asyncio.to_thread(self._writer.finish)
            self._links.close()

    async def _know_whom_to_serve(self, *, by_daemon: bool) -> None:
        """Wait for the table of the daemon that has just started this; connections wait too.

        Without any table that is long; the one that was kept may be a little out of date.
        """
        patience = FRESH_S if by_daemon else 0.0
        if not self._gateway.table.version:
            patience = FIRST_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._told.wait()

    def _take_place(self, given: socket.socket | None) -> socket.socket:
        """Be the gateway of the directory; gives the listening socket."""
        if given is not None:
            self._serving = self._made_serving(given)  # all that takes time, before the other stops
        lock = place.acquire(self._directory)
        until = monotonic() + _OBSERVED_S
        handed = None
        while lock is None:
            try:
                handed, lock, table = take_over(self._directory)
            except NotHandedOver as error:
                if monotonic() > until:
                    raise ConsoleError(
                        f"{self._directory}: another gateway serves here and does not make room "
                        f"({error})"
                    ) from None
                time.sleep(0.01)
                lock = place.acquire(self._directory)
            else:
                if table is not None:
                    self._told.set()
                    self._gateway.keyring.allow_anonymous = table.anonymous
                    self._choose_sinks(table)
                    self._gateway.configure(table)
        self._lock = lock
        if given is not None:
            if handed is not None:
                handed.close()
            return given
        sock = handed or _bound(self._config)
        self._serving = self._made_serving(sock)
        return sock

    def _made_serving(self, sock: socket.socket) -> Serving:
        config = self._config
        try:
            return Serving(
                self._gateway,
                App(self._gateway, self._stats),
                sock.dup(),
                tls_cert=config.tls_cert,
                tls_key=config.tls_key,
            )
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror or error
            raise ConsoleError(
                f"{config.tls_cert}, {config.tls_key}: no certificate and key to serve with "
                f"({reason}); correct tls_cert and tls_key of [gateway]"
            ) from None

    def _taken_over(self) -> None:
        """Another gateway serves in our place: finish what is here."""
        self._retired = True
        self._writer.table = None
        self._links.retire()
        os.close(self._lock)
        self._serving.stop(LEAVING_S)

    def _end_idle(self) -> None:
        """Hang up on connections without a request, once those with one are done."""
        loop = asyncio.get_running_loop()
        if self._gateway.in_requests:
            loop.call_later(0.05, self._end_idle)
        else:
            loop.call_later(0.2, self._gateway.close)  # what was on its way has come by then

    async def _tick_for_ever(self) -> None:
        looked, stamps = monotonic(), _stamps(self._config)
        while True:
            await asyncio.sleep(_TICK_S)
            now = monotonic()
            self._stats.link_up = self._links.up
            told = self._stats.tick(now)
            told["trouble"] = self._ledger.trouble or self._access.trouble
            self._links.tell_numbers(told)
            if self._config.tls_cert is not None and now - looked >= TLS_LOOK_S:
                looked, seen = now, _stamps(self._config)
                if seen != stamps:
                    stamps = seen
                    self._renew()

    def _renew(self) -> None:
        """Serve with the certificate as its files have it now; a bad one changes nothing."""
        try:
            self._serving.renew()
        except (OSError, ssl.SSLError) as error:
            _log.warning("%s: not taken up: %s", self._config.tls_cert, error)

    def _choose_sinks(self, table: Table) -> None:
        sinks: list[Any] = [self._ledger.record]
        if table.access_log:
            sinks.append(self._access.add)
        self._gateway.sinks[:] = sinks

    def _hello(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "pid": os.getpid(),
            "start": self._start,
            "started_at": self._started_at,
            "url": self._url,
            "host": self._config.host,
            "asked_port": self._config.port,
            "config": self._config.digest,
            "table_version": self._gateway.table.version,
        }

    def _write_record(self) -> None:
        place.write_record(
            self._directory,
            Record(
                pid=os.getpid(),
                start=self._start,
                boot=place.boot_id(),
                version=__version__,
                url=self._url,
                started_at=self._started_at,
            ),
        )


def _bound(config: Config) -> socket.socket:
    """A socket that listens where the configuration says."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(BACKLOG)
    except OSError as error:
        raise ConsoleError(
            f"{config.host}:{config.port} cannot be listened on: {error.strerror}; "
            "set [gateway] host and port"
        ) from None
    made.setblocking(False)
    return made


def _stamps(config: Config) -> tuple[tuple[int, int], ...]:
    """What changes when a file of the certificate does."""
    seen = []
    for path in (config.tls_cert, config.tls_key):
        with contextlib.suppress(OSError, TypeError):
            stat = os.stat(path or "")
            seen.append((stat.st_mtime_ns, stat.st_ino))
    return tuple(seen)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve; the value is the exit code. What there is to say goes to stderr, the gateway's log."""
    parser = argparse.ArgumentParser(prog="vllm-console-gateway")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--fd", type=int, help="a socket that listens")
    args = parser.parse_args(argv)
    directory = args.directory.absolute()
    os.umask(0o077)
    os.chdir("/")
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        given = None if args.fd is None else shared(args.fd)
        process = Process(directory, place.read_config(directory))
        uvloop.run(process.run(given))
    except ConsoleError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the daemon shows its last words
        return error.exit_code
    return 0
