"""Heads of requests and answers: what is refused, what is read, and what goes on to the other side.

The parser (llhttp, strict) already refuses what smuggling needs most: both Content-Length and
Transfer-Encoding, repeated or odd lengths, folded lines, bare CR or LF, broken chunk sizes. What it
lets through and this gateway does not is refused here (RFC 9112 §3.2, §6.1).
"""

from __future__ import annotations

import itertools
import os
import re
from typing import final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from vllm_console.gateway.refusals import refused

MAX_URL = 8 << 10
"""Bytes a request's target may have."""
MAX_HEAD = 32 << 10
"""Bytes all names and values of a request's head may have."""
MAX_FIELDS = 100
"""Header lines a request may have."""

Fields = list[tuple[bytes, bytes]]

_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization",
    b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings",
})  # fmt: skip
_READ = _HOP | {
    b"host", b"authorization", b"x-api-key", b"content-length", b"content-encoding",
    b"accept-encoding", b"expect", b"x-priority", b"x-session-id", b"x-request-id", b"cookie",
    b"content-type", b"origin",
}  # fmt: skip
_ANSWERED_HERE = _HOP | {b"server", b"date", b"content-length", b"x-request-id", b"set-cookie"}
_ONCE = frozenset({b"host", b"authorization", b"x-api-key", b"content-type", b"content-encoding"})
_SANE_ID = re.compile(rb"[!-~]{1,128}")
_USUAL = (b"keep-alive", b"close")

_numbers = itertools.count(1)
_START = b"vc-" + os.urandom(6).hex().encode() + b"-"


@final
class Head:
    """What the gateway wants to know of a request's head; the same for all requests that have it.

    Clients send the same header lines with every request of a connection, so that one reading
    serves many: what differs, Content-Length, is not among them.
    """

    __slots__ = (
        "api_key", "authorization", "content_type", "expects", "fields", "lines", "origin",
        "priority", "request_id", "session", "version",
    )  # fmt: skip

    fields: Fields
    """As they came."""
    version: str
    lines: bytes
    """The header lines that go on to the worker, without those that differ by request."""
    expects: bool
    """Whether the client waits for `100 Continue` before it sends the body."""
    request_id: bytes | None
    """The client's own, if it is sane."""
    authorization: bytes | None
    api_key: bytes | None
    content_type: bytes
    priority: bytes | None
    session: bytes | None
    origin: bytes | None


def checked(fields: Fields, version: str) -> None:
    """Refuses a head that another HTTP implementation might read otherwise.

    Names are in lower case. Raises `Refused`.
    """
    if version not in ("1.0", "1.1"):
        raise refused(505, f"HTTP/{version} is not spoken here, HTTP/1.1 is")
    if len(fields) > MAX_FIELDS:
        raise refused(431, f"more than {MAX_FIELDS} header lines")
    if sum(len(name) + len(value) for name, value in fields) > MAX_HEAD:
        raise refused(431, f"more than {MAX_HEAD} bytes of headers")
    hosts = sum(name == b"host" for name, _ in fields)
    if hosts > 1 or (not hosts and version == "1.1"):
        raise refused(400, "a request has one Host header")
    codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
    if codings and (version == "1.0" or codings != [b"chunked"]):
        raise refused(400, "the only Transfer-Encoding understood is chunked, in HTTP/1.1")


def read(fields: Fields, version: str) -> Head:
    """What a head says, `checked`. Raises `Refused`."""
    lowered = [(name.lower(), value) for name, value in fields]
    checked(lowered, version)
    said: dict[bytes, bytes] = {}
    lines: list[bytes] = []
    for name, value in lowered:
        if name not in _READ:
            lines += (name, b": ", value, b"\r\n")
        elif name not in said:
            said[name] = value
        elif name in _ONCE:
            raise refused(400, f"{name.decode()}: given twice")
        else:
            said[name] += b"," + value
    get = said.get
    connection = get(b"connection")
    if connection is not None and connection.lower() not in _USUAL:
        lines = _without(lines, connection)
    expect, coding = get(b"expect"), get(b"content-encoding")
    if expect is not None and expect.lower() != b"100-continue":
        raise refused(417, "the only Expect understood is 100-continue")
    if coding is not None and coding.lower() != b"identity":
        raise refused(415, "a compressed body is not read here: send it as it is")
    head = Head()
    head.fields = fields
    head.version = version
    head.expects = expect is not None
    given = get(b"x-request-id")
    head.request_id = given if given is not None and _SANE_ID.fullmatch(given) else None
    head.authorization = get(b"authorization")
    head.api_key = get(b"x-api-key")
    head.priority = get(b"x-priority")
    head.session = get(b"x-session-id")
    head.origin = get(b"origin")
    kind = head.content_type = get(b"content-type", b"")
    if kind:
        lines += (b"content-type: ", kind, b"\r\n")
    head.lines = b"".join(lines)
    return head


def request_id(given: bytes | None = None) -> bytes:
    """The client's request id if it is sane, else one that no other request has."""
    if given is not None and _SANE_ID.fullmatch(given):
        return given
    return b"%b%x" % (_START, next(_numbers))


def answer(
    status: int, fields: Fields, request_id: bytes, more: bytes
) -> tuple[list[bytes], bytes | None, bytes]:
    """The start of an answer's head for the client, from the worker's.

    Gives its parts without the empty line, what the worker said as Content-Length, and the content
    type. `more` are whole header lines that are added.
    """
    length = None
    kind = b""
    parts = [status_line(status), more, b"x-request-id: ", request_id, b"\r\n"]
    for name, value in fields:
        if name not in _ANSWERED_HERE:
            parts += (name, b": ", value, b"\r\n")
            if name == b"content-type":
                kind = value
        elif name == b"content-length":
            length = value
    return parts, length, kind


def status_line(status: int) -> bytes:
    """The first line of an answer."""
    return STATUS_LINE.get(status) or b"HTTP/1.1 %d \r\n" % status


def whole(status: int, fields: Fields, body: bytes, more: bytes) -> bytes:
    """A complete answer; `more` are whole header lines that are added."""
    parts = [status_line(status), more]
    for name, value in fields:
        if name != b"content-length":
            parts += (name, b": ", value, b"\r\n")
    parts += (b"content-length: %d\r\n\r\n" % len(body), body)
    return b"".join(parts)


def cross_origin(origin: bytes | None, allowed: tuple[str, ...]) -> bytes:
    """The header lines that let a browser's page of that origin read the answer, if it may."""
    if origin is None or not allowed:
        return b""
    if "*" in allowed:
        return b"access-control-allow-origin: *\r\naccess-control-expose-headers: x-request-id\r\n"
    if origin.decode("latin-1") not in allowed:
        return b"vary: origin\r\n"
    return (
        b"access-control-allow-origin: %b\r\nvary: origin\r\n"
        b"access-control-expose-headers: x-request-id\r\n" % origin
    )


def _without(lines: list[bytes], connection: bytes) -> list[bytes]:
    """The lines but for those that the Connection header names as meant for this hop alone."""
    named = {token.strip().lower() for token in connection.split(b",")}
    return [
        part
        for at in range(0, len(lines), 4)
        if lines[at] not in named
        for part in lines[at : at + 4]
    ]
