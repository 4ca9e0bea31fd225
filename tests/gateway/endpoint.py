"""The real gateway on a free loopback port, and plain sockets to talk to it."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import uvloop

from tests.gateway.fake_worker import FakeWorker
from vllm_console.gateway.app import App
from vllm_console.gateway.keyring import Keyring
from vllm_console.gateway.measures import Measures, Record
from vllm_console.gateway.routes import Gateway
from vllm_console.gateway.serving import Serving
from vllm_console.gateway.stats import Stats
from vllm_console.gateway.table import Limits, Model, Table, Worker

T = TypeVar("T")
PATIENCE_S = 20.0
CHAT = "/v1/chat/completions"


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs on the event loop of the gateway's process; no fake worker outlives it."""

    async def cleared() -> T:
        try:
            return await main
        finally:
            for worker in FakeWorker.started:
                await worker.stop()
            FakeWorker.started.clear()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(cleared())


async def until(condition: Callable[[], object]) -> None:
    """Returns when the condition holds; fails if it never does."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "what was waited for did not come"
        await asyncio.sleep(0.005)


@dataclass
class Answer:
    """An answer that was read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True
    """Whether it ended as its framing says."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]

    @property
    def events(self) -> list[str]:
        """Data of the events of a stream."""
        parts = self.body.decode().split("\n\n")
        return [one.partition("data: ")[2] for one in parts if "data: " in one]


class Client:
    """One connection to the endpoint."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, body: Any, **options: Any) -> Answer:
        await self.send(request(body, **options))
        return await self.answer()

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next answer."""
        async with asyncio.timeout(PATIENCE_S):
            text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = text.split("\r\n")[:-2]
        pairs = (line.partition(": ") for line in lines)
        return int(first.split()[1]), {name.lower(): value for name, _, value in pairs}

    async def answer(self) -> Answer:
        """The next answer, as far as it came."""
        status, headers = await self.head()
        body, whole = bytearray(), True
        async with asyncio.timeout(PATIENCE_S):
            try:
                if headers.get("transfer-encoding") == "chunked":
                    while piece := await self.chunk():
                        body += piece
                elif "content-length" in headers:
                    body += await self.reader.readexactly(int(headers["content-length"]))
                elif status not in (204, 304):
                    body += await self.reader.read()
            except asyncio.IncompleteReadError as error:
                body += error.partial
                whole = False
            except ConnectionError:
                whole = False
        return Answer(status, headers, bytes(body), whole)

    async def chunk(self) -> bytes:
        """The next chunk of a body, empty at its end."""
        async with asyncio.timeout(PATIENCE_S):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            piece = await self.reader.readexactly(size + 2)
        return piece[:-2]

    async def closed(self) -> bytes:
        """What still comes until the endpoint closes the connection."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def hang_up(self) -> None:
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


def request(
    body: Any, *, path: str = CHAT, method: str = "POST", headers: dict[str, str] | None = None
) -> bytes:
    """A request's bytes; `body` is JSON, or bytes as they are."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"host": "localhost", "content-type": "application/json"} | (headers or {})
    lines.setdefault("content-length", str(len(content)))
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"{method} {path} HTTP/1.1\r\n{text}\r\n".encode("latin-1") + content


def chat(model: str = "small", **more: Any) -> dict[str, Any]:
    """The body of a chat request; `more` goes into it."""
    return {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}


def model_of(*workers: FakeWorker, name: str = "small", slots: int = 64, **more: Any) -> Model:
    """A model that these workers serve."""
    listed = tuple(
        Worker(id=f"{name}-{number}", port=one.port, revision=1, slots=slots, gpus=1)
        for number, one in enumerate(workers, 1)
    )
    more["limits"] = Limits(**more.get("limits", {}))
    more.setdefault("state", "ready" if workers else "stopped")
    return Model(name=name, workers=listed, **more)


class Bugs(logging.Handler):
    """Keeps what is logged as an error, which no request may cause."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(self.format(record))


class Endpoint:
    """A gateway that serves a table, in this process; `records` are what it counted."""

    def __init__(self, *models: Model, keyring: Keyring | None = None, **table: Any) -> None:
        self.table = Table(version=1, models=models, **table)
        self.gateway = Gateway(self.table, keyring or Keyring(), Measures())
        self.records: list[Record] = []
        self.gateway.sinks.append(self.records.append)
        self.wanted: list[str] = []
        self.gateway.demand = self.wanted.append
        self.clients: list[Client] = []
        self.bugs = Bugs(logging.ERROR)

    async def __aenter__(self) -> Endpoint:
        for name in ("vllm_console.gateway", "uvicorn", "asyncio"):
            logging.getLogger(name).addHandler(self.bugs)
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.listen(1024)
        self.port = sock.getsockname()[1]
        stats = Stats(self.gateway, version="0", now=time.monotonic())
        self.serving = Serving(self.gateway, App(self.gateway, stats), sock)
        self.task = asyncio.ensure_future(self.serving.run())
        await until(lambda: self.serving.started or self.task.done())
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self.clients:
            client.hang_up()
        self.gateway.close()
        self.serving.stop(0)
        await self.task
        for name in ("vllm_console.gateway", "uvicorn", "asyncio"):
            logging.getLogger(name).removeHandler(self.bugs)
        assert self.bugs.told == []

    def configure(self, *models: Model) -> None:
        self.gateway.configure(Table(version=self.gateway.table.version + 1, models=models))

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24))
        self.clients.append(client)
        return client

    async def ask(self, body: Any, **options: Any) -> Answer:
        """One request on a connection of its own."""
        client = await self.connect()
        answer = await client.ask(body, **options)
        await client.close()
        return answer

    async def say(self, data: bytes) -> Answer:
        """Any bytes, on a connection of their own."""
        client = await self.connect()
        client.writer.write(data)
        answer = await client.answer()
        await client.close()
        return answer

    @property
    def settled(self) -> bool:
        """Whether nothing is in flight, counted or held any more."""
        gateway = self.gateway
        return (
            not gateway.in_requests
            and all(not live.queue.in_flight for live in gateway.models.values())
            and all(live.queue.waiting == (0, 0, 0) for live in gateway.models.values())
            and all(not wire.in_flight for wire in gateway.wires.values())
            and all(
                not slot.in_flight
                for live in gateway.models.values()
                for slot in live.balance.slots.values()
            )
            and not gateway.keyring.anonymous.in_flight
        )
