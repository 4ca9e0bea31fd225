"""What a client gets of a worker's answer: its head, its pieces, and a word where it breaks off.

The first piece leaves with the head. Events of a stream leave whole, so that an error can be told
between two of them; what a worker's own framing was is not the client's business.
"""

from __future__ import annotations

import logging
from time import monotonic

from vllm_console.gateway import heads
from vllm_console.gateway.client import Client
from vllm_console.gateway.pace import FAST_S, Pace
from vllm_console.gateway.paths import Kind
from vllm_console.gateway.tokens import Tally
from vllm_console.http1 import Headers

_LOG = logging.getLogger(__name__)

_JOINED = 16 << 10
"""A piece up to this many bytes leaves in one write with the head before it."""
MAX_TOLD = 16 << 10
"""Bytes of a worker's error that are told inside a stream whose head has gone out."""

_EVENTS = (
    b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


class Reply:
    """One answer on its way to its client, counted while it passes."""

    __slots__ = (
        "_begun", "_bytes_out", "_chunked", "_connection", "_events", "_first_at", "_heard_at",
        "_id", "_kind", "_more", "_pace", "_pending", "_spoken", "_status", "_tally", "_told",
    )  # fmt: skip

    def __init__(
        self, connection: Client, kind: Kind, request_id: bytes, more: bytes, pace: Pace
    ) -> None:
        """`more` are header lines that every answer gets."""
        self._connection = connection
        self._kind = kind
        self._id = request_id
        self._more = more
        self._pace = pace
        self._tally: Tally | None = None
        self._status = 0
        self._begun = False
        """Whether the head of the answer has been made; from there on errors are in-band."""
        self._spoken = False
        """Whether a byte of the worker's answer has gone out."""
        self._events = False
        self._chunked = False
        self._pending = b""
        """The head of the answer, until a piece of its body goes out with it."""
        self._told: bytes | None = None
        """A worker's error that has to be told in-band, as far as it is here."""
        self._first_at: float | None = None
        self._heard_at = 0.0
        """When the last piece came."""
        self._bytes_out = 0

    @property
    def begun(self) -> bool:
        """Whether the head of the answer is on its way to the client."""
        return self._begun

    def delivered(self, error: str | None = None) -> None:
        """The last byte has gone out; `error` is what went wrong, as a word."""
        raise NotImplementedError

    def _begin(self, status: int, headers: Headers, strips: bool, prompt: int) -> None:
        """Makes the head out of the worker's.

        `strips`: usage is for us alone; `prompt`: tokens its prompt is taken for so far.
        """
        self._status = status
        connection = self._connection
        parts, length, kind = heads.answer(status, headers, self._id, self._more)
        events = self._events = kind.startswith(b"text/event-stream")
        if status == 200:
            self._tally = Tally(self._kind, events, strips, prompt)
        if self._begun:
            if status != 200 or not events:
                self._told = b""
            return
        self._begun = True
        if length is not None and not events:
            parts += (b"content-length: ", length, b"\r\n\r\n")
        elif status == 204 or status == 304:
            parts.append(b"\r\n")
        elif connection.speaks_11:
            self._chunked = True
            parts.append(b"transfer-encoding: chunked\r\n\r\n")
        else:
            connection.keep = False
            parts.append(b"\r\n")
        if not connection.keep:
            parts.insert(1, b"connection: close\r\n")
        self._pending = b"".join(parts)

    def arrived(self, piece: bytes, ended: bool) -> None:
        """A piece of the worker's answer, perhaps the last."""
        if self._told is not None:
            self._tell(piece, ended)
            return
        if piece:
            now = monotonic()
            if self._first_at is None:
                self._first_at = now
            elif now - self._heard_at < FAST_S and self._events and not ended:
                self._pace.fast()
            self._heard_at = now
        tally = self._tally
        if tally is not None:
            try:
                if piece:
                    piece = tally.feed(piece)
                if ended:
                    piece += tally.end()
            except Exception:  # an answer that cannot be counted is an answer all the same
                _LOG.exception("tokens could not be counted")
                self._tally = None
        size = len(piece)
        self._bytes_out += size
        self._spoken = True
        if self._chunked:
            if ended:
                piece = b"%x\r\n%b\r\n0\r\n\r\n" % (size, piece) if size else b"0\r\n\r\n"
            elif size:
                piece = b"%x\r\n%b\r\n" % (size, piece)
        if self._pending:
            if size <= _JOINED:
                piece = self._pending + piece
            else:
                self._connection.write(self._pending)
            self._pending = b""
        if piece:
            self._connection.write(piece)
        if ended:
            self.delivered()

    def _tell(self, piece: bytes, ended: bool) -> None:
        """Gathers an error that comes after the head went out, and sends it as an event."""
        told = self._told
        assert told is not None
        self._told = (told + piece)[:MAX_TOLD]
        if ended:
            named = b"event: error\n" if self._kind.shape == "anthropic" else b""
            self._end(b"%bdata: %b\n\n" % (named, b" ".join(self._told.split())))
            self.delivered("worker_error")

    def _remark(self, text: bytes) -> None:
        """Sends a comment, which no client shows, into a stream that has no event yet."""
        connection = self._connection
        text = b": %b\n\n" % text
        piece = b"%x\r\n%b\r\n" % (len(text), text)
        if not self._begun:
            self._begun = self._chunked = self._events = True
            start = [heads.status_line(200), self._more, b"x-request-id: ", self._id]
            if not connection.keep:
                start.append(b"\r\nconnection: close")
            piece = b"".join((*start, b"\r\n", _EVENTS, piece))
        connection.write(piece)

    def _end(self, piece: bytes) -> None:
        """The last piece of a stream."""
        if self._chunked:
            piece = b"%x\r\n%b\r\n0\r\n\r\n" % (len(piece), piece)
        self._bytes_out += len(piece)
        self._connection.write(self._pending + piece)
        self._pending = b""
