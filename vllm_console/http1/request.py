"""What is asked, checked and written down for the wire."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from vllm_console.http1.failures import BadRequest, one_line

_REPEATABLE = frozenset({"GET", "HEAD"})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD = re.compile(r"[^\x00\r\n]*")
_URL = re.compile(
    r"http://(?P<host>\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>[/?][!-\"$-~]*)?(?:#.*)?"
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a request goes, taken out of its URL."""

    host: str
    port: int
    authority: str
    target: str


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, ready for the wire, and the bounds of its exchange."""

    address: Address
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


def asked(
    method: str,
    url: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    connect_timeout: float,
    allowed: float | None,
    max_body: int | None,
) -> Ask:
    """A request as it goes out. `allowed` is in seconds, and `max_body` in bytes.

    Raises `BadRequest` for what cannot be put on the wire.
    """
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
    return Ask(
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


@lru_cache(maxsize=4096)
def _address(url: str) -> Address:
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
    return Address(host.strip("[]"), port, authority, target)
