"""What a public port has to refuse: bytes that two readers could read differently, and floods.

Every refusal is one JSON error and the end of the connection, and nothing of it reaches a worker.
"""

from __future__ import annotations

import json

import pytest

from tests.gateway.endpoint import CHAT, Answer, Endpoint, chat, model_of, request, run, until
from tests.gateway.fake_worker import FakeWorker
from vllm_console.gateway import connection

BODY = json.dumps(chat()).encode()
SIZE = len(BODY)
POST = f"POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n".encode()
CHUNKED = POST + b"transfer-encoding: chunked\r\n"
SIZED = POST + b"content-length: %d\r\n" % SIZE

AMBIGUOUS = {
    "both lengths": CHUNKED + b"content-length: 3\r\n\r\n0\r\n\r\n",
    "both lengths, other order": SIZED + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": SIZED + b"content-length: %d\r\n\r\n" % SIZE + BODY,
    "two different lengths": SIZED + b"content-length: 1\r\n\r\n" + BODY,
    "list of lengths": POST + b"content-length: 3, 3\r\n\r\nabc",
    "signed length": POST + b"content-length: +3\r\n\r\nabc",
    "hex length": POST + b"content-length: 0x3\r\n\r\nabc",
    "endless length": POST + b"content-length: 99999999999999999999999\r\n\r\nabc",
    "empty length": POST + b"content-length:\r\n\r\n",
    "coding before chunked": POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "unknown coding": POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two codings": CHUNKED + b"transfer-encoding: identity\r\n\r\n0\r\n\r\n",
    "chunked in 1.0": CHUNKED.replace(b"1.1", b"1.0", 1) + b"\r\n0\r\n\r\n",
    "HTTP/0.9": f"POST {CHAT}\r\n\r\n".encode(),
    "HTTP/2": CHUNKED.replace(b"1.1", b"2.0", 1) + b"\r\n0\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.2": SIZED.replace(b"1.1", b"1.2", 1) + b"\r\n" + BODY,
    "folded line": SIZED + b"x: a\r\n b\r\n\r\n" + BODY,
    "bare LF": SIZED.replace(b"\r\n", b"\n") + b"\n" + BODY,
    "bare LF in one line": SIZED + b"x: a\ny: b\r\n\r\n" + BODY,
    "bare CR": SIZED + b"x: a\rb: c\r\n\r\n" + BODY,
    "NUL": SIZED + b"x: a\x00b\r\n\r\n" + BODY,
    "control": SIZED + b"x: a\x01b\r\n\r\n" + BODY,
    "space before colon": SIZED + b"x : a\r\n\r\n" + BODY,
    "space in name": SIZED + b"x y: a\r\n\r\n" + BODY,
    "no colon": SIZED + b"xy\r\n\r\n" + BODY,
    "chunk size of letters": CHUNKED + b"\r\nzz\r\nabc\r\n0\r\n\r\n",
    "chunk size with 0x": CHUNKED + b"\r\n0x3\r\nabc\r\n0\r\n\r\n",
    "negative chunk": CHUNKED + b"\r\n-3\r\nabc\r\n0\r\n\r\n",
    "overflowing chunk": CHUNKED + b"\r\nfffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "space after chunk size": CHUNKED + b"\r\n3 \r\nabc\r\n0\r\n\r\n",
    "chunk ended by LF": CHUNKED + b"\r\n3\nabc\n0\n\n",
    "chunk longer than said": CHUNKED + b"\r\n3\r\nabcd\r\n0\r\n\r\n",
    "no host": SIZED.replace(b"host: a\r\n", b"") + b"\r\n" + BODY,
    "two hosts": SIZED + b"host: b\r\n\r\n" + BODY,
    "two keys": SIZED + b"authorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n" + BODY,
    "two content types": SIZED + b"content-type: text/plain\r\n\r\n" + BODY,
    "no path": SIZED.replace(CHAT.encode(), b"a:1", 1) + b"\r\n" + BODY,
    "space in path": SIZED.replace(CHAT.encode(), b"/v1/ chat", 1) + b"\r\n" + BODY,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "nonsense": b"\x00\xff\r\n\r\n",
    "CONNECT": b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
}
"""No two HTTP implementations agree on all of these (RFC 9112 §2.2, §5, §6, §7)."""


