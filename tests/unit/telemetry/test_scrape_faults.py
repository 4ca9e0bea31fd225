"""What a faulty worker does to its own numbers, over real sockets: a reason, a gap, nobody else."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.telemetry import fake_worker
from tests.unit.telemetry.fake_worker import Fault, body, until, watching
from vllm_console.telemetry.scrape import MAX_TEXT

_FAULTS: dict[str, tuple[Fault, str]] = {
    "hangs": (fake_worker.hang, "no response within 0.08 s"),
    "drips": (fake_worker.drip, "response not complete within 0.08 s"),
    "answers 500": (fake_worker.status("500 Internal Server Error"), "HTTP 500"),
    "answers 404": (fake_worker.status("404 Not Found"), "HTTP 404"),
    "redirects": (fake_worker.status("302 Found"), "HTTP 302"),
    "shows a page": (body(lambda _: b"<html>log in</html>"), "not Prometheus text: '<html>log in"),
    "says nothing": (body(lambda _: b""), "empty answer"),
    "says something else": (body(lambda _: b"up 1\n"), "no vLLM metric among 1 series"),
    "stops in a line": (body(lambda text: text[:-12]), "cut off: the last line has no end"),
    "hangs up": (fake_worker.hang_up, "closed the connection inside the response"),
    "speaks SMTP": (fake_worker.other_protocol, "not an HTTP/1.1 response"),
    "zips": (fake_worker.zipped, "not Prometheus text: compressed"),
    "says NaN": (body(lambda text: text.replace(b'running{engine="0"} 1.0',
                                                b'running{engine="0"} NaN')),
                 "vllm:num_requests_running is nan where a count or ratio is needed"),
    "says Inf": (body(lambda text: text.replace(b'running{engine="0"} 1.0',
                                                b'running{engine="0"} +Inf')),
                 "vllm:num_requests_running is inf where a count or ratio is needed"),
    "repeats itself": (body(lambda text: text + text), "repeats a series"),
    "talks too much": (body(lambda text: text + b"#" * MAX_TEXT + b"\n"), "bytes is not read"),
}  # fmt: skip


@pytest.mark.parametrize("name", _FAULTS)
def test_a_worker_that(name: str) -> None:
    fault, reason = _FAULTS[name]

    async def test() -> None:
        async with watching("bad", "good") as (watch, workers):
            workers["bad"].fault = fault

            def told() -> list[str]:
                return [miss.reason for miss in watch.misses("bad") if reason in miss.reason]

            await until(lambda: bool(told()))
            known, others = len(watch.samples("bad")), len(watch.samples("good"))
            await until(lambda: len(told()) >= 3)
            await until(lambda: len(watch.samples("good")) >= others + 3)
            assert len(watch.samples("bad")) == known
            assert all(len(miss.reason.splitlines()) == 1 for miss in watch.misses("bad"))
            workers["bad"].fault = None
            await until(lambda: len(watch.samples("bad")) > known)

    asyncio.run(test())


def test_a_worker_that_is_gone_is_refused_until_it_is_back() -> None:
    async def test() -> None:
        async with watching("bad", "good") as (watch, workers):
            await workers["bad"].stop()
            known = len(watch.samples("bad"))
            await until(lambda: any("connection refused" in m.reason for m in watch.misses("bad")))
            others = len(watch.samples("good"))
            await until(lambda: len(watch.samples("good")) >= others + 3)
            assert len(watch.samples("bad")) == known
            await workers["bad"].start()
            await until(lambda: len(watch.samples("bad")) > known)

    asyncio.run(test())


def test_counts_that_fall_are_one_gap_and_then_count_on() -> None:
    async def test() -> None:
        async with watching("w") as (watch, workers):
            workers["w"].engines["0"] = 5
            await until(lambda: bool(watch.faults("w")))
            known = len(watch.samples("w"))
            await until(lambda: len(watch.samples("w")) >= known + 2)
            assert watch.faults("w") == ["another process answers: its counts begin anew"]
            assert watch.samples("w")[-1].counters["generation_tokens"] < 100

    asyncio.run(test())


def test_another_start_time_is_another_process_even_where_every_count_grew() -> None:
    async def test() -> None:
        async with watching("w") as (watch, workers):
            workers["w"].started += 60
            workers["w"].engines["0"] += 1000
            await until(lambda: bool(watch.faults("w")))
            assert watch.faults("w")[0] == "another process answers: its counts begin anew"

    asyncio.run(test())


def test_an_engine_that_goes_is_a_gap_and_not_a_restart() -> None:
    async def test() -> None:
        async with watching("w") as (watch, workers):
            workers["w"].engines["1"] = 7
            await until(lambda: len(watch.faults("w")) == 1)
            await until(lambda: bool(watch.samples("w")[-1].engines))
            del workers["w"].engines["0"]
            await until(lambda: len(watch.faults("w")) == 2)
            assert watch.faults("w") == [
                "it has other engines than before: 2 after 1",
                "it has other engines than before: 1 after 2",
            ]

    asyncio.run(test())


def test_a_clock_that_goes_back_is_told_until_it_has_caught_up() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        back = 0.0
        async with watching("w", clock=lambda: loop.time() - back) as (watch, _):
            back = 1.0
            await until(lambda: len(watch.faults("w")) >= 2)
            assert all("the clock went back by" in reason for reason in watch.faults("w"))
            known = len(watch.samples("w"))
            await until(lambda: len(watch.samples("w")) > known)
            times = [sample.at for sample in watch.samples("w")]
            assert times == sorted(times)

    asyncio.run(test())


def test_a_clock_that_leaps_ahead_costs_nothing() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        ahead = 0.0
        async with watching("w", clock=lambda: loop.time() + ahead) as (watch, _):
            ahead = 3600.0
            known = len(watch.samples("w"))
            await until(lambda: len(watch.samples("w")) >= known + 2)
            assert not watch.faults("w")

    asyncio.run(test())
