"""The HTTP client against real servers: well-behaved, slow, broken and hostile."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import pytest
import uvicorn
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_console.http1 import (
    BadRequest,
    BadResponse,
    ConnectFailed,
    Disconnected,
    HttpError,
    Pool,
    RequestTimedOut,
    Response,
    StreamedResponse,
)

T = TypeVar("T")
Connection = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

CHUNKED = b"HTTP/1.1 200\r\ntransfer-encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


new_loop: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop]


@pytest.fixture(
    autouse=True,
    scope="module",
    params=[asyncio.new_event_loop, uvloop.new_event_loop],
    ids=["asyncio", "uvloop"],
)
def kind_of_loop(request: pytest.FixtureRequest) -> None:
    """Everything here holds on both event loops the program uses."""
    new_loop[0] = request.param


def run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=new_loop[0]) as runner:
        return runner.run(main)


class RawServer:
    """A hand-written server: `serve` plays one connection; what arrives is recorded."""

    def __init__(self, serve: Connection, host: str = "127.0.0.1") -> None:
        self._serve = serve
        self._host = host
        self._tasks: set[asyncio.Task[Any]] = set()
        self.connected = asyncio.Event()
        self.connections = 0
        self.closed_by_client = asyncio.Event()
        self.url = ""

    async def __aenter__(self) -> RawServer:
        self._server = await asyncio.start_server(self._accept, self._host, 0)
        self.addresses = [listener.getsockname()[:2] for listener in self._server.sockets]
        host, port = self.addresses[0]
        self.url = f"http://{host}:{port}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.connected.set()
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.closed_by_client.set()
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            self._tasks.discard(task)


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of one request; raises IncompleteReadError when the client hangs up."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return head, await reader.readexactly(length)


def answering(*answers: bytes, close: bool = False) -> Connection:
    """A connection that gives one answer a request, then waits for the client to hang up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await read_request(reader)
            writer.write(answer)
            await writer.drain()
        if not close:
            await reader.readexactly(1)

    return serve


@asynccontextmanager
async def pool_of(**options: Any) -> AsyncIterator[Pool]:
    pool = Pool(**options)
    try:
        yield pool
    finally:
        await pool.close()


async def read_all(response: StreamedResponse, into: bytearray | None = None) -> None:
    async for piece in response.chunks():
        if into is not None:
            into += piece


def get_from(
    *answers: bytes, close: bool = False, timeout: float = 5.0, **options: Any
) -> Response:
    async def main() -> Response:
        async with (
            RawServer(answering(*answers, close=close)) as server,
            pool_of(**options) as pool,
        ):
            return await pool.request("GET", server.url, timeout=timeout)

    return run(main())


