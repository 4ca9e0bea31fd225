"""What an engine is told so that it sleeps or wakes, and how a failure of that is worded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from vllm_console import http1
from vllm_console.workers import sleeping
from vllm_console.workers.sleeping import NotDone, fall_asleep, is_asleep, wake_up


class FakeEngine:
    """A fake engine's HTTP server: notes what it is told, answers as it is set up to."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.asleep = False
        self.answers: dict[str, tuple[int, bytes]] = {}
        """What it says to a path instead of doing it."""
        self.busy = False
        """Requests run that never finish: who waits for them is answered after an abort."""
        self.deaf = False
        """It reads a request, and that is all."""
        self._idle = asyncio.Event()
        self._never = asyncio.Event()
        """Kept here: of a task whose event nobody holds the collector makes an error."""
        self.url = ""

    async def open(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                length = 0
                while (head := await reader.readline()) not in (b"\r\n", b""):
                    name, _, value = head.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                body = await reader.readexactly(length)
                status, said = await self._answer(line.split()[1].decode(), body)
                writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(said)))
                writer.write(said)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, target: str, body: bytes) -> tuple[int, bytes]:
        path = target.partition("?")[0]
        if path != "/is_sleeping":
            self.told.append(f"{target} {body.decode()}".strip())
        if self.deaf:
            await self._never.wait()
        if path in self.answers:
            return self.answers[path]
        if path == "/is_sleeping":
            return 200, json.dumps({"is_sleeping": self.asleep}).encode()
        if path == "/sleep":
            if "mode=abort" in target:
                self._idle.set()
            if self.busy:
                await self._idle.wait()
            self.asleep = True
        elif target in ("/wake_up", "/wake_up?tags=kv_cache"):
            self.asleep = False
        return 200, b"{}"


Scenario = Callable[[FakeEngine, http1.Pool], Awaitable[None]]


def play(scenario: Scenario) -> None:
    async def played() -> None:
        engine, pool = FakeEngine(), http1.Pool()
        server = await engine.open()
        try:
            await asyncio.wait_for(scenario(engine, pool), 20)
        finally:
            await pool.close()
            server.close()

    asyncio.run(played())


@pytest.mark.parametrize("level", sleeping.LEVELS)
def test_it_is_told_to_sleep_once_requests_are_finished(level: int) -> None:
    async def scenario(engine: FakeEngine, pool: http1.Pool) -> None:
        await fall_asleep(pool, engine.url, level, 5.0)
        assert engine.told == [f"/sleep?level={level}&mode=wait"]
        assert await is_asleep(pool, engine.url) is True

    play(scenario)


def test_what_does_not_finish_in_time_is_broken_off() -> None:
    async def scenario(engine: FakeEngine, pool: http1.Pool) -> None:
        engine.busy = True
        await fall_asleep(pool, engine.url, 1, 0.05)
        assert engine.told == ["/sleep?level=1&mode=wait", "/sleep?level=1&mode=abort"]
        assert engine.asleep

    play(scenario)


def test_weights_in_host_memory_are_fetched_in_one_step_and_others_loaded_between_two() -> None:
    async def scenario(engine: FakeEngine, pool: http1.Pool) -> None:
        await wake_up(pool, engine.url, 1, 5.0)
        assert engine.told == ["/wake_up"]
        engine.told.clear()
        await wake_up(pool, engine.url, 2, 5.0)
        assert engine.told == [
            "/wake_up?tags=weights",
            '/collective_rpc {"method": "reload_weights"}',
            "/wake_up?tags=kv_cache",
        ]

    play(scenario)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "no\\n  sleep  mode"}}', "no sleep mode"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"detail": [{"msg": "bad level"}]}', "[{'msg': 'bad level'}]"),
        (b"<h1>Internal\nServer Error</h1>", "<h1>Internal Server Error</h1>"),
        (b"[1]", "[1]"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"", "nothing more"),
        (b"x" * 5000, "x" * 200),
    ],
)
def test_what_an_engine_says_to_it_is_one_short_line(body: bytes, words: str) -> None:
    async def scenario(engine: FakeEngine, pool: http1.Pool) -> None:
        engine.answers["/sleep"] = (500, body)
        with pytest.raises(NotDone) as failed:
            await fall_asleep(pool, engine.url, 1, 5.0)
        assert str(failed.value) == f"/sleep says HTTP 500: {words}"

    play(scenario)


