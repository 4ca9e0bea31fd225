"""Scraping on a clock that jumps: the loop's time passes only while nothing is left to do."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Sequence
from itertools import pairwise
from typing import Any

import pytest

from vllm_console.http1 import ConnectFailed, Pool, RequestTimedOut, Response
from vllm_console.telemetry.sample import Miss, Sample
from vllm_console.telemetry.scrape import Scraper


class _JumpingSelector(selectors.SelectSelector):
    """Never waits: what the loop would have slept is added to its clock."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout:
            self.now += timeout
        return super().select(0)


class _JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def _run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=_JumpingLoop) as runner:
        runner.run(test())


def _text(tokens: int) -> bytes:
    return f"vllm:generation_tokens_total {tokens}\n".encode()


class FakePool:
    """Answers by URL after a delay; keeps the pool's promise to end within the timeout."""

    def __init__(self) -> None:
        self.delay: dict[str, float] = {}
        self.answer: dict[str, Response | Exception] = {}
        self.asked: list[tuple[float, str]] = []
        self.first_asked = asyncio.Event()
        self.open = 0
        self.most_open: dict[str, int] = {}
        self.headers: set[tuple[str, str]] = set()

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        timeout: float,  # noqa: ASYNC109
    ) -> Response:
        assert (method, body) == ("GET", b"")
        now = asyncio.get_running_loop().time
        self.asked.append((now(), url))
        self.first_asked.set()
        self.headers |= set(headers)
        self.open += 1
        self.most_open[url] = max(self.most_open.get(url, 0), self.open)
        try:
            delay = self.delay.get(url, 0.01)
            await asyncio.sleep(min(delay, timeout))
            if delay > timeout:
                raise RequestTimedOut(f"{url}: no answer within {timeout:g} s")
            answer = self.answer.get(url, Response(200, [], _text(len(self.asked))))
            if isinstance(answer, Exception):
                raise answer
            return answer
        finally:
            self.open -= 1

    def times(self, url: str) -> list[float]:
        return [at for at, asked in self.asked if asked == url]


class _Bench:
    """A scraper over a fake pool, and what it reported."""

    def __init__(self, interval_s: float = 1.0) -> None:
        self.pool = FakePool()
        self.samples: list[tuple[str, Sample]] = []
        self.misses: list[tuple[str, Miss]] = []
        self.scraper = Scraper(
            self.pool,
            interval_s=interval_s,
            on_sample=lambda worker, sample: self.samples.append((worker, sample)),
            on_miss=lambda worker, miss: self.misses.append((worker, miss)),
            clock=asyncio.get_running_loop().time,
        )


def test_each_worker_is_asked_once_an_interval_in_its_own_phase() -> None:
    async def test() -> None:
        bench = _Bench()
        for n in range(8):
            bench.scraper.add(f"w{n}", f"http://127.0.0.1:{n}/")
        await asyncio.sleep(10.0)
        await bench.scraper.close()
        phases = set()
        for n in range(8):
            times = bench.pool.times(f"http://127.0.0.1:{n}/metrics")
            assert len(times) == 10
            gaps = [b - a for a, b in pairwise(times)]
            assert gaps == pytest.approx([1.0] * 9)
            phases.add(round(times[0] % 1.0, 3))
        assert len(phases) == 8
        assert len(bench.samples) == 80
        assert not bench.misses
        assert ("Accept-Encoding", "identity") in bench.pool.headers

    _run(test)


def test_a_hung_worker_slows_nobody_and_is_missed_each_time() -> None:
    async def test() -> None:
        bench = _Bench()
        hung = "http://hung/metrics"
        bench.pool.delay[hung] = 3600.0
        bench.scraper.add("hung", "http://hung")
        bench.scraper.add("fine", "http://fine")
        await asyncio.sleep(20.0)
        await bench.scraper.close()
        assert len([worker for worker, _ in bench.samples if worker == "fine"]) == 20
        assert len(bench.misses) in (19, 20)
        assert bench.misses[0][1].reason == "http://hung/metrics: no answer within 0.8 s"
        assert all(worker == "hung" for worker, _ in bench.misses)

    _run(test)


def test_a_scrape_that_is_due_while_another_runs_is_dropped() -> None:
    async def test() -> None:
        bench = _Bench()
        slow = "http://slow/metrics"
        bench.scraper.add("slow", "http://slow")
        bench.scraper.set_interval("slow", 10.0)
        bench.pool.delay[slow] = 7.5
        await bench.pool.first_asked.wait()
        bench.scraper.set_interval("slow", 1.0)
        await asyncio.sleep(7.6)
        assert len(bench.samples) == 1
        bench.pool.delay[slow] = 0.01
        await asyncio.sleep(3.0)
        await bench.scraper.close()
        assert bench.pool.most_open[slow] == 1
        assert len(bench.pool.asked) == 4

    _run(test)