async def refused(endpoint: Endpoint, data: bytes) -> Answer:
    """The one answer to these bytes, after which the endpoint closes the connection."""
    client = await endpoint.connect()
    client.writer.write(data)
    answer = await client.answer()
    assert await client.closed() == b""
    await client.close()
    assert answer.headers["connection"] == "close"
    assert answer.headers["content-type"] == "application/json"
    assert answer.error.keys() == {"message", "type", "param", "code"}
    assert "\n" not in answer.error["message"]
    return answer


def test_what_could_be_read_in_two_ways_is_refused() -> None:
    async def main() -> None:
        worker = await FakeWorker().start()
        async with Endpoint(model_of(worker)) as endpoint:
            for name, data in AMBIGUOUS.items():
                smuggled = b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n"
                answer = await refused(endpoint, data + smuggled)
                assert answer.status in (400, 505), name
                assert len(endpoint.records) == list(AMBIGUOUS).index(name) + 1, name
            assert worker.seen == []
            assert endpoint.settled

    run(main())


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (414, SIZED.replace(b" HTTP", b"?" + b"x" * 9000 + b" HTTP", 1) + b"\r\n" + BODY),
        (431, SIZED + b"x: y\r\n" * 100 + b"\r\n" + BODY),
        (431, SIZED + b"x: " + b"y" * 40_000 + b"\r\n\r\n" + BODY),
        (431, SIZED + b"x: " + b"y" * 300_000),
        (431, SIZED + b"y" * 300_000),
        (417, SIZED + b"expect: 200-ok\r\n\r\n" + BODY),
        (415, SIZED + b"content-encoding: gzip\r\n\r\n" + BODY),
        (413, POST + b"content-length: 2000001\r\n\r\n"),
        (413, CHUNKED + b"\r\n" + b"1e8480\r\n" + b"x" * 2_000_000 + b"\r\n1\r\nx\r\n"),
        (400, CHUNKED + b"\r\n" + b"1;%b\r\nx\r\n" % (b"y" * 200) * 1000),
    ],
)
def test_what_is_too_much_is_refused_before_it_is_kept(status: int, data: bytes) -> None:
    async def main() -> None:
        worker = await FakeWorker().start()
        async with Endpoint(model_of(worker, limits={"body": 2_000_000})) as endpoint:
            answer = await refused(endpoint, data)
            assert answer.status == status
            assert [record.status for record in endpoint.records] == [status]
            assert worker.seen == []
            assert endpoint.settled

    run(main())


def test_a_body_within_the_fleets_limit_may_still_be_too_large_for_its_model() -> None:
    async def main() -> None:
        worker = await FakeWorker().start()
        models = model_of(worker, limits={"body": 200}), model_of(name="other")
        async with Endpoint(*models) as endpoint:
            client = await endpoint.connect()
            assert (await client.ask(chat(x="y" * 200))).status == 413
            assert (await client.ask(chat())).status == 200

    run(main())


def test_slow_heads_and_bodies_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.1)
    monkeypatch.setattr(connection, "BODY_S", 0.1)

    async def main() -> None:
        worker = await FakeWorker().start()
        async with Endpoint(model_of(worker)) as endpoint:
            for part in (b"POST", SIZED, SIZED + b"\r\n", SIZED + b"\r\n" + BODY[:-1]):
                assert (await refused(endpoint, part)).status == 408
            assert worker.seen == []

    run(main())


def test_an_unused_connection_is_closed_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "KEEP_S", 0.1)

    async def main() -> None:
        worker = await FakeWorker().start()
        async with Endpoint(model_of(worker)) as endpoint:
            fresh, used = await endpoint.connect(), await endpoint.connect()
            assert (await used.ask(chat())).status == 200
            assert await fresh.closed() == b""
            assert await used.closed() == b""
            assert len(endpoint.records) == 1

    run(main())


def test_a_client_that_does_not_read_a_refusal_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 0.1)

    async def main() -> None:
        async with Endpoint(model_of()) as endpoint:
            client = await endpoint.connect()
            await client.send(b"nonsense\r\n\r\n")
            await until(lambda: endpoint.records and not endpoint.gateway.connections)

    run(main())


