"""The pool of connections for whoever awaits an answer: request, response, streamed body."""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import httptools

from vllm_console.http1.failures import (
    BadRequest,
    BadResponse,
    ConnectFailed,
    Disconnected,
    HttpError,
    RequestTimedOut,
    one_line,
    reason,
)
from vllm_console.http1.push import MAX_OVERHEAD, SAFE_IDLE_S

HIGH_WATER = 256 << 10
"""Bytes a streamed response may hold unread before reading from its socket pauses."""

_REPEATABLE = frozenset({"GET", "HEAD"})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD = re.compile(r"[^\x00\r\n]*")
_URL = re.compile(
    r"http://(?P<host>\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>[/?][!-\"$-~]*)?(?:#.*)?"
)


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

    def __init__(self, connection: _Connection) -> None:
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

    def __init__(self, connection: _Connection) -> None:
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


@dataclass(frozen=True, slots=True)
class _Address:
    host: str
    port: int
    authority: str
    target: str


@dataclass(frozen=True, slots=True)
class _Ask:
    """One request, ready for the wire, and the bounds of its exchange."""

    address: _Address
    label: str
    """Method and URL without its query: how errors name the request."""
    message: bytes
    repeatable: bool
    head_only: bool
    connect_timeout: float
    allowed: float | None
    """Seconds for the whole exchange; `deadline` is the same on the loop's clock."""
    deadline: float | None
    max_body: int | None


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
        self._idle: dict[tuple[str, int], deque[_Connection]] = {}
        self._open: set[_Connection] = set()  # uvloop never tells the end of a connect given up
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
        ask = _ask(method, url, headers, body, timeout, timeout, self._max_body)
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
        return self._stream(_ask(method, url, headers, body, connect_timeout, timeout, None))

    @asynccontextmanager
    async def _stream(self, ask: _Ask) -> AsyncIterator[StreamedResponse]:
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

    async def _exchange(self, ask: _Ask) -> _Connection:
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

    async def _connect(self, ask: _Ask) -> _Connection:
        if self._closed:
            raise BadRequest(f"{ask.label}: the connection pool is closed")
        loop = asyncio.get_running_loop()
        until, allowed = loop.time() + ask.connect_timeout, ask.connect_timeout
        if ask.deadline is not None and ask.allowed is not None and ask.deadline < until:
            until, allowed = ask.deadline, ask.allowed
        try:
            async with asyncio.timeout_at(until):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self, ask.address), ask.address.host, ask.address.port
                )
        except TimeoutError as error:
            raise RequestTimedOut(f"{ask.label}: no connection within {allowed:g} s") from error
        except OSError as error:
            raise ConnectFailed(f"{ask.label}: {reason(error)}") from error
        self._opened(connection)
        return connection

    def _kept(self, address: _Address, idle_s: float) -> _Connection | None:
        """The most lately used idle connection to the address, if one is fresh enough."""
        idle = self._idle.get((address.host, address.port))
        if not idle or time.monotonic() - idle[-1].idle_since > idle_s:
            return None
        return idle.pop()

    def _release(self, connection: _Connection) -> None:
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

    def _opened(self, connection: _Connection) -> None:
        """Counts the connection, and closes it where the pool closed meanwhile."""
        if not connection.lost:
            self._open.add(connection)
        if self._closed:
            connection.abort()

    def _lost(self, connection: _Connection) -> None:
        self._open.discard(connection)
        idle = self._idle.get(connection.key)
        if idle is not None and connection in idle:
            idle.remove(connection)
        if self._emptied is not None and not self._open and not self._emptied.done():
            self._emptied.set_result(None)


