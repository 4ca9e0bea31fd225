"""What the endpoint answers itself, who may ask, and how it ends."""

from __future__ import annotations

from typing import Any

from tests.gateway.endpoint import CHAT, Endpoint, chat, model_of, request, run, until
from tests.gateway.fake_worker import FakeWorker
from vllm_console.gateway.keyring import Keyring
from vllm_console.history.account_rows import CREATED, KeyRow, Terms, hash_of

SECRET = "vc-secret"


def keyring_rows(**terms: Any) -> list[KeyRow]:
    row = KeyRow(
        id=1, name="ann", hash=hash_of(SECRET.encode()), shown="vc-secr", origin=CREATED,
        created=0, revoked=None, last_used=None, terms=Terms(**terms),
    )  # fmt: skip
    return [row]


def keyring(**terms: Any) -> Keyring:
    ring = Keyring()
    ring.replace(keyring_rows(**terms))
    return ring


def test_the_endpoint_answers_for_itself() -> None:
    async def main() -> None:
        worker = await FakeWorker().start()
        async with Endpoint(model_of(worker, aliases=("tiny",)), model_of(name="cold")) as endpoint:
            client = await endpoint.connect()
            for path in ("/health", "/ready", "/v1/models", "/openapi.json", "/stats"):
                answer = await client.ask(b"", path=path, method="GET")
                assert answer.status == 200, path
                assert answer.json
                assert answer.headers["x-request-id"]
                assert "server" not in answer.headers
            answer = await client.ask(b"", path="/v1/models", method="GET")
            assert [model["id"] for model in answer.json["data"]] == ["small", "tiny", "cold"]
            answer = await client.ask(b"", path="/v1/models/tiny", method="GET")
            assert answer.json["id"] == "tiny"
            await client.ask(chat())
            answer = await client.ask(b"", path="/metrics", method="GET")
            assert answer.headers["content-type"].startswith("text/plain")
            assert b'model="small"' in answer.body
            assert worker.seen[0].target == CHAT

    run(main())


def test_what_is_not_there_is_told_in_the_shape_of_the_path() -> None:
    async def main() -> None:
        async with Endpoint(model_of()) as endpoint:
            client = await endpoint.connect()
            for status, method, path in (
                (404, "GET", "/v1/modls"),
                (404, "POST", "/v1/load_lora_adapter"),
                (404, "POST", "/sleep"),
                (404, "GET", "/v1/models/none"),
                (404, "POST", CHAT + "/"),
                (404, "POST", "/v1//chat/completions"),
                (404, "POST", "/v1/%63hat/completions"),
                (405, "GET", CHAT),
                (405, "POST", "/v1/models"),
                (405, "DELETE", "/v1/models/small"),
            ):
                answer = await client.ask(b"", path=path, method=method)
                assert answer.status == status, path
                assert answer.error["message"], path
                assert ("allow" in answer.headers) is (status == 405)
            answer = await client.ask(chat("smal"))
            assert answer.status == 404
            assert "'small'" in answer.error["message"]
            answer = await client.ask(chat("none") | {"max_tokens": 1}, path="/v1/messages")
            assert (answer.status, answer.json["type"]) == (404, "error")
            await client.send(request(b"", path="/health", method="HEAD"))
            status, headers = await client.head()
            assert (status, headers["content-length"]) == (200, "15")

    run(main())


def test_a_key_is_asked_for_before_the_body_is_read() -> None:
    async def main() -> None:
        worker = await FakeWorker().start()
        ring = keyring(models=("small",), rpm=2)
        models = model_of(worker), model_of(name="secret")
        async with Endpoint(*models, keyring=ring, anonymous=False) as endpoint:
            client = await endpoint.connect()
            await client.send(request(b"", headers={"content-length": "1000000"}))
            answer = await client.answer()
            assert (answer.status, answer.headers["connection"]) == (401, "close")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert await client.closed() == b""
            for path in ("/v1/models", "/metrics", "/stats"):
                assert (await endpoint.ask(b"", path=path, method="GET")).status == 401
            bearer = {"authorization": f"Bearer {SECRET}"}
            answer = await endpoint.ask(b"", path="/v1/models", method="GET", headers=bearer)
            assert [model["id"] for model in answer.json["data"]] == ["small"]
            assert (await endpoint.ask(chat("secret"), headers=bearer)).status == 403
            assert (await endpoint.ask(chat(), headers=bearer)).status == 200
            assert (await endpoint.ask(chat(), headers={"x-api-key": SECRET})).status == 200
            answer = await endpoint.ask(chat(), headers=bearer)
            assert answer.status == 429
            assert int(answer.headers["retry-after"]) >= 1
            assert "authorization" not in worker.seen[0].headers
            keys = [(record.status, record.key) for record in endpoint.records]
            assert keys == [(401, ""), (403, "ann"), (200, "ann"), (200, "ann"), (429, "ann")]
            assert next(iter(ring)).in_flight == 0

    run(main())


