"""The pool of connections for whoever awaits an answer: request, response, streamed body."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from vllm_console.http1.connection import Connection
from vllm_console.http1.failures import (
    BadRequest,
    ConnectFailed,
    Disconnected,
    RequestTimedOut,
    reason,
)
from vllm_console.http1.push import SAFE_IDLE_S
from vllm_console.http1.request import Address, Ask, asked


@dataclass(frozen=True, slots=True)
class Response:
    """A response that was read in full."""

    status: int
    headers: list[tuple[bytes, bytes]]
    """As sent, in order; names in lower case."""
    body: bytes


class StreamedResponse:
    """A response whose head is here and whose body arrives while it is read."""

    __slots__ = ("_connection", "headers", "status")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.status = connection.status
        self.headers = connection.headers

    def chunks(self) -> AsyncIterator[bytes]:
        """Pieces of the body as they arrive, never empty; what one read brought comes as one.

        Raises `Disconnected`, `RequestTimedOut` or `BadResponse` where the body breaks off.
        """
        return _Chunks(self._connection)


class _Chunks:
    """Iterates over a body without an async generator, which would need closing."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        connection = self._connection
        while not connection.pieces:
            if connection.done:
                raise StopAsyncIteration
            await connection.more()
        return connection.take()


class Pool:
    """Keep-alive connections to any number of hosts, for one event loop.

    `max_idle_per_host` connections stay open unused for at most `idle_s` seconds; how many are in
    use at once has no limit. `max_body` bounds, in bytes, what `request` takes into memory.
    """

    def __init__(
        self, *, max_idle_per_host: int = 64, idle_s: float = 30.0, max_body: int = 64 << 20
    ) -> None:
        self._max_idle = max_idle_per_host
        self._idle_s = idle_s
        self._max_body = max_body
        self._idle: dict[tuple[str, int], deque[Connection]] = {}
        self._open: set[Connection] = set()  # uvloop never tells the end of a connect given up
        self._sweep: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None
        self._closed = False

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        timeout: float,  # noqa: ASYNC109
    ) -> Response:
        """Sends one request and reads the response to its end, whatever its status.

        `timeout` (seconds) covers connecting, sending and reading. Host and Content-Length are set
        here. A kept connection that turns out closed before any byte of the response is replaced
        by a new one, once, for GET and HEAD. Raises `HttpError`.
        """
        ask = asked(method, url, headers, body, timeout, timeout, self._max_body)
        connection = await self._exchange(ask)
        try:
            while not connection.done:
                await connection.more()
            content = connection.take() if connection.pieces else b""
            return Response(connection.status, connection.headers, content)
        finally:
            self._release(connection)

    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        connect_timeout: float = 5.0,
        timeout: float | None = None,
    ) -> AbstractAsyncContextManager[StreamedResponse]:
        """Sends one request; the block it opens starts when the response's head is there.

        `connect_timeout` (seconds) covers connecting, `timeout` everything from connecting to the
        last byte (`None`: no limit). Leaving the block before the end of the body closes the
        connection, which tells the peer to stop. A consumer that is slower than the peer slows the
        peer down. Raises `HttpError`, here and from `chunks`.
        """
        return self._stream(asked(method, url, headers, body, connect_timeout, timeout, None))

    @asynccontextmanager
    async def _stream(self, ask: Ask) -> AsyncIterator[StreamedResponse]:
        connection = await self._exchange(ask)
        try:
            yield StreamedResponse(connection)
        finally:
            self._release(connection)

    async def close(self) -> None:
        """Closes every connection, in use or not, and returns when all sockets are closed."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._idle.clear()
        if not self._open:
            return
        if self._emptied is None:
            self._emptied = asyncio.get_running_loop().create_future()
        for connection in tuple(self._open):
            connection.abort()
        await asyncio.shield(self._emptied)

    async def _exchange(self, ask: Ask) -> Connection:
        """A connection that has received the head of the response; the caller releases it."""
        kept = self._kept(ask.address, self._idle_s if ask.repeatable else SAFE_IDLE_S)
        while True:
            connection = kept or await self._connect(ask)
            try:
                connection.send(ask)
                while not connection.head_done:
                    await connection.more()
                return connection
            except Disconnected:
                connection.abort()
                if kept is None or not ask.repeatable or connection.heard:
                    raise
                kept = None
            except BaseException:
                connection.abort()
                raise

    async def _connect(self, ask: Ask) -> Connection:
        if self._closed:
            raise BadRequest(f"{ask.label}: the connection pool is closed")
        loop = asyncio.get_running_loop()
        until, allowed = loop.time() + ask.connect_timeout, ask.connect_timeout
        if ask.deadline is not None and ask.allowed is not None and ask.deadline < until:
            until, allowed = ask.deadline, ask.allowed
        try:
            async with asyncio.timeout_at(until):
                _, connection = await loop.create_connection(
                    lambda: Connection(ask.address, self._lost), ask.address.host, ask.address.port
                )
        except TimeoutError as error:
            raise RequestTimedOut(f"{ask.label}: no connection within {allowed:g} s") from error
        except OSError as error:
            raise ConnectFailed(f"{ask.label}: {reason(error)}") from error
        self._opened(connection)
        return connection

    def _kept(self, address: Address, idle_s: float) -> Connection | None:
        """The most lately used idle connection to the address, if one is fresh enough."""
        idle = self._idle.get((address.host, address.port))
        if not idle or time.monotonic() - idle[-1].idle_since > idle_s:
            return None
        return idle.pop()

    def _release(self, connection: Connection) -> None:
        """Keeps the connection for a next request if it can carry one, else closes it."""
        if self._closed or not connection.finish():
            connection.abort()
            return
        idle = self._idle.setdefault(connection.key, deque())
        idle.append(connection)
        connection.idle_since = time.monotonic()
        if len(idle) > self._max_idle:
            idle.popleft().abort()
        if self._sweep is None:
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_later(self._idle_s, self._close_unused)

    def _close_unused(self) -> None:
        """Closes what has been idle for too long and looks again when the next one will be."""
        self._sweep = None
        oldest = time.monotonic() - self._idle_s
        left = []
        for key, idle in tuple(self._idle.items()):
            while idle and idle[0].idle_since <= oldest:
                idle.popleft().abort()
            if idle:
                left.append(idle[0].idle_since)
            else:
                del self._idle[key]
        if left:
            wait = max(0.01, min(left) - oldest)
            self._sweep = asyncio.get_running_loop().call_later(wait, self._close_unused)

    def _opened(self, connection: Connection) -> None:
        """Counts the connection, and closes it where the pool closed meanwhile."""
        if not connection.lost:
            self._open.add(connection)
        if self._closed:
            connection.abort()

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        idle = self._idle.get(connection.key)
        if idle is not None and connection in idle:
            idle.remove(connection)
        if self._emptied is not None and not self._open and not self._emptied.done():
            self._emptied.set_result(None)
