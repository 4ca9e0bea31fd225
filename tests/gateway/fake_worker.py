"""A fake `vllm serve`: answers as the `fake` object in a request's body says, and remembers all.

status        of the answer, 200
chunks        events of a stream, 3; `size` bytes of text in each
hold          waits for `release` after the head of a stream, or before any other answer
die_after     hangs up after so many events; 0 is after the head, -1 before any byte
slow          seconds between events
raw           bytes that are sent instead of an answer, in Latin-1
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, ClassVar

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


@dataclass(frozen=True)
class Seen:
    """A request that arrived."""

    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class FakeWorker:
    """One fake worker on a free loopback port; `knobs` hold for requests that do not say."""

    started: ClassVar[list[FakeWorker]] = []

    def __init__(self, **knobs: Any) -> None:
        self.knobs = knobs
        self.seen: list[Seen] = []
        self.connections = 0
        self.hung_up = 0
        """Requests whose client went away before the end of the answer."""
        self.running = 0
        self.written = 0
        """Bytes of answers that the operating system has taken."""
        self.release = asyncio.Event()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> FakeWorker:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        self.started.append(self)
        return self

    async def stop(self) -> None:
        """Ends like a process that is killed: every connection is reset."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except RuntimeError:  # uvloop: written to what was aborted
            pass
        finally:
            writer.close()
            self._tasks.discard(task)
            self._writers.discard(writer)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")[:-2]
        headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        seen = Seen(first.split()[1], headers, body)
        self.seen.append(seen)
        self.running += 1
        gone = asyncio.ensure_future(reader.read(1))
        try:
            if await self._answer(seen, writer, gone):
                return True
            self.hung_up += gone.done()
            return False
        finally:
            self.running -= 1
            gone.cancel()
            await asyncio.wait({gone})
            if not gone.cancelled():
                gone.exception()

    async def _answer(
        self, seen: Seen, writer: asyncio.StreamWriter, gone: asyncio.Future[bytes]
    ) -> bool:
        """Whether another request may follow."""
        asked = seen.json if seen.headers.get("content-type") == "application/json" else {}
        knobs = self.knobs | asked.get("fake", {})
        status, dies = knobs.get("status", 200), knobs.get("die_after")
        if dies == -1:
            writer.transport.abort()
            return False
        if "raw" in knobs:
            writer.write(knobs["raw"].encode("latin-1"))
            return False
        text = "x" * knobs.get("size", 4)
        if status != 200 or not asked.get("stream"):
            if knobs.get("hold") and not await self._held(gone):
                return False
            answer = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
            done: Any = answer | {"usage": USAGE} if status == 200 else {"error": {"message": text}}
            body = json.dumps(done).encode()
            writer.write(
                b"HTTP/1.1 %d X\r\nserver: fake\r\ncontent-type: application/json\r\n"
                b"x-worker: %d\r\ncontent-length: %d\r\n\r\n" % (status, self.port, len(body))
            )
            writer.write(body if dies is None else body[: len(body) // 2])
            await writer.drain()
            self.written += len(body)
            if dies is not None:
                writer.transport.abort()
            return dies is None
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
            b"x-worker: %d\r\ntransfer-encoding: chunked\r\n\r\n" % self.port
        )
        if knobs.get("hold") and not await self._held(gone):
            return False
        for number in range(knobs.get("chunks", 3)):
            if number == dies:
                await writer.drain()
                writer.transport.abort()
                return False
            if knobs.get("slow"):
                await asyncio.wait({gone}, timeout=knobs["slow"])
            event = {"choices": [{"delta": {"content": text}, "finish_reason": None}], "n": number}
            self._event(writer, json.dumps(event))
            await writer.drain()
            if gone.done():
                return False
        self._event(writer, json.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}]}))
        if (asked.get("stream_options") or {}).get("include_usage"):
            self._event(writer, json.dumps({"choices": [], "usage": USAGE}))
        self._event(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    def _event(self, writer: asyncio.StreamWriter, text: str) -> None:
        event = f"data: {text}\n\n".encode()
        self.written += len(event)
        writer.write(b"%x\r\n%b\r\n" % (len(event), event))

    async def _held(self, gone: asyncio.Future[bytes]) -> bool:
        """Waits to be released; false if the client went away before."""
        released = asyncio.ensure_future(self.release.wait())
        try:
            both: set[asyncio.Future[Any]] = {released, gone}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            released.cancel()
        return not gone.done()