def test_a_browsers_page_may_call_from_the_origins_that_are_allowed() -> None:
    async def main() -> None:
        worker = await FakeWorker().start()
        async with Endpoint(model_of(worker), cors=("https://a.test",)) as endpoint:
            good, bad = {"origin": "https://a.test"}, {"origin": "https://b.test"}
            asked = {"access-control-request-headers": "x-priority"}
            answer = await endpoint.ask(b"", method="OPTIONS", headers=good | asked)
            assert answer.status == 204
            assert answer.headers["access-control-allow-origin"] == "https://a.test"
            assert answer.headers["access-control-allow-methods"] == "POST"
            assert answer.headers["access-control-allow-headers"] == "x-priority"
            for method, body, path in (("POST", chat(), CHAT), ("GET", b"", "/v1/models")):
                allowed = await endpoint.ask(body, method=method, path=path, headers=good)
                assert allowed.headers["access-control-allow-origin"] == "https://a.test"
                other = await endpoint.ask(body, method=method, path=path, headers=bad)
                assert "access-control-allow-origin" not in other.headers

    run(main())


def test_an_end_lets_requests_finish_and_closes_the_rest() -> None:
    async def main() -> None:
        worker = await FakeWorker(hold=True).start()
        async with Endpoint(model_of(worker)) as endpoint:
            streaming, idle = await endpoint.connect(), await endpoint.connect()
            late = await endpoint.connect()
            assert (await idle.ask(b"", path="/health", method="GET")).status == 200
            await streaming.send(request(chat(stream=True)))
            await until(lambda: worker.running)
            endpoint.serving.stop(20)
            answer = await late.ask(b"", path="/health", method="GET")
            assert answer.headers["connection"] == "close"
            assert await idle.closed() == b""
            worker.release.set()
            assert (await streaming.answer()).events[-1] == "[DONE]"
            await endpoint.task
            assert endpoint.settled

    run(main())


def test_what_does_not_finish_in_time_is_told_so() -> None:
    async def main() -> None:
        worker = await FakeWorker(hold=True).start()
        async with Endpoint(model_of(worker, slots=2)) as endpoint:
            streaming, plain, waiting = [await endpoint.connect() for _ in range(3)]
            await streaming.send(request(chat(stream=True)))
            await plain.send(request(chat()))
            await until(lambda: worker.running == 2)
            await waiting.send(request(chat()))
            await until(lambda: endpoint.gateway.in_requests == 3)
            await streaming.head()
            endpoint.serving.stop(0)
            assert b'"shutting_down"' in await streaming.chunk()
            assert await streaming.chunk() == b""
            for client in (plain, waiting):
                answer = await client.answer()
                assert (answer.status, answer.error["code"]) == (503, "shutting_down")
            await endpoint.task
            assert endpoint.settled
            assert len(endpoint.records) == 3

    run(main())


def test_each_request_of_a_connection_is_judged_by_its_own_headers() -> None:
    async def main() -> None:
        worker = await FakeWorker().start()
        ring = keyring(max_class=0)
        async with Endpoint(model_of(worker), keyring=ring, anonymous=False) as endpoint:
            client = await endpoint.connect()
            good = {"authorization": f"Bearer {SECRET}"}
            for number in range(3):
                sent = good | {"x-request-id": f"id-{number}", "x-trace": str(number)}
                answer = await client.ask(chat(pad="x" * number), headers=sent)
                assert answer.status == 200
                assert answer.headers["x-request-id"] == f"id-{number}"
                assert worker.seen[-1].headers["x-trace"] == str(number)
                assert (await client.ask(chat(), headers=good)).status == 200
                assert worker.seen[-1].headers["x-request-id"].startswith("vc-")
            ring.replace([])
            assert (await client.ask(chat(), headers=good)).status == 401
            client = await endpoint.connect()
            ring.replace(keyring_rows())
            assert (await client.ask(chat(), headers=good)).status == 200
            wrong = {"authorization": f"Bearer {SECRET}x"}
            assert (await client.ask(chat(), headers=wrong)).status == 401
            assert len(worker.seen) == 7

    run(main())
