"""Requests that wait: for a place, for a model that is being loaded; and what they are told."""

from __future__ import annotations

import pytest

from tests.gateway.endpoint import Endpoint, chat, model_of, request, run, until
from tests.gateway.fake_worker import FakeWorker
from vllm_console.gateway import exchange


def test_a_request_beyond_the_slots_waits_and_follows_when_one_is_free() -> None:
    async def main() -> None:
        worker = await FakeWorker(hold=True).start()
        async with Endpoint(model_of(worker, slots=1)) as endpoint:
            queue = endpoint.gateway.models["small"].queue
            first, second = await endpoint.connect(), await endpoint.connect()
            await first.send(request(chat(tag=1)))
            await until(lambda: worker.running)
            await second.send(request(chat(tag=2)))
            await until(lambda: queue.waiting == (0, 1, 0))
            assert len(worker.seen) == 1
            worker.release.set()
            assert (await first.answer()).status == 200
            assert (await second.answer()).status == 200
            assert [seen.json["tag"] for seen in worker.seen] == [1, 2]
            assert endpoint.records[0].queue_s == 0.0
            assert (endpoint.records[1].queue_s or 0) > 0
            assert endpoint.settled

    run(main())


def test_the_class_of_a_request_decides_who_is_next() -> None:
    async def main() -> None:
        worker = await FakeWorker(hold=True).start()
        async with Endpoint(model_of(worker, slots=1)) as endpoint:
            queue = endpoint.gateway.models["small"].queue
            clients = [await endpoint.connect() for _ in range(5)]
            asked = [
                (clients[0], chat(tag="running"), "normal"),
                (clients[1], chat(tag="low"), "low"),
                (clients[2], chat(tag="normal"), ""),
                (clients[3], chat(tag="by body", priority=-3), ""),
                (clients[4], chat(tag="high"), "HIGH"),
            ]
            arrived: list[int] = []
            for number, (client, body, cls) in enumerate(asked):
                await client.send(request(body, headers={"x-priority": cls}))
                await until(lambda: endpoint.gateway.in_requests > len(arrived))
                arrived.append(number)
            await until(lambda: queue.waiting == (2, 1, 1))
            worker.release.set()
            for client in clients:
                assert (await client.answer()).status == 200
            order = [seen.json["tag"] for seen in worker.seen]
            assert order == ["running", "by body", "high", "normal", "low"]
            assert (await endpoint.ask(chat(), headers={"x-priority": "urgent"})).status == 400

    run(main())


@pytest.mark.parametrize(
    ("limits", "code"),
    [({"queue": 0}, "queue_full"), ({"queue_bytes": 10}, "queue_full"),
     ({"queue_s": 0.05}, "queue_timeout")],
)  # fmt: skip
def test_who_cannot_wait_is_told_when_to_come_again(limits: dict[str, float], code: str) -> None:
    async def main() -> None:
        worker = await FakeWorker(hold=True).start()
        async with Endpoint(model_of(worker, slots=1, limits=limits)) as endpoint:
            first = await endpoint.connect()
            await first.send(request(chat()))
            await until(lambda: worker.running)
            answer = await endpoint.ask(chat())
            assert (answer.status, answer.error["code"]) == (503, code)
            assert int(answer.headers["retry-after"]) >= 1
            worker.release.set()
            assert (await first.answer()).status == 200
            assert [record.status for record in endpoint.records] == [503, 200]
            assert endpoint.settled

    run(main())


def test_a_client_that_leaves_the_queue_leaves_nothing_behind() -> None:
    async def main() -> None:
        worker = await FakeWorker(hold=True).start()
        async with Endpoint(model_of(worker, slots=1)) as endpoint:
            queue = endpoint.gateway.models["small"].queue
            first, second = await endpoint.connect(), await endpoint.connect()
            await first.send(request(chat()))
            await until(lambda: worker.running)
            await second.send(request(chat()))
            await until(lambda: queue.waiting == (0, 1, 0))
            second.hang_up()
            await until(lambda: queue.waiting == (0, 0, 0))
            assert [record.status for record in endpoint.records] == [499]
            worker.release.set()
            assert (await first.answer()).status == 200
            assert len(worker.seen) == 1
            assert endpoint.settled

    run(main())


