"""Who listens on a port: so that a stranger on it is never taken for our worker."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Collection, Iterable

from vllm_console.errors import ConsoleError

PORTS = range(18000, 20000)
"""Below the kernel's ephemeral range (32768 up), where any outgoing connection may sit."""

_LISTEN = "0A"
_LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}
_ANY = {"00000000", "0" * 32}


def listeners(port: int) -> frozenset[int]:
    """Inodes of the sockets that take a connection to 127.0.0.1:`port`."""
    return listeners_by_port().get(port, frozenset())


def listeners_by_port() -> dict[int, frozenset[int]]:
    """Inodes of the sockets that take a connection to 127.0.0.1, for every port that has one.

    The kernel prefers a socket bound to the address over one bound to all of them, so the latter
    count only without the former. Format: proc(5), /proc/net/tcp.
    """
    exact: dict[int, set[int]] = {}
    wild: dict[int, set[int]] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as file:
                lines = file.readlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] != _LISTEN:
                continue
            address, _, number = fields[1].partition(":")
            if address in _LOOPBACK:
                exact.setdefault(int(number, 16), set()).add(int(fields[9]))
            elif address in _ANY:
                wild.setdefault(int(number, 16), set()).add(int(fields[9]))
    return {port: frozenset(inodes) for port, inodes in {**wild, **exact}.items()}


def sockets_of(pid: int) -> set[int]:
    """Inodes of the sockets a process holds; empty when it is gone or not ours to see."""
    found: set[int] = set()
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return found
    for name in names:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(int(target[8:-1]))
    return found


def listening(port: int, pids: Iterable[int]) -> list[int]:
    """Those of `pids` that listen on 127.0.0.1:`port`."""
    wanted = listeners(port)
    return [pid for pid in pids if wanted & sockets_of(pid)] if wanted else []


def belongs(port: int, pids: Iterable[int]) -> bool | None:
    """Whether every socket that listens on 127.0.0.1:`port` is held by one of `pids`.

    `None` when nobody listens. *Every*: vLLM binds with SO_REUSEPORT, so that a second server of
    the same user may share the port and take half of the connections.
    """
    wanted = listeners(port)
    if not wanted:
        return None
    held: set[int] = set()
    for pid in pids:
        held |= sockets_of(pid)
        if wanted <= held:
            return True
    return False


def free_port(avoid: Collection[int] = (), ports: range = PORTS) -> int:
    """A port of `ports` on 127.0.0.1 that nobody is bound to now, found by binding it.

    Raises `ConsoleError` when there is none. Starts at random: two fleets seldom meet.
    """
    first = random.randrange(len(ports))
    for step in range(len(ports)):
        port = ports[(first + step) % len(ports)]
        if port not in avoid and _binds(port):
            return port
    raise ConsoleError(
        f"no free port on 127.0.0.1 in {ports.start}-{ports.stop - 1}: set `port` of the model"
    )


def _binds(port: int) -> bool:
    """No SO_REUSEADDR: a booting vLLM has bound its port and does not listen on it yet."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
