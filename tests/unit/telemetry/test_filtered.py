"""Asking for our vocabulary alone, and what happens where a worker does not understand that."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.unit.telemetry import fake_worker
from tests.unit.telemetry.fake_worker import Fault, body, restricted, status, until, watching
from vllm_console.telemetry.filtered import filtered_path
from vllm_console.telemetry.parse import parse

_DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("name", ["idle", "loaded", "fine_buckets", "dp2", "generated"])
def test_a_filtered_text_says_all_that_the_whole_text_says(name: str) -> None:
    text = gzip.decompress((_DATA / f"{name}.txt.gz").read_bytes())
    path = filtered_path(text)
    assert path is not None
    assert path.startswith("/metrics/?name[]=")
    left = restricted(text, parse_qs(urlsplit(path).query)["name[]"])
    assert parse(left) == parse(text)
    assert len(left) < 0.8 * len(text)


def test_a_text_that_declares_nothing_of_ours_has_no_filter() -> None:
    assert filtered_path(b"# TYPE up gauge\nup 1\n") is None


def test_a_declared_family_is_asked_for_before_it_has_a_series() -> None:
    path = filtered_path(b"# TYPE vllm:lora_requests_info gauge\n")
    assert path == "/metrics/?name[]=vllm:lora_requests_info"


def test_after_one_whole_text_only_our_names_are_asked_for() -> None:
    async def test() -> None:
        async with watching("w") as (watch, workers):
            await until(lambda: len(watch.samples("w")) >= 4)
            first, *others = workers["w"].asked
            assert first == "/metrics"
            assert "?" in others[0]
            assert not watch.faults("w")

    asyncio.run(test())


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(body(lambda _: b""), id="empty, as of several API servers"),
        pytest.param(status("404 Not Found"), id="not found"),
        pytest.param(status("307 Temporary Redirect"), id="redirected"),
        pytest.param(body(lambda _: b"<html></html>"), id="a page"),
        pytest.param(
            body(lambda text: restricted(text, ["vllm:num_requests_running"])), id="a name is gone"
        ),
        pytest.param(fake_worker.other_protocol, id="not HTTP"),
    ],
)
def test_an_odd_answer_to_the_filter_is_made_up_for_at_once_and_remembered(fault: Fault) -> None:
    async def test() -> None:
        async with watching("w") as (watch, workers):
            worker = workers["w"]
            worker.filtered_fault = fault
            await until(lambda: any("?" in path for path in worker.asked))
            await until(lambda: worker.asked[-4:] == ["/metrics"] * 4)
            known = len(watch.samples("w"))
            await until(lambda: len(watch.samples("w")) > known)
            assert not watch.faults("w")

    asyncio.run(test())


def test_another_process_is_asked_for_our_names_again() -> None:
    async def test() -> None:
        async with watching("w") as (watch, workers):
            worker = workers["w"]
            worker.filtered_fault = body(lambda _: b"")
            await until(lambda: any("?" in path for path in worker.asked))
            await until(lambda: worker.asked[-3:] == ["/metrics"] * 3)
            worker.filtered_fault = None
            worker.started += 60
            await until(lambda: bool(watch.faults("w")))
            await until(lambda: "?" in worker.asked[-1])

    asyncio.run(test())


def test_a_fault_of_the_worker_is_not_blamed_on_the_filter() -> None:
    async def test() -> None:
        async with watching("w") as (watch, workers):
            worker = workers["w"]
            await until(lambda: len(watch.samples("w")) >= 3)
            for fault in (fake_worker.hang, status("500 Internal Server Error")):
                misses = len(watch.misses("w"))
                worker.fault = fault
                await until(lambda: len(watch.misses("w")) >= misses + 2)  # noqa: B023
                worker.fault = None
                known = len(watch.samples("w"))
                await until(lambda: len(watch.samples("w")) >= known + 2)  # noqa: B023
            await until(lambda: "?" in worker.asked[-1])

    asyncio.run(test())


def test_a_filter_that_never_was_answered_is_given_up() -> None:
    async def test() -> None:
        async with watching("w") as (watch, workers):
            worker = workers["w"]
            worker.filtered_fault = fake_worker.hang
            await until(lambda: worker.asked[-5:] == ["/metrics"] * 5)
            assert any("?" in path for path in worker.asked)
            known = len(watch.samples("w"))
            await until(lambda: len(watch.samples("w")) > known)

    asyncio.run(test())
