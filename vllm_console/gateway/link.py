"""The gateway's ends of its two unix sockets: the link with the daemon, and the handover.

    link.sock       newline JSON both ways; daemons connect
        daemon -> gateway   {"table": {…}}  {"drain-worker": id}  {"stop": true}
        gateway -> daemon   {"hello": {…}}  {"want": model}  {"drained": id}  {"stats": {…}}
    handover.sock   one line asked, one line answered, descriptors beside it (unix(7), SCM_RIGHTS)
        {"ask": "spare"}      the listening socket, so that no connection is refused without us
        {"ask": "take-over"}  the listening socket and the lock, then our routing table: the asker
                              serves from here on, and we finish what we have

Both lie in the gateway's directory, which nobody else can enter.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec

from vllm_console.gateway.table import Table, decoded, encoded

LINK, HANDOVER = "link.sock", "handover.sock"
LINE_MAX = 64 << 20
"""Bytes of one message; a table of a thousand models is under one MB."""
STALLED_BYTES = 4 << 20
"""A daemon that has this much unread is told no more numbers until it reads."""
ANSWER_S = 5.0
"""How long one side of a handover waits for the other."""
DRAIN_LOOK_S = 0.02
"""Between two looks whether a worker that drains has a request left."""

_log = logging.getLogger(__name__)


class Linked(Protocol):
    """What a link does to its gateway."""

    def configure(self, table: Table) -> None:
        """Serve by this table from now on."""

    def in_flight(self, worker: str) -> int:
        """Requests that a worker has from us."""

    def stop(self) -> None:
        """Finish what runs, then end."""


class NotHandedOver(Exception):
    """Nobody hands a socket over here: no gateway runs, or it does not answer."""


@contextlib.contextmanager
def reached(directory: Path) -> Iterator[str]:
    """A short name of a directory: a socket's address holds 108 bytes (unix(7))."""
    held = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{held}"
    finally:
        os.close(held)


def listening(directory: Path, name: str) -> socket.socket:
    """A unix socket that listens in a directory, for this user alone; replaces one of that name."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.setblocking(False)
    mask = os.umask(0o177)
    try:
        with reached(directory) as short:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{short}/{name}")
            made.bind(f"{short}/{name}")
        made.listen(16)
    except OSError:
        made.close()
        raise
    finally:
        os.umask(mask)
    return made


class Links:
    """Every daemon that is connected; one, or none, but for a moment."""

    def __init__(self, gateway: Linked, hello: Callable[[], dict[str, Any]]) -> None:
        """`hello` is what each daemon is told first."""
        self._gateway = gateway
        self._hello = hello
        self._open: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self._wanted: dict[str, None] = {}
        """Models asked for while nobody was there to load them."""

    @property
    def up(self) -> bool:
        """Whether a daemon is connected."""
        return bool(self._open)

    async def start(self, directory: Path) -> None:
        """Listen in the gateway's directory."""
        loop = asyncio.get_running_loop()
        sock = listening(directory, LINK)
        self._server = await loop.create_unix_server(lambda: _Link(self, self._gateway), sock=sock)

    def retire(self) -> None:
        """Take no new daemon; those that are connected stay."""
        if self._server is not None:
            self._server.close()

    def close(self) -> None:
        """Hang up."""
        self.retire()
        for link in list(self._open):
            link.close()

    def want(self, model: str) -> None:
        """Ask for a model to be loaded; without a daemon the next one is asked."""
        if self._open:
            self.tell({"want": model})
        else:
            self._wanted[model] = None

    def tell(self, message: dict[str, Any]) -> None:
        """Say something to every daemon."""
        if self._open:
            line = msgspec.json.encode(message) + b"\n"
            for link in list(self._open):
                link.write(line)

    def tell_numbers(self, stats: dict[str, Any]) -> None:
        """Tell the numbers of this second to every daemon that has read those before."""
        if self._open:
            line = msgspec.json.encode({"stats": stats}) + b"\n"
            for link in list(self._open):
                if not link.stalled:
                    link.write(line)

    def _joined(self, link: _Link) -> None:
        self._open.add(link)
        link.write(msgspec.json.encode({"hello": self._hello()}) + b"\n")
        wanted, self._wanted = self._wanted, {}
        for model in wanted:
            link.write(msgspec.json.encode({"want": model}) + b"\n")

    def _left(self, link: _Link) -> None:
        self._open.discard(link)


class Lines:
    """Cuts a stream of bytes into lines."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that this piece completes; raises `ValueError` for an endless one."""
        self._rest += data
        if b"\n" in data:
            *whole, rest = bytes(self._rest).split(b"\n")
            self._rest = bytearray(rest)
            yield from whole
        if len(self._rest) > LINE_MAX:
            raise ValueError("a line without end")