class _Connection(asyncio.Protocol):
    """One socket: at most one exchange at a time, any number one after another."""

    __slots__ = (
        "_ask", "_content_length", "_error", "_framed", "_overhead", "_parser", "_paused", "_pool",
        "_received", "_reusable", "_timer", "_transport", "_unread", "_waiter", "busy", "done",
        "head_done", "headers", "heard", "idle_since", "key", "pieces", "status",
    )  # fmt: skip

    def __init__(self, pool: Pool, address: _Address) -> None:
        self._pool = pool
        self.key = (address.host, address.port)
        self.idle_since = 0.0
        self.busy = False
        self._error: HttpError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None

    # One exchange, as its requester sees it.

    def send(self, ask: _Ask) -> None:
        """Starts an exchange: writes the request, forgets the last response."""
        self.busy = True
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []
        self.head_done = self.done = self.heard = False
        self._ask = ask
        self._framed = self._paused = False
        self._reusable = True
        self._received = self._unread = self._overhead = self._content_length = 0
        if self._transport is None:
            self.fail(Disconnected(f"{ask.label}: the connection was closed before the request"))
            return
        if ask.deadline is not None:
            self._timer = asyncio.get_running_loop().call_at(ask.deadline, self._expire)
        self._transport.write(ask.message)

    async def more(self) -> None:
        """Returns when something has arrived; raises the exchange's error."""
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._error is not None:
            raise self._error

    def take(self) -> bytes:
        """Everything that arrived and was not taken yet."""
        data = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        self.pieces.clear()
        self._unread = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    def finish(self) -> bool:
        """Ends the exchange; true if the connection can carry another one."""
        self._cancel_timer()
        self.busy = False
        transport = self._transport
        return (
            self.done
            and self._reusable
            and self._error is None
            and transport is not None
            and not transport.is_closing()
            and transport.get_write_buffer_size() == 0
            and not self._paused
        )

    def fail(self, error: HttpError) -> None:
        """Ends the exchange with an error, and the connection with it; the first error counts."""
        if self._error is None:
            self._error = error
        self.abort()
        self._wake()

    def abort(self) -> None:
        """Closes the socket at once."""
        self._cancel_timer()
        if self._transport is not None:
            self._transport.abort()

    @property
    def lost(self) -> bool:
        """Whether the socket is closed already."""
        return self._transport is None

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        if self._parser is None or not self.busy or self._error is not None:
            self.abort()
            return
        self.heard = True
        received = self._received
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._reusable = False
            if not self.done:
                self._refuse(f"not an HTTP/1.1 response ({reason(error)})")
                return
        if self.done:
            self._cancel_timer()
        elif self._received > received:
            self._overhead = 0
            if self._ask.max_body is None and self._unread > HIGH_WATER and not self._paused:
                assert self._transport is not None
                self._paused = True
                self._transport.pause_reading()
        else:
            self._overhead += len(data)
            if self._overhead > MAX_OVERHEAD:
                self._refuse(f"over {MAX_OVERHEAD} bytes of headers and no body")
                return
        limit = self._ask.max_body
        if limit is not None and (self._received > limit or self._content_length > limit):
            self._refuse(f"a body of over {limit} bytes")
            return
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._cancel_timer()
        self._transport = None
        self._parser = None
        self._pool._lost(self)
        if self.busy and not self.done and self._error is None:
            if self.head_done and not self._framed and error is None:
                self.done = True  # a body without a length ends where the connection does
            else:
                how = "closed the connection" if error is None else reason(error)
                when = "inside the response" if self.heard else "before any response"
                self._error = Disconnected(f"{self._ask.label}: {how} {when}")
        self._wake()

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self.done:
            self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_done:
            return
        name = name.lower()
        self.headers.append((name, value))
        if name == b"content-length":
            self._framed = True
            self._content_length = int(value) if value.isdigit() else 0
        elif name == b"transfer-encoding" and b"chunked" in value.lower():
            self._framed = True

    def on_headers_complete(self) -> None:
        if self._parser is None or self.done:
            return
        status = self._parser.get_status_code()
        if status < 200:
            return
        self.status = status
        self.head_done = True
        self._reusable = self._parser.should_keep_alive()
        if self._ask.head_only:
            self._content_length = 0
            self.done = True
            self._reusable = False

    def on_body(self, body: bytes) -> None:
        if self._ask.head_only or self.done:
            return
        self.pieces.append(body)
        self._unread += len(body)
        self._received += len(body)

    def on_message_complete(self) -> None:
        if self.head_done:
            self.done = True
        else:  # an interim 1xx response
            self.headers.clear()
            self._framed = False
            self._content_length = 0

    def _refuse(self, what: str) -> None:
        self.done = False
        self.fail(BadResponse(f"{self._ask.label}: {what}"))

    def _expire(self) -> None:
        self._timer = None
        what = "response not complete" if self.head_done else "no response"
        self.fail(RequestTimedOut(f"{self._ask.label}: {what} within {self._ask.allowed:g} s"))

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@lru_cache(maxsize=4096)
def _address(url: str) -> _Address:
    match = _URL.fullmatch(url)
    if match is None:
        raise BadRequest(f"{one_line(url)!r} is not a URL of the form http://HOST:PORT/PATH")
    host, target = match["host"], match["target"] or "/"
    port = int(match["port"] or 80)
    if not 0 < port < 65536:
        raise BadRequest(f"{one_line(url)!r}: port {port} is not between 1 and 65535")
    authority = f"{host}:{match['port']}" if match["port"] else host
    if target.startswith("?"):
        target = "/" + target
    return _Address(host.strip("[]"), port, authority, target)


def _ask(
    method: str,
    url: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    connect_timeout: float,
    allowed: float | None,
    max_body: int | None,
) -> _Ask:
    address = _address(url)
    if not _TOKEN.fullmatch(method):
        raise BadRequest(f"{one_line(method)!r} is not an HTTP method")
    label = f"{method} http://{address.authority}{address.target.partition('?')[0]}"
    lines = [f"{method} {address.target} HTTP/1.1\r\nhost: {address.authority}\r\n"]
    if body or method in _WITH_BODY:
        lines.append(f"content-length: {len(body)}\r\n")
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or not _FIELD.fullmatch(value):
            raise BadRequest(f"{label}: header {one_line(name)!r} would break the request")
        lines.append(f"{name}: {value}\r\n")
    lines.append("\r\n")
    try:
        head = "".join(lines).encode("latin-1")
    except UnicodeEncodeError as error:
        raise BadRequest(f"{label}: a header is not Latin-1") from error
    return _Ask(
        address=address,
        label=label,
        message=head + body,
        repeatable=method in _REPEATABLE,
        head_only=method == "HEAD",
        connect_timeout=connect_timeout,
        allowed=allowed,
        deadline=None if allowed is None else asyncio.get_running_loop().time() + allowed,
        max_body=max_body,
    )
