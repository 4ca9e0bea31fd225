"""Workers that fail and clients that go away: who is told what, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.gateway.endpoint import Endpoint, chat, model_of, request, run, until
from tests.gateway.fake_worker import FakeWorker
from vllm_console.gateway import body, exchange
from vllm_console.gateway.tokens import Tally


@pytest.mark.parametrize("knobs", [{"die_after": -1}, {"status": 502}, {"status": 503}])
def test_another_worker_is_tried_before_the_first_byte(knobs: dict[str, int]) -> None:
    async def main() -> None:
        bad, good = await FakeWorker(**knobs).start(), await FakeWorker().start()
        async with Endpoint(model_of(bad, good)) as endpoint:
            for stream in (False, True):
                for session in range(8):
                    headers = {"x-session-id": str(session)}
                    answer = await endpoint.ask(chat(stream=stream), headers=headers)
                    assert answer.status == 200
                    assert answer.headers["x-worker"] == str(good.port)
            assert len(good.seen) == 16
            assert bad.seen
            retried = [record for record in endpoint.records if record.retries]
            assert len(retried) == len(bad.seen)
            assert all(record.worker == "small-2" for record in endpoint.records)
            assert endpoint.settled

    run(main())


def test_a_worker_that_cannot_be_reached_costs_no_request() -> None:
    async def main() -> None:
        gone, good = await FakeWorker().start(), await FakeWorker().start()
        await gone.stop()
        async with Endpoint(model_of(gone, good)) as endpoint:
            answers = [
                await endpoint.ask(chat(), headers={"x-session-id": str(n)}) for n in range(20)
            ]
            assert [answer.status for answer in answers] == [200] * 20
            assert 1 <= sum(record.retries for record in endpoint.records) <= 3
            slot = endpoint.gateway.models["small"].balance.slots["small-1"]
            assert slot.ejected

    run(main())


def test_at_most_two_other_workers_are_tried() -> None:
    async def main() -> None:
        workers = [await FakeWorker(die_after=-1).start() for _ in range(5)]
        async with Endpoint(model_of(*workers)) as endpoint:
            answer = await endpoint.ask(chat())
            assert answer.status == 503
            assert answer.error["code"] == "worker_lost"
            assert int(answer.headers["retry-after"]) >= 1
            assert sum(len(worker.seen) for worker in workers) == 3
            assert endpoint.records[0].retries == 2
            assert endpoint.settled

    run(main())


@pytest.mark.parametrize("status", [502, 503])
def test_the_answer_of_the_only_worker_is_passed_on_whatever_it_is(status: int) -> None:
    async def main() -> None:
        worker = await FakeWorker(status=status).start()
        async with Endpoint(model_of(worker)) as endpoint:
            answer = await endpoint.ask(chat())
            assert (answer.status, answer.error) == (status, {"message": "xxxx"})
            assert len(worker.seen) == 1

    run(main())


def test_a_kept_connection_that_the_worker_has_closed_is_replaced_unseen() -> None:
    async def main() -> None:
        worker = await FakeWorker().start()
        async with Endpoint(model_of(worker)) as endpoint:
            client = await endpoint.connect()
            assert (await client.ask(chat())).status == 200
            await client.send(request(chat(fake={"die_after": -1})))
            answer = await client.answer()
            assert answer.status == 503  # the kept connection, then a fresh one: both died
            assert len(worker.seen) == 3
            assert (await client.ask(chat())).status == 200
            port = worker.port
            await worker.stop()
            again = FakeWorker()
            again.port = port
            await again.start()
            assert (await client.ask(chat())).status == 200
            assert endpoint.records[-1].retries == 0
            await again.stop()

    run(main())


def test_a_stream_whose_worker_dies_ends_with_an_error_event_and_without_done() -> None:
    async def main() -> None:
        bad, good = await FakeWorker(die_after=2).start(), await FakeWorker().start()
        async with Endpoint(model_of(bad), model_of(good, name="other")) as endpoint:
            client = await endpoint.connect()
            answer = await client.ask(chat(stream=True))
            assert answer.whole
            assert len(answer.events) == 3
            assert '"worker_died"' in answer.events[-1]
            assert (await client.ask(chat("other"))).status == 200
            record = endpoint.records[0]
            assert (record.status, record.error) == (200, "worker_died")
            assert endpoint.settled

    run(main())


def test_half_of_an_event_is_never_passed_on_before_an_error() -> None:
    async def main() -> None:
        half = 'data: {"choices": [{"del'
        whole = 'data: {"n": 1}\n\n'
        text = f"{len(whole + half):x}\r\n{whole}{half}\r\n"
        head = (
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
        )
        worker = await FakeWorker(raw=f"{head}\r\n{text}").start()
        async with Endpoint(model_of(worker)) as endpoint:
            answer = await endpoint.ask(chat(stream=True))
            assert answer.whole
            assert answer.events[0] == '{"n": 1}'
            assert len(answer.events) == 2
            assert '"worker_died"' in answer.events[1]

    run(main())


def test_an_answer_in_one_piece_that_breaks_off_is_cut_off_for_the_client_too() -> None:
    async def main() -> None:
        worker = await FakeWorker(die_after=0, size=100_000).start()
        async with Endpoint(model_of(worker)) as endpoint:
            answer = await endpoint.ask(chat())
            assert not answer.whole
            await until(lambda: endpoint.records)
            assert endpoint.records[0].error == "worker_died"
            assert endpoint.settled

    run(main())


@pytest.mark.parametrize(
    "raw",
    [
        "SSH-2.0-OpenSSH_9.6\r\n",
        "HTTP/1.1 200 OK\r\nx: " + "y" * 300_000,
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nxx",
    ],
)
def test_a_worker_that_does_not_speak_http_is_like_one_that_is_gone(raw: str) -> None:
    async def main() -> None:
        worker = await FakeWorker(raw=raw).start()
        async with Endpoint(model_of(worker)) as endpoint:
            answer = await endpoint.ask(chat())
            assert answer.status == 503
            assert answer.error["code"] == "worker_lost"
            assert endpoint.settled

    run(main())


def test_a_fault_of_our_own_costs_one_request_and_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> bytes:
        raise ZeroDivisionError

    async def main() -> None:
        worker = await FakeWorker().start()
        async with Endpoint(model_of(worker)) as endpoint:
            with monkeypatch.context() as patched:
                patched.setattr(body, "written", broken)
                answer = await endpoint.ask(chat())
                assert (answer.status, answer.headers["connection"]) == (500, "close")
            with monkeypatch.context() as patched:
                patched.setattr(Tally, "feed", broken)
                answer = await endpoint.ask(chat(stream=True))
                assert answer.events[-1] == "[DONE]"
            assert [record.status for record in endpoint.records] == [500, 200]
            assert endpoint.settled
            assert len(endpoint.bugs.told) == 2
            assert all("ZeroDivisionError" in text for text in endpoint.bugs.told)
            endpoint.bugs.told.clear()

    run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_ends_its_request_at_the_worker(stream: bool) -> None:
    async def main() -> None:
        worker = await FakeWorker(hold=True).start()
        async with Endpoint(model_of(worker)) as endpoint:
            client = await endpoint.connect()
            await client.send(request(chat(stream=stream)))
            await until(lambda: worker.running)
            client.hang_up()
            await until(lambda: worker.hung_up)
            [record] = endpoint.records
            assert (record.status, record.error) == (499, "client_gone")
            assert endpoint.settled

    run(main())


def test_an_answer_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        worker = await FakeWorker(hold=True).start()
        model = model_of(worker, limits={"request_s": 0.1})
        async with Endpoint(model) as endpoint:
            answer = await endpoint.ask(chat())
            assert answer.status == 504
            answer = await endpoint.ask(chat(stream=True))
            assert answer.status == 200
            assert '"timeout"' in answer.events[-1]
            await until(lambda: worker.hung_up == 2)
            assert [record.error for record in endpoint.records] == ["timeout", "timeout"]
            assert endpoint.settled

    run(main())


@pytest.mark.parametrize("seed", range(3))
def test_a_request_is_counted_once_whatever_happens_to_it(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """400 requests: clients leave at any moment, workers fail in every way and restart."""
    monkeypatch.setattr(exchange, "QUIET_S", 0.01)
    monkeypatch.setattr(exchange, "COMMENT_S", 0.01)
    dice = random.Random(seed)

    async def one(endpoint: Endpoint, left: list[int]) -> None:
        while left:
            left.pop()
            client = await endpoint.connect()
            fake = dice.choice([
                {}, {}, {"slow": 0.002}, {"die_after": -1}, {"die_after": 0}, {"die_after": 2},
                {"status": 503}, {"status": 400}, {"size": 50_000, "chunks": 40},
            ])  # fmt: skip
            model = dice.choice(["small", "small", "small", "other", "cold", "none"])
            asked = chat(model, stream=dice.random() < 0.6, fake=fake)
            data = request(asked, headers={"x-priority": dice.choice(["high", "normal", "low"])})
            leaves = dice.random()
            if leaves < 0.1:
                await client.send(data[: dice.randrange(len(data))])
                client.hang_up()
            elif leaves < 0.4 or model == "cold":
                await client.send(data)
                await asyncio.sleep(dice.random() * 0.02)
                client.hang_up()
            else:
                await client.ask(asked)
                client.hang_up()

    async def main() -> None:
        workers = [await FakeWorker().start() for _ in range(3)]
        models = (
            model_of(*workers[:2], slots=2),
            model_of(workers[2], name="other", slots=1),
            model_of(name="cold"),
        )
        async with Endpoint(*models) as endpoint:
            left = list(range(400))
            clients = [asyncio.ensure_future(one(endpoint, left)) for _ in range(16)]
            while left:
                await asyncio.sleep(0.05)
                victim = dice.choice(workers)
                await victim.stop()
                await victim.start()
            await asyncio.gather(*clients)
            await until(lambda: endpoint.settled)
            ids = [record.id for record in endpoint.records]
            assert len(ids) == len(set(ids))
            assert len(ids) == endpoint.gateway.measures.requests
            assert 300 < len(ids) <= 400
            assert {200, 499} <= {record.status for record in endpoint.records}
            await until(lambda: not any(worker.running for worker in workers))

    run(main())
