"""Heads as values: what is read of them, and what goes on."""

from __future__ import annotations

import pytest

from vllm_console.gateway import heads
from vllm_console.gateway.refusals import Refused

HOST = (b"Host", b"a")


def test_a_head_is_read_whatever_the_case_of_its_names() -> None:
    fields = [
        HOST, (b"AUTHORIZATION", b"Bearer x"), (b"X-Api-Key", b"y"), (b"X-Priority", b"low"),
        (b"X-Session-Id", b"s"), (b"Content-Type", b"application/json"), (b"Origin", b"https://a"),
        (b"Expect", b"100-Continue"), (b"X-Request-ID", b"r"), (b"X-Other", b"1"),
    ]  # fmt: skip
    head = heads.read(fields, "1.1")
    assert (head.authorization, head.api_key) == (b"Bearer x", b"y")
    assert (head.priority, head.session, head.origin) == (b"low", b"s", b"https://a")
    assert (head.content_type, head.request_id, head.expects) == (b"application/json", b"r", True)
    assert head.lines == b"x-other: 1\r\ncontent-type: application/json\r\n"


def test_lines_that_a_connection_header_names_stay_here() -> None:
    fields = [HOST, (b"Connection", b"close, X-Mine ,te"), (b"X-Mine", b"1"), (b"X-Yours", b"2")]
    assert heads.read(fields, "1.1").lines == b"x-yours: 2\r\n"


@pytest.mark.parametrize("given", [b"", b"a b", b"x" * 129, b"a\xe9", b"a,b" * 50])
def test_a_request_id_that_could_do_harm_is_not_taken_over(given: bytes) -> None:
    assert heads.read([HOST, (b"x-request-id", given)], "1.1").request_id is None
    assert heads.request_id(given) != given


def test_request_ids_of_ours_differ() -> None:
    assert len({heads.request_id() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("version", "fields", "status"),
    [
        ("1.1", [], 400),
        ("1.1", [HOST, HOST], 400),
        ("0.9", [HOST], 505),
        ("2.0", [HOST], 505),
        ("1.0", [(b"Transfer-Encoding", b"chunked")], 400),
        ("1.1", [HOST, (b"Transfer-Encoding", b"gzip, chunked")], 400),
        ("1.1", [HOST, (b"Content-Encoding", b"br")], 415),
        ("1.1", [HOST, (b"x-api-key", b"a"), (b"X-API-KEY", b"b")], 400),
    ],
)
def test_a_head_that_is_not_plain_is_refused(
    version: str, fields: heads.Fields, status: int
) -> None:
    with pytest.raises(Refused) as caught:
        heads.read(fields, version)
    assert caught.value.status == status


def test_of_an_answer_the_hop_stays_here_and_the_rest_goes_on() -> None:
    fields = [
        (b"server", b"uvicorn"), (b"date", b"d"), (b"content-length", b"5"), (b"x-a", b"1"),
        (b"content-type", b"text/plain"), (b"transfer-encoding", b"chunked"),
        (b"x-request-id", b"w"), (b"connection", b"close"),
    ]  # fmt: skip
    parts, length, kind = heads.answer(200, fields, b"ours", b"date: now\r\n")
    assert b"".join(parts) == (
        b"HTTP/1.1 200 OK\r\ndate: now\r\nx-request-id: ours\r\nx-a: 1\r\n"
        b"content-type: text/plain\r\n"
    )
    assert (length, kind) == (b"5", b"text/plain")
    assert heads.status_line(299).startswith(b"HTTP/1.1 299 ")
    assert heads.status_line(700).startswith(b"HTTP/1.1 700 ")


@pytest.mark.parametrize(
    ("origin", "allowed", "names"),
    [
        (None, ("*",), False),
        (b"https://a", (), False),
        (b"https://a", ("*",), True),
        (b"https://a", ("https://a",), True),
        (b"https://b", ("https://a",), False),
        (b"null", ("https://a",), False),
    ],
)
def test_an_origin_is_let_read_only_where_it_is_named(
    origin: bytes | None, allowed: tuple[str, ...], names: bool
) -> None:
    assert (b"allow-origin" in heads.cross_origin(origin, allowed)) is names
