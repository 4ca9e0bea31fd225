"""One gateway process as the daemon sees it: socket, start, identity and last words."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_console.control.gateway_link import GatewayLink
from vllm_console.errors import ConsoleError
from vllm_console.gateway.place import Config, Record, write_config
from vllm_console.workers.shim import process
from vllm_console.workers.sockets import listeners, sockets_of

BACKLOG = 4096
"""Connections that wait to be taken; the kernel may allow fewer (net.core.somaxconn)."""
LOG = "gateway.log"
_GIVEN = 3
"""The descriptor under which a gateway finds its socket."""
_LOOK_S = 0.02
_LAST_WORDS = 2000


class PortTaken(ConsoleError):
    """The endpoint's address cannot be listened on."""


class NotStarted(ConsoleError):
    """The gateway ended before it answered."""


@dataclass(eq=False, slots=True)
class Child:
    """A process that we started; it may outlive us, and is nobody's to wait for then."""

    pid: int
    code: int | None = None
    """Its exit code, negative for a signal; `None` while it runs."""

    def poll(self) -> int | None:
        """Its exit code, once it has ended."""
        if self.code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has waited for it
                self.code = -1
            else:
                self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    async def end(self) -> None:
        """Kill it; return when it is gone."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)  # a child of ours that was not waited for
            while self.poll() is None:  # noqa: ASYNC110 - the kernel reaps soon
                await asyncio.sleep(_LOOK_S)


@dataclass(eq=False, slots=True)
class Running:
    """One gateway process, ours or one that was found."""

    pid: int
    start: int
    """Clock ticks since boot."""
    link: GatewayLink
    hello: dict[str, Any]
    since: float
    """By the clock of the daemon, when it was linked."""
    child: Child | None = None

    @property
    def version(self) -> str:
        """The version of the program it runs."""
        return str(self.hello.get("version"))

    @property
    def url(self) -> str:
        """Where it serves."""
        return str(self.hello.get("url"))

    @property
    def config(self) -> str:
        """The digest of the configuration it was started with."""
        return str(self.hello.get("config"))


def spawn(
    program: Sequence[str], directory: Path, wish: Config, sock: socket.socket
) -> tuple[Child, int]:
    """A new gateway process that serves on a socket, and where in its log its words begin.

    It leads a session of its own and outlives us. Raises `NotStarted`.
    """
    try:
        write_config(directory, wish)
        log = os.open(directory / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            said = os.fstat(log).st_size
            pid = os.posix_spawn(
                program[0],
                [*program, str(directory), "--fd", str(_GIVEN)],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                    (os.POSIX_SPAWN_DUP2, sock.fileno(), _GIVEN),
                ],
                setsid=True,
                setsigmask=(),
            )
        finally:
            os.close(log)
    except OSError as error:
        place = error.filename or directory
        raise NotStarted(f"the gateway cannot be started: {place}: {error.strerror}") from None
    return Child(pid), said


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; raises `PortTaken` with who has the port, and what to do."""
    made: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(BACKLOG)
    except OSError as error:
        if made is not None:
            made.close()
        where = f"{host}:{port}"
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"{where} is taken by {_holder(port)}; set another [gateway] port, then `apply`"
            ) from None
        reason = error.strerror or error
        raise PortTaken(
            f"{where} cannot be listened on ({reason}); set [gateway] host and port, then `apply`"
        ) from None
    made.setblocking(False)
    return made


def _holder(port: int) -> str:
    """Who listens on a port, as far as this user may see."""
    held = listeners(port)
    for name in os.listdir("/proc"):
        if name.isdigit() and held and sockets_of(int(name)) & held:
            return f"pid {name}"
    return "another user's process"


def refuse_bad_tls(wish: Config) -> None:
    """Raise `NotStarted` for a certificate that cannot be used."""
    if wish.tls_cert is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(wish.tls_cert, wish.tls_key)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or str(error)
        raise NotStarted(
            f"{wish.tls_cert}, {wish.tls_key}: no certificate and key to serve with ({reason}); "
            "correct tls_cert and tls_key of [gateway], then `apply`"
        ) from None


def is_alive(record: Record) -> bool:
    """Whether the gateway of a record still runs: a pid alone does not tell."""
    seen = process(record.pid)
    return seen is not None and record.is_of(seen[0])


def last_words(log: Path, start: int) -> str:
    """The last line of what was written to a log since."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(start, os.fstat(file.fileno()).st_size - _LAST_WORDS))
        return file.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
    return ""
