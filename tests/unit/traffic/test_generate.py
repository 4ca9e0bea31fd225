"""The generator against fake engines: what it sends, what it counts, what it never does."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import count, repeat
from typing import Any

import pytest

from tests.unit.traffic.fake_engine import FakeEngine, event, running
from vllm_console.http1 import Pool
from vllm_console.snapshot import from_json, to_json
from vllm_console.traffic.generate import Generator, Target
from vllm_console.traffic.lengths import Lengths
from vllm_console.traffic.summary import Summary

SHORT = Lengths(20, 5)
EVERY_10_MS = [n * 0.01 for n in range(20)]


@asynccontextmanager
async def pool_for_test() -> AsyncIterator[Pool]:
    pool = Pool()
    try:
        yield pool
    finally:
        await pool.close()


async def until(condition: Callable[[], bool], deadline_s: float = 5.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def generate(
    targets: list[Target],
    arrivals: Iterable[float] = EVERY_10_MS,
    lengths: Lengths = SHORT,
    **options: Any,
) -> Summary:
    async with pool_for_test() as pool:
        generator = Generator(pool, lambda: targets, arrivals, repeat(lengths), **options)
        await generator.run()
        return generator.summary()


def test_every_request_is_streamed_at_its_length_and_counted() -> None:
    async def main() -> tuple[FakeEngine, Summary]:
        async with running(FakeEngine()) as engine:
            return engine, await generate([Target("fake", engine.url)])

    engine, summary = asyncio.run(main())
    request = engine.requests[0]
    assert request["stream"] is True
    assert request["stream_options"] == {"include_usage": True}
    assert request["ignore_eos"] is True
    assert request["model"] == "fake"
    assert {r["max_tokens"] for r in engine.requests} == {5}
    (model,) = summary.models
    assert (model.sent, model.ok, model.errors) == (20, 20, {})
    assert model.output_tokens == 100
    assert model.prompt_tokens == sum(engine.prompt_tokens(r) for r in engine.requests)
    assert model.ttft_p50_s is not None
    assert model.e2e_p95_s is not None
    assert 0 < model.ttft_p50_s <= model.e2e_p95_s < 5
    assert summary.first_token_at is not None
    assert (summary.dropped, summary.unrouted, summary.in_flight, summary.failed) == (0, 0, 0, 0)


def test_targets_take_turns() -> None:
    async def main() -> Summary:
        async with running(FakeEngine("a")) as a, running(FakeEngine("b")) as b:
            return await generate([Target("a", a.url), Target("b", b.url)])

    assert [(m.model, m.ok) for m in asyncio.run(main()).models] == [("a", 10), ("b", 10)]


def test_arrivals_do_not_wait_for_answers() -> None:
    async def main() -> int:
        async with running(FakeEngine()) as engine, pool_for_test() as pool:
            engine.answering.clear()
            target = [Target("fake", engine.url)]
            generator = Generator(pool, lambda: target, EVERY_10_MS, repeat(Lengths(5, 5)))
            run = asyncio.create_task(generator.run())
            await until(lambda: len(engine.requests) == 20)
            held = generator.summary()
            engine.answering.set()
            await run
            assert generator.summary().models[0].ok == 20
            return held.in_flight

    assert asyncio.run(main()) == 20


def test_more_than_the_limit_in_flight_is_dropped_and_counted() -> None:
    async def main() -> Summary:
        async with running(FakeEngine()) as engine, pool_for_test() as pool:
            engine.answering.clear()
            target = [Target("fake", engine.url)]
            generator = Generator(
                pool, lambda: target, EVERY_10_MS, repeat(Lengths(5, 5)), max_in_flight=3
            )
            run = asyncio.create_task(generator.run())
            await until(lambda: generator.summary().dropped == 17)
            engine.answering.set()
            await run
            return generator.summary()

    summary = asyncio.run(main())
    assert (summary.models[0].ok, summary.dropped) == (3, 17)


def test_arrivals_without_a_target_are_counted_as_such() -> None:
    summary = asyncio.run(generate([]))
    assert (summary.unrouted, summary.dropped, summary.models) == (20, 0, ())


def test_prompts_grow_to_their_length_as_the_tokenizer_becomes_known() -> None:
    async def main() -> list[int]:
        async with running(FakeEngine(tokens_per_word=1.5)) as engine:
            await generate(
                [Target("fake", engine.url)],
                arrivals=[n * 0.02 for n in range(30)],
                lengths=Lengths(300, 1),
            )
            return [engine.prompt_tokens(request) for request in engine.requests]

    tokens = asyncio.run(main())
    assert tokens[0] <= 300
    assert tokens[-1] == pytest.approx(300, rel=0.1)


def test_no_request_is_longer_than_the_model_takes() -> None:
    async def main() -> list[int]:
        async with running(FakeEngine()) as engine:
            await generate([Target("fake", engine.url, 256)], lengths=Lengths(4808, 900))
            return [engine.prompt_tokens(r) + r["max_tokens"] for r in engine.requests]

    assert max(asyncio.run(main())) <= 256


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        ([], "incomplete"),
        ([b"data: [DONE]\n\n"], "incomplete"),
        ([event({"error": {"message": "engine died"}})], "in-stream"),
        ([event({"choices": [], "usage": {}}), b"data: [DONE]\n\n"], "bad-response"),
    ],
)
def test_an_answer_that_does_not_end_well_is_an_error(ending: list[bytes], kind: str) -> None:
    async def main() -> Summary:
        engine = FakeEngine()
        engine.ending = ending
        async with running(engine):
            return await generate([Target("fake", engine.url)])

    summary = asyncio.run(main())
    assert (summary.models[0].ok, summary.models[0].errors) == (0, {kind: 20})
    assert summary.output_tokens == 0
    assert summary.failed == 20


def test_a_refusal_is_counted_by_its_status() -> None:
    async def main() -> Summary:
        engine = FakeEngine()
        engine.status = 503
        async with running(engine):
            return await generate([Target("fake", engine.url)])

    assert asyncio.run(main()).models[0].errors == {"http-503": 20}


def test_nothing_listening_is_counted_as_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        summary = asyncio.run(generate([Target("fake", url)]))
    assert summary.models[0].errors == {"refused": 20}
    assert summary.first_token_at is None


def test_a_hung_engine_costs_timeouts() -> None:
    async def main() -> Summary:
        async with running(FakeEngine()) as engine:
            engine.answering.clear()
            return await generate([Target("fake", engine.url)], request_timeout=0.1)

    assert asyncio.run(main()).models[0].errors == {"timeout": 20}


def test_what_is_not_answered_within_the_drain_is_abandoned() -> None:
    async def main() -> Summary:
        async with running(FakeEngine()) as engine, pool_for_test() as pool:
            engine.answering.clear()
            target = [Target("fake", engine.url)]
            generator = Generator(pool, lambda: target, [0.0, 0.0], repeat(Lengths(5, 5)))
            await generator.run(drain_s=0.1)
            return generator.summary()

    summary = asyncio.run(main())
    assert summary.models[0].errors == {"abandoned": 2}
    assert summary.in_flight == 0


def test_stop_ends_endless_arrivals_after_the_answers_under_way() -> None:
    async def main() -> Summary:
        async with running(FakeEngine()) as engine, pool_for_test() as pool:
            target = [Target("fake", engine.url)]
            endless = (n * 0.001 for n in count())
            generator = Generator(pool, lambda: target, endless, repeat(Lengths(5, 5)))
            run = asyncio.create_task(generator.run())
            await until(lambda: len(engine.requests) > 5)
            generator.stop()
            await asyncio.wait_for(run, 5)
            return generator.summary()

    summary = asyncio.run(main())
    assert summary.models[0].ok == summary.models[0].sent > 5


class FakeClock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_run_ends_at_its_time_and_sends_what_was_due_before() -> None:
    async def main() -> tuple[float, Summary]:
        clock = FakeClock()
        async with pool_for_test() as pool:
            generator = Generator(
                pool,
                lambda: [],
                (n * 0.5 for n in count()),
                repeat(Lengths(5, 5)),
                clock=clock,
                sleep=clock.sleep,
            )
            await generator.run(seconds=60.25)
            return clock.now, generator.summary()

    now, summary = asyncio.run(main())
    assert now == pytest.approx(160.25)
    assert summary.seconds == pytest.approx(60.25)
    assert summary.unrouted == 121


def test_a_summary_survives_the_pipe() -> None:
    async def main() -> Summary:
        engine = FakeEngine()
        engine.status = 500
        async with running(engine):
            return await generate([Target("fake", engine.url)])

    summary = asyncio.run(main())
    assert from_json(Summary, json.loads(json.dumps(to_json(summary)))) == summary
