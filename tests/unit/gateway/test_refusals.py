"""Errors as the official clients understand them, over a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import anthropic
import openai
import pytest

from vllm_console.gateway.paths import KIND
from vllm_console.gateway.refusals import (
    NAMES,
    SHOWN,
    Refused,
    event,
    refused,
    rendered,
    unknown_model,
    unknown_path,
)

_CHAT = KIND[b"/v1/chat/completions"]
_RESPONSES = KIND[b"/v1/responses"]
_MESSAGES = KIND[b"/v1/messages"]
_SENT = sorted(NAMES.keys() - {499})
"""Every status that is answered."""

_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    429: "RateLimitError",
}
"""What the clients raise; any other 4xx is an APIStatusError, a 5xx an InternalServerError."""


@contextmanager
def _answering(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> Iterator[str]:
    """The address of a server that answers every POST with this."""

    class Fake(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name.decode(), value.decode())
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    server = HTTPServer(("127.0.0.1", 0), Fake)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _refusal(status: int) -> Refused:
    return refused(status, "what, where, what instead", param="model", retry_after=0.2)


@contextmanager
def _openai(base: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="k", base_url=base + "/v1", max_retries=0) as client:
        yield client


@contextmanager
def _anthropic(base: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key="k", base_url=base, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("status", _SENT)
def test_openai_raises_the_error_of_the_status_with_all_its_parts(status: int) -> None:
    expected = getattr(openai, _TYPES.get(status, ""), None) or (
        openai.InternalServerError if status >= 500 else openai.APIStatusError
    )
    with (
        _answering(*rendered(_refusal(status), _CHAT)) as base,
        _openai(base) as client,
        pytest.raises(expected) as caught,
    ):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "a"}])
    error = caught.value
    assert type(error) is expected
    assert "what, where, what instead" in error.message
    assert (error.type, error.code, error.param) == (*NAMES[status][:2], "model")
    assert error.response.headers["retry-after"] == "1"


@pytest.mark.parametrize("status", _SENT)
def test_anthropic_raises_the_error_of_the_status_with_its_type(status: int) -> None:
    with (
        _answering(*rendered(_refusal(status), _MESSAGES)) as base,
        _anthropic(base) as client,
        pytest.raises(anthropic.APIStatusError) as caught,
    ):
        client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "a"}])
    error = caught.value
    if status in _TYPES:
        assert type(error).__name__ == _TYPES[status]
    assert isinstance(error, anthropic.InternalServerError) == (status >= 500)
    assert error.body == {
        "type": "error",
        "error": {"type": NAMES[status].anthropic, "message": "what, where, what instead"},
    }


def _begun(last: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """A stream of one chunk that ends with an event."""
    chunk = {"id": "1", "choices": [{"index": 0, "delta": {"content": "hi"}}], "created": 1}
    body = b"data: %b\n\n" % json.dumps({**chunk, "object": "x", "model": "m"}).encode() + last
    return 200, [(b"content-type", b"text/event-stream")], body


def test_openai_raises_an_error_inside_a_stream() -> None:
    with (
        _answering(*_begun(event(_refusal(502), _CHAT))) as base,
        _openai(base) as client,
        client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "a"}], stream=True
        ) as stream,
    ):
        assert next(stream).choices[0].delta.content == "hi"
        with pytest.raises(openai.APIError, match="what, where, what instead") as caught:
            next(stream)
    assert caught.value.type == "server_error"
    assert caught.value.code == "worker_failed"


def test_openai_is_told_of_an_error_inside_a_streamed_response() -> None:
    with (
        _answering(*_begun(event(_refusal(502), _RESPONSES))) as base,
        _openai(base) as client,
        client.responses.create(model="m", input="a", stream=True) as stream,
    ):
        next(stream)
        with pytest.raises(openai.APIError, match="what, where, what instead"):
            next(stream)


def test_anthropic_raises_an_error_inside_a_stream() -> None:
    start = b'event: ping\ndata: {"type": "ping"}\n\n'
    head = [(b"content-type", b"text/event-stream")]
    with (
        _answering(200, head, start + event(_refusal(503), _MESSAGES)) as base,
        _anthropic(base) as client,
        client.messages.create(
            model="m", max_tokens=1, messages=[{"role": "user", "content": "a"}], stream=True
        ) as stream,
        pytest.raises(anthropic.APIStatusError, match="what, where, what instead"),
    ):
        next(stream)


@pytest.mark.parametrize("kind", [_CHAT, _RESPONSES, _MESSAGES], ids=lambda kind: kind.name)
def test_an_event_is_whole_and_no_done_follows(kind: Any) -> None:
    text = event(_refusal(502), kind)
    assert text.endswith(b"\n\n")
    assert text.count(b"\n\n") == 1
    assert b"[DONE]" not in text


@pytest.mark.parametrize(("seconds", "said"), [(0.0, b"1"), (1.0, b"1"), (1.01, b"2"), (90, b"90")])
def test_retry_after_is_whole_seconds_and_never_too_few(seconds: float, said: bytes) -> None:
    _, headers, _ = rendered(refused(429, "slow down", retry_after=seconds), _CHAT)
    assert dict(headers)[b"retry-after"] == said


def test_where_waiting_does_not_help_no_time_is_named() -> None:
    status, headers, body = rendered(refused(404, "no"), None)
    assert b"retry-after" not in dict(headers)
    assert (status, dict(headers)[b"content-length"]) == (404, b"%d" % len(body))
    assert json.loads(body) == {
        "error": {"message": "no", "type": "not_found_error", "param": None, "code": "not_found"}
    }


def test_more_headers_go_along() -> None:
    refusal = refused(401, "no", headers=((b"www-authenticate", b"Bearer"),))
    assert (b"www-authenticate", b"Bearer") in rendered(refusal, _CHAT)[1]


@pytest.mark.parametrize(
    ("name", "known", "line"),
    [
        ("qwen3-23b", ["qwen3-32b", "llama"], "no model 'qwen3-23b'; did you mean 'qwen3-32b'?"),
        (
            "llama",
            ["llama-8b", "llama-70b", "x"],
            "no model 'llama'; did you mean 'llama-8b' or 'llama-70b'?",
        ),
        ("gpt", ["qwen3-32b"], "no model 'gpt'; GET /v1/models names what is served"),
        ("gpt", [], "no model 'gpt'; the fleet has no models"),
        ("a\nb\x1b", [], "no model 'a\\nb\\x1b'; the fleet has no models"),
    ],
)
def test_an_unknown_model_is_answered_with_the_nearest_names(
    name: str, known: list[str], line: str
) -> None:
    refusal = unknown_model(name, known)
    assert (refusal.status, refusal.code, refusal.param) == (404, "model_not_found", "model")
    assert str(refusal) == line


def test_a_very_long_name_is_neither_compared_nor_repeated() -> None:
    refusal = unknown_model("m" * 1000, ["m" * 999])
    assert "did you mean" not in str(refusal)
    assert len(str(refusal)) < 2 * SHOWN


@pytest.mark.parametrize(
    ("path", "status", "hint"),
    [
        (b"/v1/chat/completion", 404, "did you mean /v1/chat/completions?"),
        (b"/v1/load_lora_adapter", 404, "GET /openapi.json"),
        (b"/\xff\n", 404, "GET /openapi.json"),
        (b"/" * 5000, 404, "GET /openapi.json"),
        (b"/v1/chat/completions", 405, "takes POST only"),
    ],
)
def test_an_unknown_path_is_answered_with_the_nearest(path: bytes, status: int, hint: str) -> None:
    refusal = unknown_path(path)
    assert refusal.status == status
    assert hint in str(refusal)
    assert "\n" not in str(refusal)
    assert (status == 405) == ((b"allow", b"POST") in refusal.headers)
