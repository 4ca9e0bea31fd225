"""A fake engine: speaks just enough of vLLM's streamed chat completions for a traffic generator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

Answer = Callable[[dict[str, Any], asyncio.StreamWriter], Any]


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


class FakeEngine:
    """Counts requests and answers each with `max_tokens` one-token events and the usage."""

    def __init__(self, model: str = "fake", tokens_per_word: float = 1.0) -> None:
        self.model = model
        self.tokens_per_word = tokens_per_word
        self.requests: list[dict[str, Any]] = []
        self.answering = asyncio.Event()
        self.answering.set()
        self.status = 200
        self.ending: list[bytes] | None = None
        """What follows the tokens; `None` is the usage and [DONE]."""
        self.url = ""
        self._tasks: set[asyncio.Task[Any]] = set()

    def prompt_tokens(self, request: dict[str, Any]) -> int:
        words = sum(len(m["content"].split()) for m in request["messages"])
        return round(words * self.tokens_per_word)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                await self._answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        request = json.loads(await reader.readexactly(length))
        self.requests.append(request)
        await self.answering.wait()
        if self.status != 200:
            writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % self.status)
            return
        output = request["max_tokens"]
        usage = {"prompt_tokens": self.prompt_tokens(request), "completion_tokens": output}
        body = [event({"choices": [{"delta": {"content": "x"}}]})] * output
        ending = [event({"choices": [], "usage": usage}), b"data: [DONE]\n\n"]
        body += ending if self.ending is None else self.ending
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for part in body:
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
        writer.write(b"0\r\n\r\n")
        await writer.drain()


@asynccontextmanager
async def running(engine: FakeEngine) -> AsyncIterator[FakeEngine]:
    """The engine on a port of its own, gone at the end of the block."""
    server = await asyncio.start_server(engine._serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    engine.url = f"http://{host}:{port}"
    try:
        yield engine
    finally:
        server.close()
        for task in engine._tasks:
            task.cancel()
        await asyncio.gather(*engine._tasks, return_exceptions=True)
        await server.wait_closed()
