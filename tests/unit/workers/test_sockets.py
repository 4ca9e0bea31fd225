"""Who holds a port, told from /proc against sockets that this process opens."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from vllm_console.errors import ConsoleError
from vllm_console.workers import sockets

ME = os.getpid()


def test_a_listening_socket_belongs_to_who_holds_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert sockets.listening(port, [ME, 1]) == [ME]
        assert sockets.belongs(port, [ME]) is True
        assert sockets.belongs(port, [1]) is False
    assert sockets.belongs(port, [ME]) is None


def test_a_bound_socket_that_does_not_listen_is_nobody_s() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert sockets.belongs(bound.getsockname()[1], [ME]) is None


def test_a_port_shared_with_a_stranger_is_not_ours() -> None:
    code = (
        "import socket,sys; s=socket.socket(); s.setsockopt(1, 15, 1);"
        "s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(); print(flush=True); sys.stdin.read()"
    )
    with socket.socket() as ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        ours.bind(("127.0.0.1", 0))
        ours.listen()
        port = ours.getsockname()[1]
        assert sockets.belongs(port, [ME]) is True
        with subprocess.Popen(
            [sys.executable, "-c", code, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as stranger:
            assert stranger.stdout is not None
            stranger.stdout.readline()
            assert sockets.belongs(port, [ME]) is False
            assert sockets.belongs(port, [ME, stranger.pid]) is True
            stranger.kill()


def test_the_loopback_address_wins_over_all_addresses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as exact:
        assert len(sockets.listeners(exact.getsockname()[1])) == 1
    with socket.create_server(("", 0)) as wild:
        assert sockets.belongs(wild.getsockname()[1], [ME]) is True


def test_a_free_port_avoids_what_is_bound_or_promised() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(ConsoleError, match="no free port"):
            sockets.free_port(ports=range(port, port + 1))
    first = sockets.free_port()
    assert first in sockets.PORTS
    with pytest.raises(ConsoleError, match=f"{first}-{first}"):
        sockets.free_port({first}, range(first, first + 1))
