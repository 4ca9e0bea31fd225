"""One kept connection of a pool: an exchange after the other, awaited by who asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from vllm_console.http1.failures import (
    BadResponse,
    Disconnected,
    HttpError,
    RequestTimedOut,
    reason,
)
from vllm_console.http1.push import MAX_OVERHEAD
from vllm_console.http1.request import Address, Ask

HIGH_WATER = 256 << 10
"""Bytes a streamed response may hold unread before reading from its socket pauses."""


class Connection(asyncio.Protocol):
    """One socket: at most one exchange at a time, any number one after another."""

    __slots__ = (
        "_ask", "_content_length", "_error", "_framed", "_gone", "_overhead", "_parser", "_paused",
        "_received", "_reusable", "_timer", "_transport", "_unread", "_waiter", "busy", "done",
        "head_done", "headers", "heard", "idle_since", "key", "pieces", "status",
    )  # fmt: skip

    def __init__(self, address: Address, gone: Callable[[Connection], object]) -> None:
        """`gone` is called once the socket is closed."""
        self._gone = gone
        self.key = (address.host, address.port)
        self.idle_since = 0.0
        self.busy = False
        self._error: HttpError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None

    # One exchange, as its requester sees it.

    def send(self, ask: Ask) -> None:
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
        self._gone(self)
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