@pytest.mark.parametrize(
    ("level", "path", "told"),
    [(1, "/wake_up", 1), (2, "/wake_up", 1), (2, "/collective_rpc", 2)],
)
def test_a_step_of_waking_that_fails_is_the_last(level: int, path: str, told: int) -> None:
    async def scenario(engine: FakeEngine, pool: http1.Pool) -> None:
        engine.asleep = True
        engine.answers[path] = (500, b"no")
        with pytest.raises(NotDone, match=f"^{path} says HTTP 500: no$"):
            await wake_up(pool, engine.url, level, 5.0)
        assert len(engine.told) == told
        assert engine.asleep

    play(scenario)


def test_an_engine_that_says_otherwise_afterwards_is_not_believed() -> None:
    async def scenario(engine: FakeEngine, pool: http1.Pool) -> None:
        engine.answers["/sleep"] = engine.answers["/wake_up"] = (200, b"{}")
        with pytest.raises(NotDone, match="says that it is awake after /sleep"):
            await fall_asleep(pool, engine.url, 1, 5.0)
        engine.asleep = True
        with pytest.raises(NotDone, match="does not say that it is awake after /wake_up"):
            await wake_up(pool, engine.url, 1, 5.0)

    play(scenario)


@pytest.mark.parametrize("level", sleeping.LEVELS)
def test_one_that_failed_to_sleep_is_told_to_serve_on_with_its_weights(level: int) -> None:
    async def scenario(engine: FakeEngine, pool: http1.Pool) -> None:
        engine.asleep = True  # it holds requests back since it was told
        engine.answers["/sleep"] = (500, b"no")
        with pytest.raises(NotDone):
            await fall_asleep(pool, engine.url, level, 5.0)
        assert not engine.asleep
        assert len(engine.told) == (2 if level == 1 else 4)

    play(scenario)


def test_one_that_failed_to_sleep_and_does_not_serve_either_counts_as_asleep() -> None:
    async def scenario(engine: FakeEngine, pool: http1.Pool) -> None:
        engine.asleep = True
        engine.answers["/sleep"] = engine.answers["/wake_up"] = (500, b"no")
        await fall_asleep(pool, engine.url, 1, 5.0)

    play(scenario)


def test_one_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sleeping, "ABORT_S", 0.5)
    monkeypatch.setattr(sleeping, "_LOOK_TIMEOUT_S", 0.5)

    async def scenario(engine: FakeEngine, pool: http1.Pool) -> None:
        engine.deaf = True
        with pytest.raises(NotDone, match=rf"^POST {engine.url}/sleep: no response within 0\.5 s$"):
            await fall_asleep(pool, engine.url, 1, 0.5)
        assert engine.told[1] == "/sleep?level=1&mode=abort"
        with pytest.raises(NotDone, match=r"/wake_up: no response within 0\.5 s$"):
            await wake_up(pool, engine.url, 1, 0.5)
        assert await is_asleep(pool, engine.url) is None

    play(scenario)


@pytest.mark.parametrize(
    "answer",
    [(404, b'{"detail": "Not Found"}'), (200, b"<html>"), (200, b"[true]"),
     (200, b'{"is_sleeping": "no"}'), (200, b"{}"), (500, b'{"is_sleeping": true}')],
)  # fmt: skip
def test_who_says_nothing_of_it_is_neither_asleep_nor_awake(answer: tuple[int, bytes]) -> None:
    async def scenario(engine: FakeEngine, pool: http1.Pool) -> None:
        engine.answers["/is_sleeping"] = answer
        assert await is_asleep(pool, engine.url) is None

    play(scenario)


def test_who_is_not_there_is_neither_asleep_nor_awake() -> None:
    async def scenario(engine: FakeEngine, pool: http1.Pool) -> None:
        nobody = "http://127.0.0.1:1"
        assert await is_asleep(pool, nobody) is None
        with pytest.raises(NotDone, match=f"^POST {nobody}/wake_up: "):
            await wake_up(pool, nobody, 1, 5.0)

    play(scenario)