def test_a_cold_model_is_asked_for_once_and_who_waits_is_served_when_it_is_there() -> None:
    async def main() -> None:
        worker = await FakeWorker().start()
        async with Endpoint(model_of()) as endpoint:
            queue = endpoint.gateway.models["small"].queue
            clients = [await endpoint.connect() for _ in range(3)]
            for client in clients:
                await client.send(request(chat()))
            await until(lambda: queue.waiting == (0, 3, 0))
            assert endpoint.wanted == ["small"]
            endpoint.configure(model_of(worker))
            for client in clients:
                assert (await client.answer()).status == 200
            endpoint.configure(model_of())
            await clients[0].send(request(chat()))
            await until(lambda: endpoint.wanted == ["small", "small"])

    run(main())


def test_a_streaming_client_of_a_cold_model_is_kept_by_comments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exchange, "QUIET_S", 0.05)
    monkeypatch.setattr(exchange, "COMMENT_S", 0.05)

    async def main() -> None:
        worker = await FakeWorker().start()
        async with Endpoint(model_of()) as endpoint:
            streaming, plain = await endpoint.connect(), await endpoint.connect()
            await plain.send(request(chat()))
            await streaming.send(request(chat(stream=True)))
            status, headers = await streaming.head()
            assert status == 200
            assert headers["content-type"].startswith("text/event-stream")
            assert headers["x-request-id"]
            for _ in range(3):
                assert await streaming.chunk() == b": loading small\n\n"
            endpoint.configure(model_of(ready_in_s=20.0))
            said = {await streaming.chunk() for _ in range(3)}
            assert b": loading small, about 20 s left\n\n" in said
            endpoint.configure(model_of(worker))
            body = b""
            while piece := await streaming.chunk():
                body += piece
            assert body.count(b"HTTP/1.1") == 0
            assert body.endswith(b"data: [DONE]\n\n")
            assert (await plain.answer()).status == 200
            assert {record.error for record in endpoint.records} == {None}

    run(main())


@pytest.mark.parametrize(
    ("path", "named"), [("/v1/chat/completions", b""), ("/v1/messages", b"event: error\n")]
)
def test_a_refusal_after_the_first_comment_is_an_event(
    monkeypatch: pytest.MonkeyPatch, path: str, named: bytes
) -> None:
    monkeypatch.setattr(exchange, "QUIET_S", 0.05)

    async def main() -> None:
        worker = await FakeWorker(status=400).start()
        async with Endpoint(model_of(limits={"cold_s": 0.2})) as endpoint:
            client = await endpoint.connect()
            answer = await client.ask(chat(stream=True))
            assert answer.status == 200
            assert '"model_not_ready"' in answer.events[-1]
            assert endpoint.records[0].status == 503
            endpoint.configure(model_of())
            await client.send(request(chat(stream=True), path=path))
            await client.head()
            endpoint.configure(model_of(worker))
            body = b""
            while piece := await client.chunk():
                body += piece
            event = body.split(b"\n\n")[-2]
            assert event == named + b'data: {"error": {"message": "xxxx"}}'
            assert (endpoint.records[1].status, endpoint.records[1].error) == (400, "worker_error")
            assert endpoint.settled

    run(main())


def test_a_model_that_will_not_come_is_refused_at_once_with_its_reason() -> None:
    async def main() -> None:
        failed = model_of(name="broken", state="failed", reason="out of memory")
        manual = model_of(name="manual", on_demand=False)
        async with Endpoint(failed, manual, model_of()) as endpoint:
            answer = await endpoint.ask(chat("broken"))
            assert answer.status == 503
            assert "out of memory" in answer.error["message"]
            assert answer.headers["retry-after"]
            assert (await endpoint.ask(chat("manual"))).status == 503
            assert endpoint.wanted == []
            client = await endpoint.connect()
            await client.send(request(chat()))
            await until(lambda: endpoint.wanted)
            endpoint.configure(model_of(state="crash-loop"))
            assert (await client.answer()).status == 503
            await client.send(request(chat()))
            endpoint.configure()
            assert (await client.answer()).status in (404, 503)
            assert endpoint.settled

    run(main())


def test_a_worker_that_drains_finishes_what_it_has_and_gets_nothing_new() -> None:
    async def main() -> None:
        old, new = await FakeWorker(hold=True).start(), await FakeWorker().start()
        async with Endpoint(model_of(old)) as endpoint:
            client = await endpoint.connect()
            await client.send(request(chat(stream=True)))
            await until(lambda: old.running)
            endpoint.configure(model_of(FakeWorker(), new))
            assert endpoint.gateway.in_flight("small-1") == 1
            assert (await endpoint.ask(chat())).headers["x-worker"] == str(new.port)
            old.release.set()
            assert (await client.answer()).events[-1] == "[DONE]"
            assert endpoint.gateway.in_flight("small-1") == 0
            assert endpoint.settled

    run(main())
