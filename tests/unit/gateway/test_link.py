"""The unix sockets of a gateway: what is told, what is asked for, and who takes a place over."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from vllm_console.control.gateway_link import GatewayLink, NotLinked, connect
from vllm_console.gateway.link import (
    LINE_MAX,
    Handover,
    Lines,
    Links,
    NotHandedOver,
    listening,
    spare,
    take_over,
)
from vllm_console.gateway.place import acquire, is_held
from vllm_console.gateway.table import Model, Table, Worker

TABLE = Table(version=3, models=(Model(name="m", workers=(Worker(id="m-1", port=1, revision=1),)),))


class FakeGateway:
    """Serves nobody; tests say how many requests a worker has."""

    def __init__(self) -> None:
        self.tables: list[Table] = []
        self.requests: dict[str, int] = {}
        self.stopped = False

    def configure(self, table: Table) -> None:
        self.tables.append(table)

    def in_flight(self, worker: str) -> int:
        return self.requests.get(worker, 0)

    def stop(self) -> None:
        self.stopped = True


class FakeDaemon:
    """Notes what it hears."""

    def __init__(self) -> None:
        self.models: list[str] = []
        self.stats: list[dict[str, Any]] = []

    def wanted(self, model: str) -> None:
        self.models.append(model)

    def counted(self, link: GatewayLink, stats: dict[str, Any]) -> None:
        self.stats.append(stats)


class Rig:
    """A gateway's link and a daemon that connects."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.gateway = FakeGateway()
        self.daemon = FakeDaemon()
        self.links = Links(self.gateway, lambda: {"pid": 7})

    async def joined(self) -> GatewayLink:
        link, hello = await connect(self.directory, self.daemon, lambda: 0.0)
        assert hello == {"pid": 7}
        return link


Scenario = Callable[[Rig], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Scenario], None]:
    async def played(scenario: Scenario) -> None:
        rig = Rig(tmp_path)
        await rig.links.start(tmp_path)
        try:
            await asyncio.wait_for(scenario(rig), 20)
        finally:
            rig.links.close()

    return lambda scenario: asyncio.run(played(scenario))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def test_a_table_a_stop_and_numbers_cross(play: Callable[[Scenario], None]) -> None:
    async def scenario(rig: Rig) -> None:
        link = await rig.joined()
        assert rig.links.up
        link.send_table(TABLE)
        await until(lambda: rig.gateway.tables == [TABLE])
        rig.links.tell_numbers({"total": {"in_flight": 2}})
        rig.links.want("cold")
        await until(lambda: rig.daemon.models == ["cold"])
        assert rig.daemon.stats == [{"total": {"in_flight": 2}}]
        link.stop()
        await until(lambda: rig.gateway.stopped)
        link.close()
        await until(lambda: not rig.links.up)

    play(scenario)