class _Link(asyncio.Protocol):
    """One daemon's connection."""

    def __init__(self, links: Links, gateway: Linked) -> None:
        self._links = links
        self._gateway = gateway
        self._lines = Lines()
        self._transport: asyncio.WriteTransport | None = None
        self._draining: set[str] = set()
        self._look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is no subclass
        self._links._joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._look is not None:
            self._look.cancel()
        self._links._left(self)

    def data_received(self, data: bytes) -> None:
        try:
            for line in self._lines.feed(data):
                self._heard(msgspec.json.decode(line, type=dict[str, msgspec.Raw]))
        except ValueError as error:  # msgspec's own are such too
            _log.warning("what the daemon says is not understood: %s", error)
            self.close()

    @property
    def stalled(self) -> bool:
        """Whether the daemon has left much unread."""
        transport = self._transport
        return transport is not None and transport.get_write_buffer_size() > STALLED_BYTES

    def write(self, line: bytes) -> None:
        if self._transport is not None:
            self._transport.write(line)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _heard(self, message: dict[str, msgspec.Raw]) -> None:
        for key, value in message.items():
            if key == "table":
                self._gateway.configure(decoded(bytes(value)))
            elif key == "drain-worker":
                self._draining.add(msgspec.json.decode(value, type=str))
                self._tell_drained()
            elif key == "stop":
                self._gateway.stop()

    def _tell_drained(self) -> None:
        for worker in [w for w in self._draining if not self._gateway.in_flight(w)]:
            self._draining.discard(worker)
            self.write(msgspec.json.encode({"drained": worker}) + b"\n")
        self._look = None
        if self._draining:
            loop = asyncio.get_running_loop()
            self._look = loop.call_later(DRAIN_LOOK_S, self._tell_drained)


class Handover:
    """Gives away copies of the listening socket; and, once, our place."""

    def __init__(
        self,
        sock: socket.socket,
        lock: int,
        table: Callable[[], Table],
        taken_over: Callable[[], None],
    ) -> None:
        """`taken_over` is called when somebody else serves in our place."""
        self._sock = sock
        self._lock = lock
        self._table = table
        self._taken_over = taken_over
        self._listens: socket.socket | None = None

    def start(self, directory: Path) -> None:
        """Answer in the gateway's directory."""
        self._listens = listening(directory, HANDOVER)
        asyncio.get_running_loop().add_reader(self._listens, self._accept)

    def close(self) -> None:
        """Answer no more; the name of the socket may be somebody else's by now and stays."""
        if self._listens is not None:
            asyncio.get_running_loop().remove_reader(self._listens)
            self._listens.close()
            self._listens = None

    def _accept(self) -> None:
        assert self._listens is not None
        with contextlib.suppress(OSError):
            asking, _ = self._listens.accept()
            asking.setblocking(False)
            asyncio.get_running_loop().add_reader(asking, self._answer, asking)

    def _answer(self, asking: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(asking)
        with asking, contextlib.suppress(OSError, ValueError, AttributeError):
            asked = json.loads(asking.recv(1024)).get("ask")
            asking.settimeout(ANSWER_S)
            if asked == "spare":
                socket.send_fds(asking, [b"{}\n"], [self._sock.fileno()])
            elif asked == "take-over" and self._listens is not None:
                self._hand_over(asking)

    def _hand_over(self, asking: socket.socket) -> None:
        table = encoded(self._table()) + b"\n"
        socket.send_fds(asking, [b"{}\n"], [self._sock.fileno(), self._lock])
        self.close()
        asking.sendall(table)
        self._taken_over()


def shared(number: int) -> socket.socket:
    """The listening socket behind a descriptor that other processes have too.

    Whether it blocks is one flag for all of them (fcntl(2), O_NONBLOCK), and a copy made by
    `socket.dup` takes over what Python thinks of the original: a blocking one would have every
    gateway that accepts on it stand still.
    """
    sock = socket.socket(fileno=number)
    sock.setblocking(False)
    return sock


def spare(directory: Path) -> socket.socket:
    """A copy of the listening socket of the gateway that runs here.

    Raises `NotHandedOver` where none answers.
    """
    with _asked(directory, "spare") as answering:
        (held, *rest), _ = _received(answering, 1)
        for number in rest:
            os.close(number)
        return shared(held)


def take_over(directory: Path) -> tuple[socket.socket, int, Table | None]:
    """The listening socket, the lock and the routing table of the gateway that runs here.

    It has stopped taking connections when this returns. Raises `NotHandedOver` where none answers.
    """
    with _asked(directory, "take-over") as answering:
        numbers, said = _received(answering, 2)
        sock, lock = shared(numbers[0]), numbers[1]
        pieces = [said]
        with contextlib.suppress(OSError):
            while piece := answering.recv(1 << 16):
                pieces.append(piece)
        try:
            table = decoded(b"".join(pieces).partition(b"\n")[2])
        except ValueError:
            table = None  # an older one's, or it was killed while it told it
        return sock, lock, table


def _asked(directory: Path, what: str) -> socket.socket:
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    asking.settimeout(ANSWER_S)
    try:
        with reached(directory) as short:
            asking.connect(f"{short}/{HANDOVER}")
        asking.sendall(json.dumps({"ask": what}).encode() + b"\n")
    except OSError as error:
        asking.close()
        raise NotHandedOver(
            f"no gateway answers in {directory}: {error.strerror or error}"
        ) from None
    return asking


def _received(answering: socket.socket, wanted: int) -> tuple[Sequence[int], bytes]:
    """The descriptors, close-on-exec, and the bytes that came with them."""
    room = socket.CMSG_SPACE(4 * wanted)
    try:
        said, beside, _, _ = answering.recvmsg(1 << 16, room, socket.MSG_CMSG_CLOEXEC)
    except OSError as error:
        raise NotHandedOver(f"the gateway does not answer: {error.strerror or error}") from None
    numbers = array.array("i")
    for level, kind, data in beside:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    if len(numbers) < wanted:
        for number in numbers:
            os.close(number)
        raise NotHandedOver("the gateway gives nothing away")
    return list(numbers), said