async def app(scope: Any, receive: Any, send: Any) -> None:
    """A small ASGI application: echoes, streams, and keeps count of its connections."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = [(b"x-client", str(scope["client"][1]).encode())]
    for name, value in scope["headers"]:
        if name == b"x-echo":
            headers.append((b"x-echo", value))
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in (b"one ", b"two ", b"three"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b""})
        return
    status = 404 if scope["path"] == "/missing" else 200
    text = b" ".join(
        [scope["method"].encode(), scope["path"].encode(), scope["query_string"], body]
    )
    headers.append((b"content-length", b"%d" % len(text)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


@pytest.fixture(scope="module")
def uvicorn_url() -> Iterator[str]:
    config = uvicorn.Config(app, http="httptools", log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        yield url
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def test_a_request_reaches_uvicorn_and_comes_back_whole(uvicorn_url: str) -> None:
    async def main() -> Response:
        async with pool_of() as pool:
            return await pool.request(
                "POST", f"{uvicorn_url}/a/b?c=1", headers=[("X-Echo", "7")], body=b"hi", timeout=5
            )

    response = run(main())
    assert response.status == 200
    assert response.body == b"POST /a/b c=1 hi"
    assert (b"x-echo", b"7") in response.headers


def test_a_status_that_is_not_200_is_a_response_not_an_error(uvicorn_url: str) -> None:
    async def main() -> Response:
        async with pool_of() as pool:
            return await pool.request("GET", f"{uvicorn_url}/missing", timeout=5)

    assert run(main()).status == 404


def test_head_reads_no_body(uvicorn_url: str) -> None:
    async def main() -> tuple[Response, Response]:
        async with pool_of() as pool:
            head = await pool.request("HEAD", uvicorn_url, timeout=5)
            return head, await pool.request("GET", uvicorn_url, timeout=5)

    head, after = run(main())
    assert (head.status, head.body) == (200, b"")
    assert after.body.startswith(b"GET / ")


def test_a_connection_is_reused_one_after_another_and_not_shared_at_once(uvicorn_url: str) -> None:
    async def main() -> tuple[list[Response], list[Response]]:
        async with pool_of() as pool:
            row = [await pool.request("GET", uvicorn_url, timeout=5) for _ in range(5)]
            crowd = [pool.request("GET", uvicorn_url, timeout=5) for _ in range(20)]
            return row, await asyncio.gather(*crowd)

    row, crowd = run(main())
    assert len({dict(response.headers)[b"x-client"] for response in row}) == 1
    assert len({dict(response.headers)[b"x-client"] for response in crowd}) == 20


def test_a_stream_gives_its_pieces_and_its_connection_back(uvicorn_url: str) -> None:
    async def main() -> tuple[int, list[bytes], int]:
        async with pool_of() as pool:
            clients = set()
            for _ in range(3):
                async with pool.stream("GET", f"{uvicorn_url}/stream") as response:
                    pieces = [piece async for piece in response.chunks()]
                    clients.add(dict(response.headers)[b"x-client"])
            return response.status, pieces, len(clients)

    status, pieces, clients = run(main())
    assert status == 200
    assert b"".join(pieces) == b"one two three"
    assert all(pieces)
    assert clients == 1


def test_the_request_on_the_wire_is_what_http_asks_for() -> None:
    heads: list[tuple[bytes, bytes]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append(await read_request(reader))
            writer.write(OK)

    async def main() -> str:
        async with RawServer(serve) as server, pool_of() as pool:
            await pool.request("GET", server.url.rstrip("/") + "?x=1#part", timeout=5)
            await pool.request("POST", server.url, timeout=5)
            await pool.request("POST", server.url, body=b"{}", headers=[("a", "b")], timeout=5)
            return server.url.removeprefix("http://").rstrip("/")

    host = run(main()).encode()
    assert heads == [
        (b"GET /?x=1 HTTP/1.1\r\nhost: " + host + b"\r\n\r\n", b""),
        (b"POST / HTTP/1.1\r\nhost: " + host + b"\r\ncontent-length: 0\r\n\r\n", b""),
        (b"POST / HTTP/1.1\r\nhost: " + host + b"\r\ncontent-length: 2\r\na: b\r\n\r\n", b"{}"),
    ]


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (OK, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", b"abcde"),
        (CHUNKED + b"1\r\na\r\n0\r\nx-sum: 1\r\n\r\n", b"a"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 103 Early Hints\r\ncontent-length: 900\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok"),
    ],
    ids=["length", "204", "empty", "chunked", "trailer", "100", "103", "http/1.0"],
)  # fmt: skip
def test_every_framing_of_a_body_is_read(answer: bytes, body: bytes) -> None:
    assert get_from(answer).body == body


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\nx: y\r\n\r\n"])
def test_a_body_without_a_length_ends_where_the_connection_does(head: bytes) -> None:
    assert get_from(head + b"until the end", close=True).body == b"until the end"


@settings(max_examples=30, deadline=None)
@given(
    parts=st.lists(st.binary(min_size=1, max_size=200), max_size=5),
    cuts=st.lists(st.integers(0, 400), max_size=6),
)
def test_where_the_network_cuts_a_response_does_not_matter(
    parts: list[bytes], cuts: list[int]
) -> None:
    wire = CHUNKED
    wire += b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    edges = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for start, end in itertools.pairwise(edges):
            writer.write(wire[start:end])
            await writer.drain()
            await asyncio.sleep(0)
        await reader.readexactly(1)

    async def main() -> bytes:
        async with RawServer(serve) as server, pool_of() as pool:
            return (await pool.request("GET", server.url, timeout=5)).body

    assert run(main()) == b"".join(parts)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (b"", Disconnected, "closed the connection before any response"),
        (b"HTTP/1.1 200 OK\r\ncontent-le", Disconnected, "closed the connection inside"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab", Disconnected, "inside the response"),
        (CHUNKED + b"5\r\nab", Disconnected, "inside"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", BadResponse, "not an HTTP/1.1 response"),
        (b"\x16\x03\x01\x00\xa5", BadResponse, "not an HTTP/1.1 response"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: pony\r\n\r\n", BadResponse, "not an HTTP/1.1"),
        (CHUNKED + b"zz\r\n", BadResponse, "not an"),
        (b"HTTP/1.1 101 Other\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", BadResponse, "not"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 400_000, BadResponse, "of headers and no body"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000, BadResponse, "of headers and no body"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n", BadResponse, "of over 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"z" * 1001, BadResponse, "of over 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n" + b"z" * 1001, BadResponse, "1000"),
    ],
    ids=[
        "hang-up", "cut-head", "cut-body", "cut-chunk", "ssh", "tls", "bad-length", "bad-chunk",
        "upgrade", "huge-header", "endless-100", "announced-huge", "huge", "huge-at-once",
    ],
)  # fmt: skip
def test_a_broken_response_is_one_line_that_names_the_url(
    answer: bytes, error: type[HttpError], words: str
) -> None:
    with pytest.raises(error) as caught:
        get_from(answer, close=True, max_body=1000)
    line = str(caught.value)
    assert words in line
    assert line.startswith("GET http://127.0.0.1:")
    assert "\n" not in line


def test_a_body_of_exactly_the_limit_passes() -> None:
    assert (
        len(get_from(b"HTTP/1.1 200 OK\r\n\r\n" + b"z" * 1000, close=True, max_body=1000).body)
        == 1000
    )


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"])
def test_a_server_that_hangs_costs_the_timeout_and_no_more(sent: bytes) -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        async with RawServer(answering(sent)) as server, pool_of() as pool:
            before = loop.time()
            with pytest.raises(RequestTimedOut, match=r"within 0\.2 s$"):
                await pool.request("GET", server.url, timeout=0.2)
            took = loop.time() - before
            await asyncio.wait_for(server.closed_by_client.wait(), 5)
            return took

    assert 0.15 < run(main()) < 2.0


def test_a_response_that_drips_is_timed_as_a_whole() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def main() -> None:
        async with RawServer(drip) as server, pool_of() as pool:
            with pytest.raises(RequestTimedOut, match="response not complete within"):
                await pool.request("GET", server.url, timeout=0.2)
            async with pool.stream("GET", server.url, timeout=0.2) as response:
                with pytest.raises(RequestTimedOut, match="response not complete within"):
                    await read_all(response)

    run(main())


def test_a_server_that_does_not_accept_is_a_connect_timeout() -> None:
    async def main() -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            port = listener.getsockname()[1]
            fill = [socket.socket() for _ in range(3)]
            for filler in fill:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            try:
                async with pool_of() as pool:
                    with pytest.raises(RequestTimedOut, match=r"no connection within 0\.2 s"):
                        await pool.request("GET", f"http://127.0.0.1:{port}/", timeout=0.2)
            finally:
                for filler in fill:
                    filler.close()

    run(main())


def test_nothing_listening_is_connect_failed() -> None:
    async def main(host: str) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"http://{host}:{taken.getsockname()[1]}/x?key=hidden"
            async with pool_of() as pool:
                with pytest.raises(ConnectFailed, match=r"/x: connection refused$"):
                    await pool.request("GET", url, timeout=5)

    run(main("127.0.0.1"))
    run(main("localhost"))


def test_a_kept_connection_that_died_is_replaced_for_get() -> None:
    hang_up = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await read_request(reader)  # takes the second request and hangs up on it
        hang_up.set()

    async def main() -> int:
        async with RawServer(serve) as server, pool_of() as pool:
            await pool.request("GET", server.url, timeout=5)
            assert (await pool.request("GET", server.url, timeout=5)).body == b"ok"
            assert hang_up.is_set()
            return server.connections

    assert run(main()) == 2


def test_a_fresh_connection_that_dies_is_not_tried_again() -> None:
    async def main() -> int:
        async with RawServer(answering(b"", close=True)) as server, pool_of() as pool:
            with pytest.raises(Disconnected):
                await pool.request("GET", server.url, timeout=5)
            return server.connections

    assert run(main()) == 1


def test_a_post_is_never_sent_twice() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await read_request(reader)

    async def main() -> int:
        async with RawServer(serve) as server, pool_of() as pool:
            await pool.request("POST", server.url, timeout=5)
            with pytest.raises(Disconnected):
                await pool.request("POST", server.url, timeout=5)
            return server.connections

    assert run(main()) == 1


def test_a_half_answered_get_is_not_tried_again() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n")

    async def main() -> int:
        async with RawServer(serve) as server, pool_of() as pool:
            await pool.request("GET", server.url, timeout=5)
            with pytest.raises(Disconnected, match="inside the response"):
                await pool.request("GET", server.url, timeout=5)
            return server.connections

    assert run(main()) == 1


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        OK + OK,
        OK + b"garbage",
    ],
    ids=["close", "http/1.0", "two-answers", "garbage-after"],
)
def test_a_connection_that_cannot_be_trusted_is_not_reused(first: bytes) -> None:
    async def main() -> int:
        async with RawServer(answering(first)) as server, pool_of() as pool:
            for _ in range(2):
                assert (await pool.request("GET", server.url, timeout=5)).body == b"ok"
            return server.connections

    assert run(main()) == 2


def test_an_idle_connection_that_speaks_unasked_is_closed() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(OK)
        await reader.readexactly(1)

    async def main() -> None:
        async with RawServer(serve) as server, pool_of() as pool:
            await pool.request("GET", server.url, timeout=5)
            await asyncio.wait_for(server.closed_by_client.wait(), 5)

    run(main())


def test_idle_connections_are_closed_after_their_time() -> None:
    async def main() -> None:
        async with RawServer(answering(OK)) as server, pool_of(idle_s=0.1) as pool:
            await pool.request("GET", server.url, timeout=5)
            await asyncio.wait_for(server.closed_by_client.wait(), 5)
            await pool.request("GET", server.url, timeout=5)
            assert server.connections == 2

    run(main())


def test_no_more_idle_connections_are_kept_than_allowed(uvicorn_url: str) -> None:
    async def clients(pool: Pool) -> set[bytes]:
        responses = [pool.request("GET", uvicorn_url, timeout=5) for _ in range(5)]
        return {dict(r.headers)[b"x-client"] for r in await asyncio.gather(*responses)}

    async def main() -> int:
        async with pool_of(max_idle_per_host=2) as pool:
            return len(await clients(pool) & await clients(pool))

    assert run(main()) == 2


def test_a_cancelled_request_closes_its_socket() -> None:
    async def main() -> None:
        async with RawServer(answering(b"HTTP/1.1 200 OK\r\n")) as server, pool_of() as pool:
            task = asyncio.create_task(pool.request("GET", server.url, timeout=60))
            await asyncio.wait_for(server.connected.wait(), 5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(server.closed_by_client.wait(), 5)

    run(main())


def endless(written: list[int]) -> Connection:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CHUNKED)
        block = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        while True:
            writer.write(block)
            await writer.drain()
            written[0] += 65536

    return serve


def test_leaving_a_stream_early_closes_its_socket() -> None:
    async def main() -> None:
        async with RawServer(endless([0])) as server, pool_of() as pool:
            async with pool.stream("GET", server.url) as response:
                async for _ in response.chunks():
                    break
            await asyncio.wait_for(server.closed_by_client.wait(), 5)

    run(main())


def test_a_slow_reader_of_a_stream_slows_the_server_down() -> None:
    async def settled(written: list[int]) -> int:
        before, same = -1, 0
        while same < 20:
            await asyncio.sleep(0.01)
            same = same + 1 if written[0] == before else 0
            before = written[0]
        return before

    async def main() -> None:
        written = [0]
        async with (
            asyncio.timeout(20),
            RawServer(endless(written)) as server,
            pool_of() as pool,
            pool.stream("GET", server.url) as response,
        ):
            chunks = response.chunks()
            stopped = await settled(written)
            assert stopped < 64 << 20
            read = 0
            while read <= stopped:
                read += len(await anext(chunks))
            assert await settled(written) > stopped

    run(main())


def test_a_stream_that_breaks_off_says_so_after_what_arrived() -> None:
    answer = CHUNKED + b"3\r\nabc\r\n"

    async def main() -> bytearray:
        got = bytearray()
        async with (
            RawServer(answering(answer, close=True)) as server,
            pool_of() as pool,
            pool.stream("POST", server.url) as response,
        ):
            with pytest.raises(Disconnected, match="inside the response"):
                await read_all(response, got)
        return got

    assert run(main()) == b"abc"


def test_closing_the_pool_ends_requests_in_flight_and_refuses_new_ones() -> None:
    async def main() -> None:
        async with RawServer(answering(b"HTTP/1.1 200 OK\r\n")) as server:
            pool = Pool()
            task = asyncio.create_task(pool.request("GET", server.url, timeout=60))
            await asyncio.wait_for(server.connected.wait(), 5)
            await pool.close()
            with pytest.raises(Disconnected):
                await task
            with pytest.raises(BadRequest, match="pool is closed"):
                await pool.request("GET", server.url, timeout=5)
            await pool.close()

    run(main())


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/", "127.0.0.1:80", "http://", "http://u:p@h/", "http://h:0/", "http://h:99999/",
        "http://h/a b", "http://h/\r\nx: y", "http://h/ä", "http://::1/", "ftp://h/", "http://h:x/",
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_asked_is_refused_in_one_line(url: str) -> None:
    async def main() -> None:
        async with pool_of() as pool:
            with pytest.raises(BadRequest) as caught:
                await pool.request("GET", url, timeout=5)
            assert "\n" not in str(caught.value)

    run(main())


@pytest.mark.parametrize(
    ("method", "header"),
    [
        ("GET", ("a", "b\r\nc: d")),
        ("GET", ("a b", "c")),
        ("GET", ("", "c")),
        ("GET", ("a", "\N{SNOWMAN}")),
        ("GE T", ("a", "b")),
    ],
)
def test_a_header_cannot_smuggle_another(method: str, header: tuple[str, str]) -> None:
    async def main() -> int:
        async with RawServer(answering(OK)) as server, pool_of() as pool:
            with pytest.raises(BadRequest):
                await pool.request(method, server.url, headers=[header], timeout=5)
            return server.connections

    assert run(main()) == 0


def test_ipv6_and_names_are_reached() -> None:
    async def main() -> list[bytes]:
        bodies = []
        async with RawServer(answering(OK), "localhost") as server, pool_of() as pool:
            for host, port in server.addresses:
                literal = f"[{host}]" if ":" in host else host
                for name in (literal, "localhost"):
                    response = await pool.request("GET", f"http://{name}:{port}/", timeout=5)
                    bodies.append(response.body)
        return bodies

    assert set(run(main())) == {b"ok"}


@pytest.mark.parametrize("turns", range(12))
def test_a_connect_that_is_given_up_does_not_hold_the_pool_open(turns: int) -> None:
    async def main() -> None:
        async with RawServer(answering(OK)) as server:
            pool = Pool()
            asked = asyncio.ensure_future(pool.request("GET", server.url, timeout=5))
            for _ in range(turns):
                await asyncio.sleep(0)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            await asyncio.wait_for(pool.close(), 5)

    run(main())
