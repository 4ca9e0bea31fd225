"""Who is at the other end of the control socket: the kernel's word, and the program's own."""

from __future__ import annotations

import asyncio
import pwd
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_CREDENTIALS = struct.Struct("3i")
"""struct ucred: pid, uid, gid (unix(7))."""
_NAME_MAX = 64


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks the daemon for something."""

    client: str
    """The program, by its own word, else by /proc; or a signal's name."""
    uid: int | None = None
    pid: int | None = None

    @property
    def user(self) -> str | None:
        """The user's name, the number where it has none; `None` for a signal."""
        return None if self.uid is None else user_name(self.uid)


class PeerProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol that tells each request's ASGI state who sent it ("peer")."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Ask the kernel once a connection; SO_PEERCRED is of the process that connected."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "peer": credentials(transport)}


def credentials(transport: asyncio.BaseTransport) -> tuple[int, int] | None:
    """(pid, uid) of the other end of a unix socket; `None` where it is no such socket."""
    connected = transport.get_extra_info("socket")
    try:
        told = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except (AttributeError, OSError):
        return None
    pid, uid, _ = _CREDENTIALS.unpack(told)
    return (pid, uid) if pid > 0 else None


def asker_of(scope: Mapping[str, Any]) -> Asker:
    """Who sent an ASGI request."""
    pid, uid = (scope.get("state") or {}).get("peer") or (None, None)
    said = next((value for name, value in scope["headers"] if name == b"user-agent"), b"")
    word = _printable(said.decode("latin-1"))
    return Asker(word or (process_name(pid) if pid else None) or "unknown", uid, pid)


@cache
def user_name(uid: int) -> str:
    """The name of a user, or the number of one that has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def process_name(pid: int) -> str | None:
    """What a process is called in /proc; `None` once it is gone."""
    try:
        return _printable(Path(f"/proc/{pid}/comm").read_text(errors="replace"))
    except OSError:
        return None


def _printable(text: str) -> str:
    return "".join(c for c in text if c.isprintable()).strip()[:_NAME_MAX]
