"""Keep-alive connections to one server whose answers are handed on as they arrive.

    origin = Origin("127.0.0.1", 8000)
    line = origin.send(head, body, taker)      # the taker is called from the event loop
    line.abort()                               # hangs up; the taker hears nothing more

No task, no future and no copy a request on a kept connection: what a proxy needs.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol, cast

import httptools

from vllm_console.http1.failures import (
    BadResponse,
    ConnectFailed,
    Disconnected,
    HttpError,
    RequestTimedOut,
    reason,
)

MAX_OVERHEAD = 256 << 10
"""Bytes a peer may send without any body among them: headers, 1xx answers, trailers."""
SAFE_IDLE_S = 2.0
"""A request that must not be sent twice takes no connection idle for longer: uvicorn, and so vLLM,
hangs up after 5 s, and a request that crosses that in flight is lost."""
CONNECT_S = 5.0
"""Seconds a connection may take to come about."""
_JOINED = 16 << 10
"""A body up to this many bytes leaves in one write with its head: a copy is cheaper than a call."""

Headers = list[tuple[bytes, bytes]]


class Taker(Protocol):
    """Takes one answer. After `arrived(…, True)` or `failed` nothing more is called."""

    def answered(self, status: int, headers: Headers) -> None:
        """The head is here; names are in lower case. `arrived` follows at once."""

    def arrived(self, piece: bytes, ended: bool) -> None:
        """What one read brought of the body, perhaps nothing, and whether that was the end."""

    def failed(self, error: HttpError, line: Line) -> None:
        """There is no complete answer, and the connection is gone."""


class Origin:
    """The connections to one server, for one event loop; how many are in use has no limit."""

    __slots__ = ("_dials", "_idle", "_lines", "host", "port")

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._idle: dict[Line, None] = {}
        self._lines: set[Line] = set()
        self._dials: set[asyncio.Task[None]] = set()

    def send(self, head: bytes, body: bytes, taker: Taker, *, fresh: bool = False) -> Line:
        """Sends a request over a kept connection, if one is fresh enough, or over a new one.

        `head` is the request line and all headers with the empty line, `body` what they announce.
        `fresh` asks for a new connection. Raises nothing: what goes wrong, the taker is told.
        """
        while self._idle and not fresh:
            line = self._idle.popitem()[0]
            if line.usable(time.monotonic()):
                line.kept = True
                line.send(head, body, taker)
                return line
            line.abort()
        line = Line(self)
        line.send(head, body, taker)
        task = asyncio.get_running_loop().create_task(self._dial(line))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)
        return line

    def sweep(self, now: float) -> None:
        """Closes what has been idle for too long at `now` (`time.monotonic()`)."""
        for line in list(self._idle):
            if line.usable(now):
                return
            del self._idle[line]
            line.abort()

    @property
    def connections(self) -> int:
        """Sockets that are open, in use or not."""
        return len(self._lines)

    def close(self) -> None:
        """Closes every connection and gives up those that are being made."""
        self._idle.clear()
        for task in self._dials:
            task.cancel()
        for line in tuple(self._lines):
            line.abort()

    async def _dial(self, line: Line) -> None:
        where = f"{self.host}:{self.port}"
        try:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.get_running_loop().create_connection(
                    lambda: line, self.host, self.port
                )
        except TimeoutError:
            line.fail(RequestTimedOut(f"{where}: no connection within {CONNECT_S:g} s"))
        except OSError as error:
            line.fail(ConnectFailed(f"{where}: {reason(error)}"))


class Line(asyncio.Protocol):
    """One connection: at most one exchange at a time, any number one after another."""

    __slots__ = (
        "_body", "_count", "_framed", "_head", "_headers", "_origin", "_overhead", "_parser",
        "_paused", "_pieces", "_reusable", "_taker", "_transport", "done", "heard", "idle_since",
        "kept", "on_body", "status",
    )  # fmt: skip

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._parser: httptools.HttpResponseParser | None = None
        self._transport: asyncio.Transport | None = None
        self._taker: Taker | None = None
        self._paused = False
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append
        """Called by the parser with each chunk of a body: a C function, as there are many."""
        self.kept = False
        """Whether the exchange runs on a connection that has carried one before."""
        self.heard = False
        """Whether any byte of an answer has come."""
        self.idle_since = 0.0

    def send(self, head: bytes, body: bytes, taker: Taker) -> None:
        """Starts an exchange, now or as soon as there is a connection."""
        self._taker = taker
        self._headers: Headers = []
        self._framed = self.heard = self.done = False
        self._reusable = True
        self._overhead = 0
        self.status = 0
        transport = self._transport
        if transport is None:
            self._head, self._body = head, body
        elif len(body) <= _JOINED:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)

    def usable(self, now: float) -> bool:
        """Whether an unused connection may carry a request that must not be sent twice."""
        transport = self._transport
        fresh = now - self.idle_since <= SAFE_IDLE_S
        return fresh and transport is not None and not transport.is_closing()

    def abort(self) -> None:
        """Hangs up at once; the taker is told nothing."""
        self._taker = None
        if self._transport is not None:
            self._transport.abort()

    def fail(self, error: HttpError) -> None:
        """Ends the exchange with an error, and the connection with it."""
        taker, self._taker = self._taker, None
        if self._transport is not None:
            self._transport.abort()
        if taker is not None:
            taker.failed(error, self)

    def pause(self) -> None:
        """Stops reading, which slows the server down; an answer that is all here is left alone."""
        if not self._paused and self._taker is not None:
            self._paused = True
            if self._transport is not None and not self._transport.is_closing():
                self._transport.pause_reading()

    def resume(self) -> None:
        """Reads on."""
        if self._paused:
            self._paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._taker is None:
            self._transport.abort()
            return
        self._origin._lines.add(self)
        self._parser = httptools.HttpResponseParser(self)
        if self._paused:
            self._transport.pause_reading()
        head, body = self._head, self._body
        del self._head, self._body
        self._transport.write(head)
        self._transport.write(body)

    def data_received(self, data: bytes) -> None:
        taker = self._taker
        if taker is None or self._parser is None:
            self.abort()
            return
        self.heard = True
        headless = not self.status
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._reusable = False
            if not self.done:
                self.fail(BadResponse(f"{self._where}: not an HTTP/1.1 answer ({reason(error)})"))
                return
        pieces = self._pieces
        if self.done and len(pieces) > self._count:
            del pieces[self._count :]  # of what came after the answer
        if pieces:
            piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            self._overhead = 0
        else:
            piece = b""
            self._overhead += len(data)
            if self._overhead > MAX_OVERHEAD and not self.done:
                self.fail(BadResponse(f"{self._where}: over {MAX_OVERHEAD} bytes without a body"))
                return
        if not self.status:
            return
        if headless:
            taker.answered(self.status, self._headers)
            if self._taker is not taker:  # it has hung up
                return
        if self.done:
            self._release()
            taker.arrived(piece, True)
        elif piece or headless:
            taker.arrived(piece, False)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._parser = None
        self._origin._lines.discard(self)
        taker, self._taker = self._taker, None
        if taker is None:
            self._origin._idle.pop(self, None)
        elif self.status and not self._framed and error is None:
            taker.arrived(b"", True)  # a body without a length ends where the connection does
        else:
            how = "closed the connection" if error is None else reason(error)
            when = "inside the answer" if self.heard else "before any answer"
            taker.failed(Disconnected(f"{self._where}: {how} {when}"), self)

    def _release(self) -> None:
        """Keeps the connection for a next exchange if it can carry one, else closes it."""
        self._taker = None
        transport = self._transport
        if transport is None:
            return
        if not self._reusable or transport.is_closing() or transport.get_write_buffer_size():
            transport.abort()
            return
        self.resume()
        self.idle_since = time.monotonic()
        self._origin._idle[self] = None

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self.done:
            self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status:
            return  # a trailer
        name = name.lower()
        self._headers.append((name, value))
        if name == b"content-length" or (
            name == b"transfer-encoding" and b"chunked" in value.lower()
        ):
            self._framed = True

    def on_headers_complete(self) -> None:
        if self._parser is None or self.done:
            return
        status = self._parser.get_status_code()
        if status >= 200:
            self.status = status
            self._reusable = self._parser.should_keep_alive()

    def on_message_complete(self) -> None:
        if self.done:
            return
        if self.status:
            self.done = True
            self._count = len(self._pieces)
        else:  # an interim 1xx answer
            self._headers.clear()
            self._framed = False

    @property
    def _where(self) -> str:
        return f"{self._origin.host}:{self._origin.port}"