def test_requests_ahead_of_an_answer_are_answered_in_order() -> None:
    async def main() -> None:
        worker = await FakeWorker(hold=True).start()
        async with Endpoint(model_of(worker)) as endpoint:
            client = await endpoint.connect()
            await client.send(request(chat(tag=1)))
            await until(lambda: worker.running == 1)
            await client.send(request(chat(tag=2)))
            worker.release.set()
            assert (await client.answer()).status == 200
            assert (await client.answer()).status == 200
            assert [seen.json["tag"] for seen in worker.seen] == [1, 2]

    run(main())


def test_what_comes_far_ahead_of_an_answer_is_left_in_the_network() -> None:
    async def main() -> None:
        worker = await FakeWorker(hold=True).start()
        async with Endpoint(model_of(worker)) as endpoint:
            client = await endpoint.connect()
            await client.send(request(chat(tag=0)))
            await until(lambda: worker.running == 1)
            for number in range(1, 40):
                client.writer.write(request(chat(tag=number, pad="x" * 1_000_000)))
            await until(lambda: next(iter(endpoint.gateway.connections)).flow.read_paused)
            worker.release.set()
            assert (await client.answer()).status == 200
            assert (await client.answer()).status == 200
            assert worker.seen[1].json["tag"] == 1

    run(main())


def test_bodies_of_all_connections_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_READING", 100_000)

    async def main() -> None:
        worker = await FakeWorker().start()
        async with Endpoint(model_of(worker)) as endpoint:
            slow = await endpoint.connect()
            await slow.send(SIZED.replace(b"%d" % SIZE, b"200000") + b"\r\n" + b"x" * 90_000)
            await until(lambda: endpoint.gateway.reading == 90_000)
            big = request(chat(pad="x" * 20_000))
            answer = await refused(endpoint, big)
            assert (answer.status, answer.error["code"]) == (503, "too_many_bodies")
            slow.hang_up()
            await until(lambda: endpoint.gateway.reading == 0)
            assert (await endpoint.say(big)).status == 200
            assert endpoint.gateway.reading == 0

    run(main())


@pytest.mark.parametrize("path", [CHAT, "/health"])
def test_a_request_that_comes_with_another_is_left_unanswered_and_the_connection_ends(
    path: str,
) -> None:
    async def main() -> None:
        worker = await FakeWorker(hold=True).start()
        async with Endpoint(model_of(worker)) as endpoint:
            first = request(chat(tag=1)) if path == CHAT else request(b"", path=path, method="GET")
            client = await endpoint.connect()
            worker.release.set()
            await client.send(first + request(chat(tag=2)))
            answer = await client.answer()
            assert answer.status == 200
            assert answer.headers["connection"] == "close"
            assert await client.closed() == b""
            assert [seen.json["tag"] for seen in worker.seen] == [1] * (path == CHAT)

    run(main())


def test_requests_that_are_answered_at_once_may_come_together() -> None:
    async def main() -> None:
        async with Endpoint(model_of()) as endpoint:
            client = await endpoint.connect()
            await client.send(request(chat("none")) * 3 + request(b"{}"))
            for status in (404, 404, 404, 400):
                assert (await client.answer()).status == status
            assert len(endpoint.records) == 4

    run(main())


def test_an_upgrade_that_is_not_made_leaves_http_as_it_was() -> None:
    async def main() -> None:
        worker = await FakeWorker().start()
        async with Endpoint(model_of(worker)) as endpoint:
            client = await endpoint.connect()
            headers = {
                "connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "x",
            }  # fmt: skip
            for _ in range(2):
                assert (await client.ask(chat(), headers=headers)).status == 200
            assert "upgrade" not in worker.seen[0].headers
            assert "http2-settings" not in worker.seen[0].headers

    run(main())


def test_a_target_may_be_a_whole_url() -> None:
    async def main() -> None:
        worker = await FakeWorker().start()
        async with Endpoint(model_of(worker)) as endpoint:
            assert (await endpoint.ask(chat(), path=f"http://a{CHAT}?x")).status == 200
            assert worker.seen[0].target == f"{CHAT}?x"
            answer = await endpoint.ask(b"", path="http://a/health", method="GET")
            assert answer.json == {"status": "ok"}

    run(main())