def test_what_was_wanted_without_a_daemon_is_told_to_the_next(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(rig: Rig) -> None:
        for name in ("a", "b", "a"):
            rig.links.want(name)
        await rig.joined()
        await until(lambda: rig.daemon.models == ["a", "b"])
        second = await rig.joined()
        second.close()
        await second.closed.wait()
        assert rig.daemon.models == ["a", "b"]

    play(scenario)


def test_a_worker_is_drained_once_it_has_no_request(play: Callable[[Scenario], None]) -> None:
    async def scenario(rig: Rig) -> None:
        link = await rig.joined()
        rig.gateway.requests = {"m-1": 1, "m-2": 0}
        busy = asyncio.create_task(link.drained("m-1"))
        await link.drained("m-2")
        assert not busy.done()
        rig.gateway.requests["m-1"] = 0
        await busy

    play(scenario)


def test_a_drain_ends_with_the_link(play: Callable[[Scenario], None]) -> None:
    async def scenario(rig: Rig) -> None:
        link = await rig.joined()
        rig.gateway.requests = {"m-1": 1}
        busy = asyncio.create_task(link.drained("m-1"))
        await asyncio.sleep(0)
        rig.links.close()
        await busy
        await link.drained("m-1")

    play(scenario)


def test_a_daemon_that_talks_nonsense_is_hung_up_on(play: Callable[[Scenario], None]) -> None:
    async def scenario(rig: Rig) -> None:
        for nonsense in (b"hello\n", b'{"table": {"models": 5}}\n', b"[]\n"):
            link = await rig.joined()
            assert link._transport is not None
            link._transport.write(nonsense)
            await link.closed.wait()
        assert rig.gateway.tables == []

    play(scenario)


def test_nobody_to_link_with_is_said(tmp_path: Path) -> None:
    async def nobody() -> None:
        with pytest.raises(NotLinked, match="no gateway answers in"):
            await connect(tmp_path, FakeDaemon(), lambda: 0.0)
        silent = listening(tmp_path, "link.sock")
        silent.close()
        with pytest.raises(NotLinked, match="Connection refused"):
            await connect(tmp_path, FakeDaemon(), lambda: 0.0)

    asyncio.run(nobody())


def test_a_directory_with_a_long_name_holds_sockets_too(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    with listening(deep, "link.sock") as sock:
        assert (deep / "link.sock").is_socket()
        assert oct((deep / "link.sock").stat().st_mode)[-3:] == "600"
        assert not sock.getblocking()
        listening(deep, "link.sock").close()  # what an earlier one left makes way


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([b"a\nb\n"], [b"a", b"b"]),
        ([b"a", b"b\n", b"\nc"], [b"ab", b""]),
        ([b"x" * 5, b"\n"], [b"x" * 5]),
    ],
)
def test_lines_are_cut_wherever_pieces_end(pieces: list[bytes], lines: list[bytes]) -> None:
    cut = Lines()
    assert [line for piece in pieces for line in cut.feed(piece)] == lines


def test_a_line_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="without end"):
        list(Lines().feed(b"x" * (LINE_MAX + 1)))


class Held:
    """A gateway's socket and lock, and the handover that gives them away."""

    def __init__(self, directory: Path) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.sock.setblocking(False)
        lock = acquire(directory)
        assert lock is not None
        self.lock = lock
        self.left = 0
        self.handover = Handover(self.sock, lock, lambda: TABLE, self._leave)

    def _leave(self) -> None:
        self.left += 1
        os.close(self.lock)


def test_socket_lock_and_table_pass_to_who_takes_over_and_to_nobody_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        held = Held(tmp_path)
        held.handover.start(tmp_path)
        copy = await asyncio.to_thread(spare, tmp_path)
        assert copy.getsockname() == held.sock.getsockname()
        assert held.left == 0
        sock, lock, table = await asyncio.to_thread(take_over, tmp_path)
        assert (sock.getsockname(), table, held.left) == (held.sock.getsockname(), TABLE, 1)
        assert is_held(tmp_path)
        assert acquire(tmp_path) is None
        with pytest.raises(NotHandedOver):
            await asyncio.to_thread(take_over, tmp_path)
        held.sock.close()
        socket.create_connection(sock.getsockname(), timeout=5).close()
        for each in (sock, copy):
            assert not each.getblocking()
            flags = fcntl.fcntl(each.fileno(), fcntl.F_GETFL)
            assert flags & os.O_NONBLOCK
            assert not os.get_inheritable(each.fileno())
            each.close()
        os.close(lock)
        assert not is_held(tmp_path)

    asyncio.run(scenario())


def test_who_asks_for_something_else_gets_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        held = Held(tmp_path)
        held.handover.start(tmp_path)

        def ask(what: bytes) -> bytes:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
                asking.settimeout(10)
                asking.connect(str(tmp_path / "handover.sock"))
                asking.sendall(what)
                return asking.recv(100)

        for what in (b'{"ask": "the moon"}\n', b"nonsense\n", b"[]\n"):
            assert await asyncio.to_thread(ask, what) == b""
        assert held.left == 0
        held.handover.close()
        held.sock.close()
        os.close(held.lock)

    asyncio.run(scenario())
