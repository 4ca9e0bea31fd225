"""A bare HTTP/1.1 client for tests of a server: it says how each connection ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

HEAD_MAX = 64 << 10
PIECE = 64 << 10


class Cut(Exception):
    """The other side hung up in the middle; `heard` is whether a byte of the answer had come."""

    def __init__(self, heard: bool) -> None:
        super().__init__("cut off" if heard else "hung up without a word")
        self.heard = heard


@dataclass(slots=True)
class Reply:
    """The head of an answer."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""


class Connection:
    """One connection to a port of the loopback, for one request after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.reply: Reply | None = None
        self.used = False
        """Whether an answer has come to its end here before."""

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Connect; raises `OSError`."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=HEAD_MAX)
        return cls(reader, writer)

    async def ask(
        self, body: Mapping[str, Any] | bytes, headers: Mapping[str, str], path: str
    ) -> Reply:
        """Send a POST and wait for the head of its answer; raises `Cut`."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(data)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + data)
        try:
            await self._writer.drain()
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            raise Cut(bool(error.partial)) from None
        except OSError:
            raise Cut(False) from None
        first, *rest = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in rest if line)
        found = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self.reply = Reply(int(first.split(" ")[1]), found)
        return self.reply

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body of the answer as it comes; raises `Cut` where it stops before its end."""
        assert self.reply is not None
        try:
            if "chunked" in self.reply.headers.get("transfer-encoding", ""):
                while size := int((await self._reader.readline()).strip() or b"x", 16):
                    piece = await self._reader.readexactly(size + 2)
                    yield piece[:-2]
                await self._reader.readexactly(2)
            else:
                left = int(self.reply.headers.get("content-length", 0))
                while left:
                    piece = await self._reader.read(min(left, PIECE))
                    if not piece:
                        raise Cut(True)
                    left -= len(piece)
                    yield piece
        except (asyncio.IncompleteReadError, OSError, ValueError):
            raise Cut(True) from None
        self.used = True

    async def body(self) -> bytes:
        """The whole body of the answer; raises `Cut`."""
        return b"".join([piece async for piece in self.pieces()])

    @property
    def stays(self) -> bool:
        """Whether the next request may use this connection."""
        assert self.reply is not None
        return self.reply.headers.get("connection", "").lower() != "close"

    def abort(self) -> None:
        """Hang up at once, as a client that is killed."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
