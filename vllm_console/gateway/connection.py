"""A client's connection: uvicorn's, but what goes to a worker leaves it before ASGI begins.

A request is read in stages. While one is answered, what comes after it is held; what came with it
in one read is not answered at all, and the connection closes after the answer (RFC 9112 §9.3.2
leaves both to the server). Nothing here waits: deadlines are looked at by `Gateway.sweep`.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from enum import IntEnum
from time import monotonic
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vllm_console.gateway import heads, reasons, refusals
from vllm_console.gateway.exchange import Exchange
from vllm_console.gateway.measures import Record
from vllm_console.gateway.paths import KIND, Kind
from vllm_console.gateway.refusals import Refused, refused

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from vllm_console.gateway.app import App

HEAD_S = 10.0
"""Seconds from the first byte of a request's head to its last."""
BODY_S = 10.0
"""Seconds without a byte of the body."""
BODY_RATE = 500
"""Bytes a second that a body comes at, at least: mod_reqtimeout's default."""
KEEP_S = 75.0
"""Seconds a connection stays open unused: more than the idle time of common clients' pools."""
DRAIN_S = 1.0
"""The same when the gateway ends: a client that is active sends its next request before."""
LINGER_S = 5.0
"""Seconds for a client that was refused in the middle of its request to read why."""
FLUSH_S = 60.0
"""Seconds for a client to take the rest of its last answer."""
HELD = 64 << 10
"""Bytes that may come ahead of the answer before reading pauses."""
UNSENT = 32 << 10
"""Bytes an answer may be ahead of its client before the worker is slowed down."""
MAX_READING = 1 << 30
"""Bytes of bodies that are not complete yet, of all connections together."""
MAX_FRAMING = 64 << 10
"""Bytes of chunk sizes, extensions and trailers, on top of eight for each byte of body."""

_ABSOLUTE = re.compile(rb"[hH][tT][tT][pP][sS]?://[^/?#]+(/[^#]*)?")
_LOG = logging.getLogger(__name__)


class Stage(IntEnum):
    """What the next byte from the client belongs to."""

    IDLE = 0
    HEAD = 1
    BODY = 2
    """The body of a request for a worker."""
    OTHER = 3
    """The body of a request that this process answers itself."""
    ANSWER = 4
    """A next request: this one is whole and being answered."""
    CLOSED = 5
    """Nothing: it is thrown away until the client has gone."""


_IDLE, _HEAD, _BODY, _OTHER, _ANSWER, _CLOSED = Stage


