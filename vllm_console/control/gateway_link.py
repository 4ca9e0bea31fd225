"""The daemon's end of the link with a gateway, as `vllm_console.gateway.link` describes it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec

from vllm_console.gateway.link import LINK, Lines, reached
from vllm_console.gateway.table import Table

HELLO_S = 5.0
"""A gateway says who it is at once; this long it is waited for."""


class Hearing(Protocol):
    """Who is told what a gateway says."""

    def wanted(self, model: str) -> None:
        """A request waits for this model, which is not loaded."""

    def counted(self, link: GatewayLink, stats: dict[str, Any]) -> None:
        """The numbers of this second."""


class NotLinked(Exception):
    """No gateway answers on this link."""


class GatewayLink(asyncio.Protocol):
    """One connection to one gateway."""

    def __init__(self, hearing: Hearing, clock: Callable[[], float]) -> None:
        self._hearing = hearing
        self._clock = clock
        self._lines = Lines()
        self._transport: asyncio.WriteTransport | None = None
        self._drains: dict[str, list[asyncio.Future[None]]] = {}
        self._hello: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.closed = asyncio.Event()
        """Set once the connection is gone."""
        self.heard_at = clock()
        """When it last said anything."""

    async def hello(self) -> dict[str, Any]:
        """What the gateway says of itself; raises `NotLinked` when it says nothing."""
        try:
            async with asyncio.timeout(HELLO_S):
                return await self._hello
        except TimeoutError:
            self.close()
            raise NotLinked("the gateway does not answer on its link") from None

    def send_table(self, table: Table) -> None:
        """Have it serve by this table."""
        self._say({"table": table})

    def stop(self) -> None:
        """Have it finish what it has, and end."""
        self._say({"stop": True})

    async def drained(self, worker: str) -> None:
        """Return once no request of this gateway is with a worker, or the link is gone."""
        if self._transport is None:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._drains.setdefault(worker, []).append(done)
        self._say({"drain-worker": worker})
        await done

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.closed.set()
        if not self._hello.done():
            self._hello.set_exception(NotLinked("the gateway hung up"))
            self._hello.exception()  # it may be nobody's concern
        for worker in list(self._drains):
            self._have_drained(worker)

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._clock()
        try:
            for line in self._lines.feed(data):
                self._heard(msgspec.json.decode(line, type=dict[str, Any]))
        except ValueError:
            self.close()  # it speaks no language of ours: it is looked for anew

    def _heard(self, message: dict[str, Any]) -> None:
        for key, value in message.items():
            if key == "hello" and not self._hello.done():
                self._hello.set_result(value)
            elif key == "want":
                self._hearing.wanted(value)
            elif key == "drained":
                self._have_drained(value)
            elif key == "stats":
                self._hearing.counted(self, value)

    def _have_drained(self, worker: str) -> None:
        for done in self._drains.pop(worker, ()):
            if not done.done():
                done.set_result(None)

    def _say(self, message: dict[str, Any]) -> None:
        if self._transport is not None:
            self._transport.write(msgspec.json.encode(message) + b"\n")


async def connect(
    directory: Path, hearing: Hearing, clock: Callable[[], float]
) -> tuple[GatewayLink, dict[str, Any]]:
    """The link to the gateway that runs in a directory, and its hello; raises `NotLinked`."""
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connecting.setblocking(False)
    try:
        with reached(directory) as short:
            connecting.connect(f"{short}/{LINK}")
    except OSError as error:
        connecting.close()
        reason = error.strerror or error
        raise NotLinked(f"no gateway answers in {directory}: {reason}") from None
    loop = asyncio.get_running_loop()
    _, link = await loop.create_unix_connection(
        lambda: GatewayLink(hearing, clock), sock=connecting
    )
    return link, await link.hello()
