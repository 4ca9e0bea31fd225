"""Answers that are handed on as they arrive, against hand-written servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from vllm_console.http1 import (
    BadResponse,
    ConnectFailed,
    Disconnected,
    Headers,
    HttpError,
    Line,
    Origin,
    RequestTimedOut,
    push,
)

HEAD = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
PATIENCE_S = 10.0

Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "what was waited for did not come"
        await asyncio.sleep(0.001)


class Taken:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.body = b""
        self.error: HttpError | None = None
        self.calls: list[str] = []
        self.over = asyncio.Event()

    def answered(self, status: int, headers: Headers) -> None:
        self.calls.append("answered")
        self.status, self.headers = status, headers

    def arrived(self, piece: bytes, ended: bool) -> None:
        self.calls.append("arrived")
        self.body += piece
        if ended:
            self.over.set()

    def failed(self, error: HttpError, line: Line) -> None:
        self.calls.append("failed")
        self.error = error
        self.over.set()

    async def wait(self) -> Taken:
        async with asyncio.timeout(PATIENCE_S):
            await self.over.wait()
        return self


class Server:
    """Gives each connection to `play`; counts them."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self.connections = 0

    async def __aenter__(self) -> Origin:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.origin = Origin("127.0.0.1", self._server.sockets[0].getsockname()[1])
        return self.origin

    async def __aexit__(self, *_: object) -> None:
        self.origin.close()
        self._server.close()
        await asyncio.sleep(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._play(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def answering(*answers: bytes) -> Play:
    """One answer a request, then the end of the connection."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2)
            writer.write(answer)

    return play


def test_one_read_that_brings_everything_makes_one_call_each() -> None:
    async def main() -> None:
        async with Server(answering(OK, OK)) as origin:
            taken = Taken()
            line = origin.send(HEAD, b"{}", taken)
            await taken.wait()
            assert taken.calls == ["answered", "arrived"]
            assert (taken.status, taken.body) == (200, b"ok")
            assert taken.headers == [(b"content-length", b"2")]
            assert taken.error is None
            again = Taken()
            assert origin.send(HEAD, b"{}", again) is line
            await again.wait()

    run(main())


def test_a_fresh_connection_is_made_where_it_is_asked_for_or_the_kept_one_is_too_old() -> None:
    async def main() -> None:
        async with Server(answering(OK, OK)) as origin:
            first = origin.send(HEAD, b"{}", taken := Taken())
            await taken.wait()
            second = origin.send(HEAD, b"{}", taken := Taken(), fresh=True)
            await taken.wait()
            assert second is not first
            for line in (first, second):
                line.idle_since = time.monotonic() - push.SAFE_IDLE_S - 1
            assert origin.connections == 2
            third = origin.send(HEAD, b"{}", taken := Taken())
            await taken.wait()
            assert third not in (first, second)
            third.idle_since -= push.SAFE_IDLE_S + 1
            origin.sweep(time.monotonic())
            await until(lambda: not origin.connections)

    run(main())


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", Disconnected),
        (OK[:-1], Disconnected),
        (b"SSH-2.0\r\n", BadResponse),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * push.MAX_OVERHEAD * 2, BadResponse),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000, BadResponse),
    ],
)
def test_an_answer_that_is_none_fails_once(answer: bytes, kind: type[HttpError]) -> None:
    async def main() -> None:
        async with Server(answering(answer)) as origin:
            taken = Taken()
            origin.send(HEAD, b"{}", taken)
            await taken.wait()
            assert type(taken.error) is kind
            assert "\n" not in str(taken.error)
            assert taken.calls.count("failed") == 1
            assert not origin._idle

    run(main())


def test_nobody_there_is_said_and_so_is_nobody_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Server(answering()) as gone:
            pass
        taken = Taken()
        gone.send(HEAD, b"{}", taken)
        await taken.wait()
        assert type(taken.error) is ConnectFailed
        monkeypatch.setattr(push, "CONNECT_S", 0.0)
        async with Server(answering(OK)) as origin:
            taken = Taken()
            origin.send(HEAD, b"{}", taken)
            await taken.wait()
            assert type(taken.error) is RequestTimedOut

    run(main())


def test_who_hangs_up_hears_nothing_more_even_before_there_is_a_connection() -> None:
    async def main() -> None:
        left = asyncio.Event()

        async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while await reader.read(100):
                    writer.write(OK[:-1])
            finally:
                left.set()

        async with Server(play) as origin:
            early = Taken()
            origin.send(HEAD, b"{}", early).abort()
            async with asyncio.timeout(PATIENCE_S):
                await left.wait()
            left.clear()
            late = Taken()
            line = origin.send(HEAD, b"{}", late)
            await until(lambda: late.body)
            line.abort()
            async with asyncio.timeout(PATIENCE_S):
                await left.wait()
            assert early.calls == []
            assert late.error is None
            assert origin.connections == 0

    run(main())


def test_interim_answers_and_trailers_are_passed_over() -> None:
    answer = (
        b"HTTP/1.1 103 Early\r\nx: 1\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\ny: 2\r\n\r\n"
    )

    async def main() -> None:
        async with Server(answering(answer)) as origin:
            taken = Taken()
            origin.send(HEAD, b"{}", taken)
            await taken.wait()
            assert (taken.status, taken.body) == (200, b"ok")
            assert taken.headers == [(b"transfer-encoding", b"chunked")]

    run(main())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ],
)
def test_what_comes_after_an_answer_is_not_taken_for_it(answer: bytes) -> None:
    async def main() -> None:
        async with Server(answering(answer + answer.replace(b"ok", b"no"))) as origin:
            taken = Taken()
            origin.send(HEAD, b"{}", taken)
            await taken.wait()
            assert (taken.status, taken.body, taken.error) == (200, b"ok", None)
            assert taken.calls == ["answered", "arrived"]
            await until(lambda: not origin.connections)

    run(main())


def test_a_client_that_lags_behind_the_end_of_an_answer_does_not_stop_the_next_one() -> None:
    class Lags(Taken):
        line: Line

        def arrived(self, piece: bytes, ended: bool) -> None:
            super().arrived(piece, ended)
            self.line.pause()

    async def main() -> None:
        async with Server(answering(OK, OK)) as origin:
            taken = Lags()
            taken.line = origin.send(HEAD, b"{}", taken)
            await taken.wait()
            again = Taken()
            assert origin.send(HEAD, b"{}", again) is taken.line
            await again.wait()
            assert again.body == b"ok"

    run(main())
