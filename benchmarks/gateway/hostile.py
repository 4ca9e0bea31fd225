"""Requests that a sound client never sends, as bytes, and what may be answered to each."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.gateway.targets import MODEL

PATH = "/v1/chat/completions"
REFUSED = frozenset({400, 401, 403, 404, 405, 408, 411, 413, 414, 415, 417, 422, 431, 501, 505})
"""501 and 505 are what RFC 9110 has for transfer codings and versions that are not spoken."""
HUNG_UP = 0
"""Stands for a connection that is closed without an answer."""


@dataclass(frozen=True, slots=True)
class Case:
    """Bytes to send, and the statuses that may come back."""

    name: str
    data: bytes
    allowed: frozenset[int] = REFUSED | {HUNG_UP}
    reaches: int = 0
    """Requests of it that may reach a worker."""


def valid(key: str, *extra: str, body: bytes | None = None, method: str = "POST") -> bytes:
    """A request in order, with more header lines."""
    data = _body() if body is None else body
    lines = [
        f"{method} {PATH} HTTP/1.1",
        "host: 127.0.0.1",
        f"authorization: Bearer {key}",
        "content-type: application/json",
        *extra,
        f"content-length: {len(data)}",
    ]
    return _joined(lines) + data


def smuggling(key: str) -> Iterator[Case]:
    """What two servers might understand in two ways; after RFC 9112, 6.3 and 11.2."""
    inner = valid(key)
    for name, lines, tail in (
        (
            "content-length and chunked",
            ["content-length: 6", "transfer-encoding: chunked"],
            "0\r\n\r\n",
        ),
        (
            "chunked and content-length",
            ["transfer-encoding: chunked", "content-length: 6"],
            "0\r\n\r\n",
        ),
        ("two content-lengths", ["content-length: 0", "content-length: 44"], ""),
        ("a list of content-lengths", ["content-length: 0, 44"], ""),
        ("the same content-length twice", ["content-length: 2", "content-length: 2"], "{}"),
        ("content-length with a sign", ["content-length: +2"], "{}"),
        ("a negative content-length", ["content-length: -1"], "{}"),
        ("content-length in hex", ["content-length: 0x2"], "{}"),
        ("content-length with a space inside", ["content-length: 1 0"], "{}"),
        ("an empty content-length", ["content-length:"], ""),
        ("content-length beyond 64 bits", [f"content-length: {2**64 + 2}"], "{}"),
        ("transfer-encoding identity", ["transfer-encoding: identity"], "{}"),
        ("transfer-encoding unknown", ["transfer-encoding: xchunked"], "0\r\n\r\n"),
        ("transfer-encoding chunked twice", ["transfer-encoding: chunked, chunked"], "0\r\n\r\n"),
        ("chunked not last", ["transfer-encoding: chunked, gzip"], "0\r\n\r\n"),
        ("gzip, chunked", ["transfer-encoding: gzip, chunked"], "0\r\n\r\n"),
        (
            "two transfer-encodings",
            ["transfer-encoding: chunked", "transfer-encoding: x"],
            "0\r\n\r\n",
        ),
        ("transfer-encoding with a vertical tab", ["transfer-encoding: \x0bchunked"], "0\r\n\r\n"),
        ("a space before the colon", ["transfer-encoding : chunked"], "0\r\n\r\n"),
        ("a folded header", ["x-long: a", " transfer-encoding: chunked"], "0\r\n\r\n"),
        ("a bare CR in a value", ["x-a: b\rtransfer-encoding: chunked"], "0\r\n\r\n"),
        ("a NUL in a value", ["x-a: b\0c", "content-length: 0"], ""),
        ("a name with a space", ["x a: b", "content-length: 0"], ""),
        ("no name", [": b", "content-length: 0"], ""),
        ("a chunk size beyond 64 bits", ["transfer-encoding: chunked"], "fffffffffffffffff\r\n"),
        ("a negative chunk size", ["transfer-encoding: chunked"], "-1\r\n\r\n"),
        ("a chunk size of no digits", ["transfer-encoding: chunked"], "zz\r\n{}\r\n0\r\n\r\n"),
        ("a chunk size with 0x", ["transfer-encoding: chunked"], "0x2\r\n{}\r\n0\r\n\r\n"),
        ("a chunk longer than it says", ["transfer-encoding: chunked"], "1\r\n{}\r\n0\r\n\r\n"),
        ("a chunk without its end", ["transfer-encoding: chunked"], "2\r\n{}0\r\n\r\n"),
        ("an endless chunk extension", ["transfer-encoding: chunked"], f"2;{'a' * 70000}\r\n{{}}"),
        ("two hosts", ["host: elsewhere", "content-length: 0"], ""),
    ):
        head = [f"POST {PATH} HTTP/1.1", "host: a", f"authorization: Bearer {key}", *lines]
        yield Case(name, _joined(head) + tail.encode() + inner)


def malformed(key: str) -> Iterator[Case]:
    """Heads and bodies that are wrong in themselves."""
    yield Case("HTTP/0.9", b"GET /v1/models\r\n\r\n")
    yield Case("HTTP/9.9", f"GET {PATH} HTTP/9.9\r\nhost: a\r\n\r\n".encode())
    yield Case("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    yield Case("TLS greeting", bytes.fromhex("16030100c8010000c40303") + bytes(189))
    yield Case("no host in HTTP/1.1", f"POST {PATH} HTTP/1.1\r\ncontent-length: 0\r\n\r\n".encode())
    yield Case("noise", random.Random(7).randbytes(4096) + b"\r\n\r\n")
    yield Case("an endless request line", b"GET /" + b"a" * 100_000)
    yield Case("an endless header", valid(key, "x-long: " + "a" * 100_000))
    yield Case("5,000 headers", valid(key, *(f"x-{n}: a" for n in range(5000))))
    yield Case("a method that is none", valid(key, method="SMUGGLE"))
    yield Case("CONNECT", b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nhost: 127.0.0.1:22\r\n\r\n")
    yield Case("TRACE", b"TRACE / HTTP/1.1\r\nhost: a\r\n\r\n")
    for path in ("/sleep", "/collective_rpc", "/v1/load_lora_adapter", "/../sleep", "//sleep"):
        yield Case(f"POST {path}", valid(key).replace(PATH.encode(), path.encode(), 1))
    for path in ("/v1/chat/completions/../../sleep", "/v1/chat/completions/%2e%2e/%2e%2e/sleep"):
        yield Case(f"POST {path}", valid(key).replace(PATH.encode(), path.encode(), 1))
    for name, body in (
        ("no JSON", b"{"),
        ("an empty body", b""),
        ("a list", b"[]"),
        ("no model", b'{"messages":[]}'),
        ("a model that is a number", b'{"model":1,"messages":[]}'),
        ("a model that is null", b'{"model":null,"messages":[]}'),
        ("two models", b'{"model":"mock","model":"other","messages":[]}'),
        ("a stream that is text", b'{"model":"mock","stream":"yes"}'),
        ("NaN", b'{"model":"mock","temperature":NaN}'),
        ("invalid UTF-8", b'{"model":"mo\xff\xfeck"}'),
        ("a byte order mark", b'\xef\xbb\xbf{"model":"mock"}'),
        ("UTF-16", '{"model":"mock"}'.encode("utf-16")),
        ("a lone surrogate", b'{"model":"\\ud800"}'),
        ("nested 100,000 deep", b'{"model":"mock","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        ("a number of 100,000 digits", b'{"model":"mock","max_tokens":' + b"9" * 100_000 + b"}"),
        ("something after the end", b'{"model":"mock"}{}'),
        ("a model of 1 MB", b'{"model":"' + b"m" * (1 << 20) + b'"}'),
        ("a model of odd letters", b'{"model":"../../etc\\u0000\\r\\nx: y"}'),
    ):
        yield Case(name, valid(key, body=body))


def sound(key: str) -> Iterator[Case]:
    """Unusual requests that are right, and are answered."""
    answered = frozenset({200})
    yield Case("as usual", valid(key), answered, reaches=1)
    data = _body()
    pieces = b"".join(b"%x\r\n%b\r\n" % (1, data[n : n + 1]) for n in range(len(data)))
    head = valid(key).partition(b"content-length")[0]
    chunked = head + b"transfer-encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n"
    yield Case("chunks of one byte", chunked, answered, reaches=1)
    yield Case("names in capitals", _upper(valid(key)), answered, reaches=1)
    absolute = valid(key).replace(b"POST /", b"POST http://127.0.0.1/", 1)
    yield Case("an absolute target", absolute, answered, reaches=1)
    yield Case("two in a row", valid(key) * 2, answered | {HUNG_UP}, reaches=2)
    spaced = b" \r\n\t" * 1000 + data
    yield Case("much white space", valid(key, body=spaced), answered, reaches=1)


def mutated(key: str, seed: int, count: int) -> Iterator[Case]:
    """Sound requests with a few of their bytes changed, lost, doubled or moved."""
    chance = random.Random(f"{seed}/mutations")
    bases = [case.data for case in (*sound(key), *smuggling(key))]
    anything = frozenset(range(200, 500)) | {HUNG_UP, 501, 505}
    for number in range(count):
        data = bytearray(chance.choice(bases)[:8192])
        for _ in range(chance.randint(1, 8)):
            at = chance.randrange(len(data) or 1)
            kind = chance.randrange(6)
            if kind == 0 and data:
                data[at] = chance.randrange(256)
            elif kind == 1:
                data[at:at] = chance.randbytes(chance.randint(1, 8))
            elif kind == 2:
                del data[at : at + chance.randint(1, 32)]
            elif kind == 3:
                data[at:at] = data[at : at + chance.randint(1, 64)]
            elif kind == 4:
                data[at:at] = chance.choice(
                    (b"\r\n", b"\n", b"\r", b"\0", b"\r\n\r\n", b": ", b"{", b'"')
                )
            else:
                del data[at:]
        yield Case(f"mutation {seed}/{number}", bytes(data), anything, reaches=4)


def _body() -> bytes:
    messages = [{"role": "user", "content": "hi"}]
    return json.dumps({"model": MODEL, "messages": messages, "max_tokens": 4}).encode()


def _upper(data: bytes) -> bytes:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    named = [line.partition(b":") for line in lines]
    raised = [b"%b:%b" % (name.upper(), value) for name, _, value in named]
    return b"\r\n".join([first, *raised]) + b"\r\n\r\n" + body


def _joined(lines: list[str]) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
