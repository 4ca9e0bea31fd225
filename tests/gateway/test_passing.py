"""A request that reaches a worker, and the worker's answer on its way back."""

from __future__ import annotations

import asyncio
import json
import random
from math import inf

import pytest

from tests.gateway.endpoint import CHAT, Endpoint, chat, model_of, request, run, until
from tests.gateway.fake_worker import FakeWorker
from vllm_console.gateway import reply


def test_a_request_reaches_the_worker_as_it_was_written_and_its_answer_comes_back() -> None:
    async def main() -> None:
        worker = await FakeWorker().start()
        async with Endpoint(model_of(worker)) as endpoint:
            body = b'{ "model":"small",  "messages":[{"role":"user","content":"h\xc3\xa9"}]}'
            answer = await endpoint.ask(body, path=CHAT + "?beta=true")
            assert answer.status == 200
            assert answer.json["choices"][0]["message"]["content"] == "xxxx"
            assert answer.headers["content-type"] == "application/json"
            assert int(answer.headers["content-length"]) == len(answer.body)
            assert "server" not in answer.headers
            [seen] = worker.seen
            assert seen.body == body
            assert seen.target == CHAT + "?beta=true"
            [record] = endpoint.records
            assert (record.status, record.model, record.worker) == (200, "small", "small-1")
            assert (record.prompt, record.generated, record.finish) == (7, 3, "stop")
            assert record.error is None
            assert record.gpu_s > 0
            assert record.bytes_out == len(answer.body)
            assert endpoint.settled

    run(main())


def test_headers_that_are_the_workers_business_go_on_and_no_others() -> None:
    async def main() -> None:
        worker = await FakeWorker().start()
        async with Endpoint(model_of(worker)) as endpoint:
            await endpoint.ask(
                chat(),
                headers={
                    "authorization": "Bearer EMPTY", "x-api-key": "EMPTY", "cookie": "a=b",
                    "x-priority": "low", "accept-encoding": "gzip", "connection": "x-mine, close",
                    "x-mine": "1", "te": "trailers", "user-agent": "me", "accept": "*/*",
                    "traceparent": "00-1", "tracestate": "k=v", "keep-alive": "5",
                },
            )  # fmt: skip
            [seen] = worker.seen
            assert seen.headers.keys() == {
                "host", "content-type", "content-length", "user-agent", "accept", "traceparent",
                "tracestate", "x-request-id",
            }  # fmt: skip
            assert seen.headers["host"] == f"127.0.0.1:{worker.port}"

    run(main())


def test_a_sane_request_id_is_kept_and_any_other_replaced() -> None:
    async def main() -> None:
        worker = await FakeWorker().start()
        async with Endpoint(model_of(worker)) as endpoint:
            kept = await endpoint.ask(chat(), headers={"x-request-id": "abc-1"})
            assert kept.headers["x-request-id"] == "abc-1" == worker.seen[0].headers["x-request-id"]
            for bad in ("two words", "x" * 129):
                answer = await endpoint.ask(chat(), headers={"x-request-id": bad})
                assert answer.headers["x-request-id"].startswith("vc-")
                assert answer.headers["x-request-id"] == worker.seen[-1].headers["x-request-id"]
            ids = {(await endpoint.ask(chat())).headers["x-request-id"] for _ in range(5)}
            assert len(ids) == 5
            assert endpoint.records[0].id == "abc-1"

    run(main())


@pytest.mark.parametrize("wants", [True, False])
def test_a_stream_passes_event_by_event_and_shows_usage_only_to_who_asked(wants: bool) -> None:
    async def main() -> None:
        worker = await FakeWorker().start()
        async with Endpoint(model_of(worker)) as endpoint:
            body = chat(stream=True, fake={"chunks": 5})
            if wants:
                body["stream_options"] = {"include_usage": True}
            answer = await endpoint.ask(body)
            assert answer.whole
            assert answer.headers["content-type"].startswith("text/event-stream")
            *events, done = answer.events
            assert done == "[DONE]"
            shown = [json.loads(event) for event in events]
            assert [event["n"] for event in shown[:5]] == list(range(5))
            assert ("usage" in shown[-1]) is wants
            [record] = endpoint.records
            assert record.stream
            assert (record.prompt, record.generated, record.finish) == (7, 3, "stop")
            assert record.ttft_s is not None
            assert 0 < record.ttft_s <= record.e2e_s

    run(main())


def test_the_head_of_a_stream_and_each_event_go_out_when_they_come() -> None:
    async def main() -> None:
        worker = await FakeWorker(hold=True).start()
        async with Endpoint(model_of(worker)) as endpoint:
            client = await endpoint.connect()
            await client.send(request(chat(stream=True)))
            status, _ = await client.head()
            assert status == 200
            assert endpoint.gateway.in_flight("small-1") == 1
            worker.release.set()
            assert b'"n": 0' in await client.chunk()

    run(main())


@pytest.mark.parametrize(
    ("fast_s", "stream", "told"), [(inf, True, 3), (inf, False, 0), (0.0, True, 0)]
)
def test_a_fast_stream_is_told_of_at_each_piece_between_its_first_and_its_last(
    monkeypatch: pytest.MonkeyPatch, fast_s: float, stream: bool, told: int
) -> None:
    class FakePace:
        times = 0

        def fast(self) -> None:
            self.times += 1

    async def main() -> None:
        worker = await FakeWorker(slow=0.001).start()
        async with Endpoint(model_of(worker)) as endpoint:
            pace = FakePace()
            monkeypatch.setattr(endpoint.gateway, "pace", pace)
            answer = await endpoint.ask(chat(stream=stream, fake={"chunks": 5}))
            assert answer.status == 200
            assert pace.times == told

    monkeypatch.setattr(reply, "FAST_S", fast_s)
    run(main())