def test_a_shorter_interval_holds_at_once() -> None:
    async def test() -> None:
        bench = _Bench(interval_s=500.0)
        bench.scraper.add("w", "http://w")
        await asyncio.sleep(1.0)
        before = len(bench.pool.asked)
        bench.scraper.set_interval("w", 1.0)
        bench.scraper.set_interval("nobody", 1.0)
        await asyncio.sleep(5.0)
        await bench.scraper.close()
        assert len(bench.pool.asked) - before == 5

    _run(test)


def test_changing_intervals_never_ask_twice_in_a_row() -> None:
    async def test() -> None:
        bench = _Bench()
        bench.scraper.add("w", "http://w")
        for n in range(200):
            bench.scraper.set_interval("w", (1.0, 1.3, 1.7)[n % 3])
            await asyncio.sleep(0.37)
        await bench.scraper.close()
        times = bench.pool.times("http://w/metrics")
        assert len(times) > 40
        assert min(b - a for a, b in pairwise(times)) >= 0.5

    _run(test)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Response(500, [], b"oops"), "HTTP 500"),
        (Response(200, [], b"<html>login</html>"), "not Prometheus text: '<html>login</html>'"),
        (Response(200, [], b""), "empty answer"),
        (ConnectFailed("GET http://w/metrics: refused"), "GET http://w/metrics: refused"),
    ],
)
def test_what_is_no_sample_is_a_miss_with_a_reason(
    answer: Response | Exception, reason: str
) -> None:
    async def test() -> None:
        bench = _Bench()
        bench.pool.answer["http://w/metrics"] = answer
        bench.scraper.add("w", "http://w")
        await asyncio.sleep(2.0)
        del bench.pool.answer["http://w/metrics"]
        await asyncio.sleep(2.0)
        await bench.scraper.close()
        assert [miss.reason for _, miss in bench.misses] == [reason, reason]
        assert len(bench.samples) == 2

    _run(test)


def test_nothing_is_reported_of_a_worker_that_was_removed() -> None:
    async def test() -> None:
        bench = _Bench()
        bench.pool.delay["http://w/metrics"] = 0.5
        bench.scraper.add("w", "http://w")
        await bench.pool.first_asked.wait()
        bench.scraper.remove("w")
        bench.scraper.remove("w")
        await asyncio.sleep(5.0)
        assert bench.samples == []
        assert bench.misses == []
        assert bench.pool.open == 0
        await bench.scraper.close()

    _run(test)


def test_a_worker_added_again_is_asked_at_its_new_url_alone() -> None:
    async def test() -> None:
        bench = _Bench()
        bench.scraper.add("w", "http://old")
        bench.scraper.add("w", "http://new")
        await asyncio.sleep(3.0)
        await bench.scraper.close()
        assert {url for _, url in bench.pool.asked} == {"http://new/metrics"}

    _run(test)


def test_a_receiver_that_fails_does_not_end_the_scraping(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        pool = FakePool()
        seen = []

        def receive(worker: str, sample: Sample) -> None:
            seen.append(sample)
            if len(seen) == 1:
                raise ZeroDivisionError

        scraper = Scraper(pool, on_sample=receive, on_miss=lambda *_: None)
        scraper.add("w", "http://w")
        await asyncio.sleep(3.0)
        await scraper.close()
        assert len(seen) == 3

    _run(test)
    assert "a scrape of w could not be reported" in caplog.text


def test_a_sample_comes_over_a_real_socket() -> None:
    async def test() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"GET /metrics HTTP/1.1\r\n")
            assert b"\r\naccept-encoding: identity\r\n" in head.lower()
            body = _text(42)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        arrived: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()

        def receive(worker: str, sample: Sample) -> None:
            if not arrived.done():
                arrived.set_result(sample)

        pool = Pool()
        scraper = Scraper(pool, interval_s=0.2, on_sample=receive, on_miss=lambda *_: None)
        scraper.add("w", f"http://127.0.0.1:{port}")
        sample = await asyncio.wait_for(arrived, 10.0)
        assert sample.counters == {"generation_tokens": 42}
        await scraper.close()
        await pool.close()
        server.close()
        await server.wait_closed()

    asyncio.run(test())