class Connection(HttpToolsProtocol):
    """One client's connection; its server state, flow control and ASGI side are uvicorn's."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        app: App = config.app  # type: ignore[assignment]
        self.gateway = app.gateway
        self.access_log = False
        self.exchange: Exchange | None = None
        self.stage = _IDLE
        self.keep = True
        """Whether another request may follow on this connection."""
        self.speaks_11 = True
        self.url = b""
        self._at = monotonic()
        """When the client was last heard, or its answer finished."""
        self._head_at = 0.0
        self._until = 0.0
        self._head: heads.Head | None = None
        """The last one: the next is often the same."""
        self._length = 0
        """What the head says the body's length is; 0 where it does not."""
        self._raw = 0
        """Bytes received of the head, or of the body with its framing."""
        self._skipped = b""
        """A head with the framing of the body that the parser passes over, if it does."""
        self._held: list[bytes] = []
        self._deaf = False
        """Whether what the client sends from now on is passed over."""

    # What the transport calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=UNSENT)
        self.gateway.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        if self.stage is _ANSWER:
            self._hold(data)
            return
        if self.stage is _CLOSED:
            return
        self._at = monotonic()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._malformed(error)
            return
        stage = self.stage
        if stage is _HEAD:
            self._raw += len(data)
            if self._raw > heads.MAX_HEAD + heads.MAX_URL:
                self._refuse(refused(431, f"more than {heads.MAX_HEAD} bytes of headers"))
        elif stage is _BODY and self.exchange is not None:
            self._raw += len(data)
            if self._raw > MAX_FRAMING + 9 * self.exchange.size:
                self.exchange.refuse(refused(400, "a body with more framing than body"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.gateway.connections.discard(self)
        super().connection_lost(exc)
        self.stage = _CLOSED
        if self.exchange is not None:
            self.exchange.gone()

    def pause_writing(self) -> None:
        self.flow.pause_writing()
        if self.exchange is not None:
            self.exchange.pause()

    def resume_writing(self) -> None:
        self.flow.resume_writing()
        if self.exchange is not None:
            self.exchange.resume()

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self.stage is _IDLE:
            self.stage = _HEAD
            self.url = b""
            self.headers = []
            self._length = 0
            self._raw = 0
            self._head_at = self._at
        elif self.stage is _ANSWER:
            self._no_more()

    def on_url(self, url: bytes) -> None:
        if self.stage is _HEAD:
            self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.stage is _HEAD:
            if len(name) == 14 and name.lower() == b"content-length":
                self._length = int(value)  # the parser has seen to it that these are digits
            else:
                self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.stage is not _HEAD:
            return
        parser, gateway = self.parser, self.gateway
        version = parser.get_http_version()
        self.speaks_11 = version == "1.1"
        self.keep = parser.should_keep_alive() and not gateway.draining
        kind = None
        try:
            url = self._target()
            path = url.partition(b"?")[0]
            if parser.get_method() != b"POST" or (kind := KIND.get(path)) is None:
                self._answer_here(url, version)
                return
            head = self._head
            if head is None or head.fields != self.headers or head.version != version:
                head = self._head = heads.read(self.headers, version)
            key = gateway.keyring.find(head.authorization, head.api_key)
            if isinstance(key, Refused):
                raise key
            if self._length > gateway.body_limit:
                raise reasons.too_large(gateway.body_limit)
        except Refused as refusal:
            self._refuse(refusal, kind)
            return
        self.stage = _BODY
        self._raw = 0
        self.exchange = Exchange(self, gateway, kind, url, head, key, self._at)
        self._skipped = self._body_skipped()
        if head.expects and self.speaks_11:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        exchange = self.exchange
        if self.stage is _BODY and exchange is not None:
            gateway = self.gateway
            exchange.take(body)
            if exchange.size > gateway.body_limit:
                exchange.refuse(reasons.too_large(gateway.body_limit))
            elif gateway.reading > MAX_READING:
                exchange.refuse(reasons.too_many_bodies())
        elif self.stage is _OTHER:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._skipped:
            return
        exchange = self.exchange
        if self.stage is _BODY and exchange is not None:
            self.stage = _ANSWER
            exchange.whole(self._at)
        elif self.stage is _OTHER:
            super().on_message_complete()
            self.stage = _IDLE if self.cycle.response_complete else _ANSWER

    # What an exchange, or uvicorn's side, calls.

    def write(self, data: bytes) -> None:
        """Sends bytes, unless the client is gone and the connection about to say so."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def answer(self, status: int, fields: heads.Fields, payload: bytes, more: bytes) -> None:
        """Sends a whole answer; before its request is read to its end, it is the last one."""
        if self.stage is not _ANSWER:
            self.keep = False
        if not self.keep:
            more += b"connection: close\r\n"
        self.write(heads.whole(status, fields, payload, more))

    def finished(self) -> None:
        """The exchange is over: on to what the client has sent since, or to the end."""
        self.exchange = None
        self.server_state.total_requests += 1
        if self.stage is _ANSWER:
            self._next()
        elif self.stage is _BODY:
            self._linger()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.stage is _ANSWER:
            self.keep = self.keep and self.cycle.keep_alive
            self._next()

    def shutdown(self) -> None:
        """Ends the connection after its request, or soon if none comes: one may be on its way.

        A client whose answer has begun was not told so, and may send one more.
        """
        if self.exchange is not None:
            self.keep = self.keep and self.exchange.begun
        elif self.stage is _IDLE or self.cycle is None:
            self.keep = False
        elif not self.cycle.response_started:
            self.keep = self.cycle.keep_alive = False

    def break_off(self) -> None:
        """Ends the connection now, whatever it does."""
        self.keep = False
        if self.exchange is not None:
            self.exchange.cut_short()
        if self.stage is not _CLOSED:
            self.transport.abort()

    def look(self, now: float) -> None:
        """Sees to deadlines; `now` is `time.monotonic()`."""
        stage = self.stage
        if stage is _ANSWER:
            if self.exchange is not None:
                self.exchange.look(now)
        elif stage is _IDLE:
            unused_s = now - self._at
            if self.gateway.draining:
                if min(unused_s, now - self.gateway.drained_at) > DRAIN_S:
                    self._close()
            elif unused_s > KEEP_S and self.timeout_keep_alive_task is None:
                self._close()
        elif stage is _HEAD:
            if now - self._head_at > HEAD_S:
                self._refuse(refused(408, f"the headers were not complete within {HEAD_S:g} s"))
        elif stage is _BODY:
            exchange = self.exchange
            if exchange is None:
                return
            if now - self._at > BODY_S:
                exchange.refuse(refused(408, f"no byte of the body for {BODY_S:g} s"))
            elif now - self._head_at > HEAD_S + BODY_S + exchange.size / BODY_RATE:
                exchange.refuse(refused(408, f"the body comes at under {BODY_RATE} bytes a second"))
        elif stage is _CLOSED and now > self._until:
            self.transport.abort()

    # Inside.

    def _answer_here(self, url: bytes, version: str) -> None:
        """Hands the request to the ASGI application. Raises `Refused`."""
        fields = [(name.lower(), value) for name, value in self.headers]
        heads.checked(fields, version)
        super().on_message_begin()
        self.url = url
        self.headers = fields
        self.scope["headers"] = fields
        self.expect_100_continue = (b"expect", b"100-continue") in fields
        super().on_headers_complete()
        self.cycle.keep_alive = self.cycle.keep_alive and self.keep
        self.stage = _OTHER
        self._skipped = self._body_skipped()

    def _body_skipped(self) -> bytes:
        """A head that frames the body as this request does, where the parser will not read it.

        After a head that asks for another protocol it takes what follows for that; the request may
        have a body all the same, as those that ask for h2c do (RFC 9110 §7.8).
        """
        if not self.parser.should_upgrade():
            return b""
        if self._length:
            return b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % self._length
        if any(name.lower() == b"transfer-encoding" for name, _ in self.headers):
            return b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
        return b""

    def _stay(self, rest: bytes) -> None:
        """Goes on in HTTP/1.1 after a request for another protocol, which is not granted."""
        if self._skipped:
            self.parser = httptools.HttpRequestParser(self)
            rest, self._skipped = self._skipped + rest, b""
        if rest:
            self.data_received(rest)

    def _target(self) -> bytes:
        """The request's target as path and query. Raises `Refused`."""
        url = self.url
        if len(url) > heads.MAX_URL:
            raise refused(414, f"a URL may have {heads.MAX_URL} bytes")
        if not url.startswith(b"/"):
            absolute = _ABSOLUTE.fullmatch(url)
            if absolute is None:
                raise refused(400, "the target of a request is a path, or an http:// URL")
            url = absolute[1] or b"/"
        return url

    def _refuse(self, refusal: Refused, kind: Kind | None = None) -> None:
        """Answers a request that came to no exchange, counts it, and ends the connection."""
        request_id = heads.request_id()
        status, fields, payload = refusals.rendered(refusal, kind)
        more = b"%bx-request-id: %b\r\n" % (self.gateway.date, request_id)
        self.answer(status, fields, payload, more)
        self.gateway.over(
            Record(
                id=request_id.decode(),
                at=time.time(),
                path="" if kind is None else kind.name,
                status=status,
                error=refusal.code,
            )
        )
        self._linger()

    def _malformed(self, error: httptools.HttpParserError) -> None:
        """What came is not HTTP as it is understood here."""
        failed = isinstance(error, httptools.HttpParserCallbackError)
        if failed:
            _LOG.error("a request could not be handled", exc_info=error.__context__)
            refusal = refused(500, "the gateway failed on this request; its log says how")
        else:
            refusal = refused(400, f"not an HTTP/1.1 request: {str(error)[:200]}")
        if self.stage is _ANSWER:
            self._no_more()
            if failed and self.exchange is not None:
                self.exchange.refuse(refusal)
        elif self.exchange is not None:
            self.exchange.refuse(refusal)
        elif self.stage is _OTHER:
            self.stage = _CLOSED
            self.transport.abort()
        elif self.stage is not _CLOSED:
            self._refuse(refusal)

    def _hold(self, data: bytes) -> None:
        """Keeps what came before the answer to what was sent earlier."""
        if self._deaf:
            return
        self._held.append(data)
        if sum(map(len, self._held)) > HELD and not self.transport.is_closing():
            self.flow.pause_reading()

    def _no_more(self) -> None:
        """The answer that is being made is the last: what follows it cannot be told apart."""
        self._deaf = True
        self.keep = False
        self._held.clear()
        if self.exchange is None and self.cycle is not None:
            self.cycle.keep_alive = False

    def _next(self) -> None:
        if not self.keep:
            if self._deaf:
                self._linger()
            else:
                self._close()
            return
        self.stage = _IDLE
        self._at = monotonic()
        if self._held:
            held = b"".join(self._held)
            self._held.clear()
            if not self.transport.is_closing():
                self.flow.resume_reading()
                self.data_received(held)

    def _close(self) -> None:
        """Closes when everything written has been taken."""
        self.stage = _CLOSED
        self._until = monotonic() + FLUSH_S
        self.transport.close()

    def _linger(self) -> None:
        """Closes once the client has had time to read: unread bytes would take the answer back."""
        self.stage = _CLOSED
        self._until = monotonic() + LINGER_S
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
