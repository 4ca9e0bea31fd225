"""A fake worker: /metrics over a real socket, honouring `name[]`, with every fault to switch on."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

from vllm_console.http1 import Pool
from vllm_console.telemetry.sample import Miss, Sample
from vllm_console.telemetry.scrape import Scraper

Fault = Callable[["FakeWorker", asyncio.StreamWriter], Awaitable[None]]

INTERVAL_S = 0.1


class FakeWorker:
    """Counts up with every scrape; `engines` is what each of its engines has generated."""

    def __init__(self) -> None:
        self.engines: dict[str, int] = {"0": 1000}
        self.started = 1_700_000_000.0
        self.asked: list[str] = []
        """Every path asked for, query included."""
        self.fault: Fault | None = None
        self.filtered_fault: Fault | None = None
        """Like `fault`, for filtered requests alone."""
        self.url = ""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._handlers: set[asyncio.Task[None]] = set()

    def text(self) -> bytes:
        """The whole text of now."""
        lines = ["# TYPE process_start_time_seconds gauge"]
        lines += [f"process_start_time_seconds {self.started}", "# TYPE python_info gauge"]
        lines += ['python_info{version="3"} 1.0', "# TYPE vllm:num_requests_running gauge"]
        lines += [f'vllm:num_requests_running{{engine="{e}"}} 1.0' for e in self.engines]
        lines.append("# TYPE vllm:generation_tokens_total counter")
        lines += [f'vllm:generation_tokens_total{{engine="{e}"}} {n}' for e, n in self.live()]
        lines.append("# TYPE vllm:lora_requests_info gauge")
        return ("\n".join(lines) + "\n").encode()

    def live(self) -> list[tuple[str, int]]:
        """Each engine and its tokens."""
        return list(self.engines.items())

    async def start(self) -> None:
        """Listens; on the same port as before when it was stopped."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        """Hangs up on everybody and listens no more."""
        assert self._server is not None
        self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await self._answer(head.split(b" ", 2)[1].decode(), writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._handlers.discard(task)

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        self.asked.append(path)
        for engine in self.engines:
            self.engines[engine] += 1
        names = parse_qs(urlsplit(path).query).get("name[]")
        fault = self.fault or (self.filtered_fault if names else None)
        if fault is not None:
            await fault(self, writer)
        else:
            respond(writer, restricted(self.text(), names) if names else self.text())


def restricted(text: bytes, names: list[str]) -> bytes:
    """The lines that prometheus_client leaves of a text for these `name[]`."""
    wanted = {name.encode() for name in names}
    kept = [
        line
        for line in text.split(b"\n")
        if line[:1] != b"#" and line.partition(b"{")[0].partition(b" ")[0] in wanted
    ]
    return b"\n".join(kept) + b"\n" if kept else b""


def respond(writer: asyncio.StreamWriter, body: bytes, status: str = "200 OK") -> None:
    """One HTTP response."""
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


# Faults, by what a person would call them.


async def hang(worker: FakeWorker, writer: asyncio.StreamWriter) -> None:
    """Accepts and never answers."""
    await asyncio.Event().wait()


async def drip(worker: FakeWorker, writer: asyncio.StreamWriter) -> None:
    """Sends its text a byte at a time, for ever."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"#")
        await asyncio.sleep(0.02)


def status(line: str) -> Fault:
    """Answers with another status."""

    async def fault(worker: FakeWorker, writer: asyncio.StreamWriter) -> None:
        respond(writer, worker.text(), line)

    return fault


def body(make: Callable[[bytes], bytes]) -> Fault:
    """Answers 200 with what `make` makes of the right text."""

    async def fault(worker: FakeWorker, writer: asyncio.StreamWriter) -> None:
        respond(writer, make(worker.text()))

    return fault


async def hang_up(worker: FakeWorker, writer: asyncio.StreamWriter) -> None:
    """Closes the connection in the middle of the text."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + worker.text())
    await writer.drain()
    writer.close()


async def other_protocol(worker: FakeWorker, writer: asyncio.StreamWriter) -> None:
    """Is no HTTP server at all."""
    writer.write(b"220 mail.example ESMTP\r\n")


zipped = body(gzip.compress)


class Watch:
    """A scraper over real sockets, and what it reported, in order."""

    def __init__(self, pool: Pool, clock: Callable[[], float]) -> None:
        self.events: list[tuple[str, Sample | Miss]] = []
        self.scraper = Scraper(
            pool,
            interval_s=INTERVAL_S,
            on_sample=lambda worker, sample: self.events.append((worker, sample)),
            on_miss=lambda worker, miss: self.events.append((worker, miss)),
            clock=clock,
        )

    def samples(self, worker: str) -> list[Sample]:
        """The samples of one worker so far."""
        return [e for name, e in self.events if name == worker and isinstance(e, Sample)]

    def faults(self, worker: str) -> list[str]:
        """Why samples of one worker failed so far, but for a machine too busy to answer in time."""
        return [miss.reason for miss in self.misses(worker) if " within " not in miss.reason]

    def misses(self, worker: str) -> list[Miss]:
        """The misses of one worker so far."""
        return [e for name, e in self.events if name == worker and isinstance(e, Miss)]


async def until(holds: Callable[[], bool]) -> None:
    """Returns as soon as something holds; fails where that takes 30 s."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)


@asynccontextmanager
async def watching(
    *names: str, clock: Callable[[], float] | None = None
) -> AsyncIterator[tuple[Watch, dict[str, FakeWorker]]]:
    """Workers that are scraped, each with one sample at least; all is closed at the end."""
    pool = Pool()
    watch = Watch(pool, clock or asyncio.get_running_loop().time)
    workers = {name: FakeWorker() for name in names}
    for name, worker in workers.items():
        await worker.start()
        watch.scraper.add(name, worker.url)
    try:
        await until(lambda: all(watch.samples(name) for name in names))
        yield watch, workers
    finally:
        await watch.scraper.close()
        await pool.close()
        for worker in workers.values():
            await worker.stop()