def test_requests_of_one_connection_follow_each_other_over_one_worker_connection() -> None:
    async def main() -> None:
        worker = await FakeWorker().start()
        async with Endpoint(model_of(worker)) as endpoint:
            client = await endpoint.connect()
            for number in range(20):
                answer = await client.ask(chat(stream=number % 2 == 1))
                assert answer.status == 200
                assert "connection" not in answer.headers
            assert worker.connections == 1
            assert len(endpoint.records) == 20

    run(main())


def test_a_body_may_come_in_chunks_and_in_pieces_and_after_100_continue() -> None:
    async def main() -> None:
        worker = await FakeWorker().start()
        async with Endpoint(model_of(worker)) as endpoint:
            client = await endpoint.connect()
            body = json.dumps(chat()).encode()
            head = {"transfer-encoding": "chunked", "content-length": "", "expect": "100-continue"}
            await client.send(request(b"", headers=head))
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            for byte in body:
                await client.send(b"1\r\n%c\r\n" % byte)
                await asyncio.sleep(0)
            await client.send(b"0\r\ntrailer: x\r\n\r\n")
            assert (await client.answer()).status == 200
            assert worker.seen[0].body == body
            assert worker.seen[0].headers["content-length"] == str(len(body))
            assert "trailer" not in worker.seen[0].headers

    run(main())


def test_requests_cut_anywhere_into_pieces_are_the_same_requests() -> None:
    dice = random.Random(1)

    async def main() -> None:
        worker = await FakeWorker().start()
        async with Endpoint(model_of(worker)) as endpoint:
            client = await endpoint.connect()
            for number in range(60):
                body = chat(tag=number, stream=dice.random() < 0.5)
                data = request(body)
                if dice.random() < 0.5:
                    sized = b"content-length: %d" % len(json.dumps(body))
                    head, _, rest = data.partition(b"\r\n\r\n")
                    head = head.replace(sized, b"transfer-encoding: chunked")
                    data = b"%b\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (head, len(rest), rest)
                cuts = sorted(dice.sample(range(1, len(data)), 5))
                for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
                    await client.send(data[start:stop])
                    await asyncio.sleep(0)
                assert (await client.answer()).status == 200
            assert [seen.json["tag"] for seen in worker.seen] == list(range(60))
            assert worker.connections == 1

    run(main())


def test_aliases_and_adapters_go_to_the_model_under_the_name_that_was_used() -> None:
    async def main() -> None:
        one, two = await FakeWorker().start(), await FakeWorker().start()
        models = (
            model_of(one, aliases=("tiny",), adapters=("sql",)),
            model_of(two, name="large"),
        )
        async with Endpoint(*models) as endpoint:
            for name in ("tiny", "sql", "large"):
                assert (await endpoint.ask(chat(name))).status == 200
            assert [seen.json["model"] for seen in one.seen] == ["tiny", "sql"]
            assert [record.model for record in endpoint.records] == ["small", "small", "large"]

    run(main())


def test_an_error_of_the_engine_reaches_the_client_as_it_is_and_is_not_tried_again() -> None:
    async def main() -> None:
        workers = [await FakeWorker().start(), await FakeWorker().start()]
        async with Endpoint(model_of(*workers)) as endpoint:
            for status in (400, 404, 422, 429, 500, 504):
                answer = await endpoint.ask(chat(stream=True, fake={"status": status}))
                assert answer.status == status
                assert answer.error == {"message": "xxxx"}
                assert endpoint.records[-1].status == status
                assert endpoint.records[-1].retries == 0
            assert sum(len(worker.seen) for worker in workers) == 6

    run(main())


def test_a_large_answer_passes_through_in_pieces() -> None:
    async def main() -> None:
        worker = await FakeWorker(size=3_000_000).start()
        async with Endpoint(model_of(worker)) as endpoint:
            answer = await endpoint.ask(chat())
            assert len(answer.json["choices"][0]["message"]["content"]) == 3_000_000
            assert endpoint.records[0].generated == 3

    run(main())


def test_a_client_of_http_1_0_gets_a_stream_that_ends_with_the_connection() -> None:
    async def main() -> None:
        worker = await FakeWorker().start()
        async with Endpoint(model_of(worker)) as endpoint:
            old = request(chat(stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
            answer = await endpoint.say(old)
            assert "transfer-encoding" not in answer.headers
            assert answer.headers["connection"] == "close"
            assert answer.events[-1] == "[DONE]"

    run(main())


def test_an_answer_without_a_length_ends_where_the_workers_connection_does() -> None:
    async def main() -> None:
        raw = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nto the end"
        worker = await FakeWorker(raw=raw).start()
        async with Endpoint(model_of(worker)) as endpoint:
            answer = await endpoint.ask(chat())
            assert (answer.status, answer.body, answer.whole) == (200, b"to the end", True)

    run(main())


def test_a_client_that_does_not_read_slows_its_worker_down_and_nobody_else() -> None:
    async def main() -> None:
        worker = await FakeWorker(chunks=2000, size=10_000).start()
        other = await FakeWorker().start()
        async with Endpoint(model_of(worker), model_of(other, name="other")) as endpoint:
            client = await endpoint.connect()
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(request(chat(stream=True)))
            await until(lambda: worker.running)
            written = -1
            while worker.written != written:
                written = worker.written
                for _ in range(5):
                    assert (await endpoint.ask(chat("other"))).status == 200
            assert written < 20_000_000
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]
            answer = await client.answer()
            assert answer.events[-1] == "[DONE]"
            assert len(answer.events) == 2002

    run(main())
