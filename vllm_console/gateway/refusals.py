"""Errors in the form the client's library expects: OpenAI's, and Anthropic's on /v1/messages.

    raise refused(400, "model: missing", param="model")
    status, headers, body = rendered(refusal, kind)

Forms: https://platform.openai.com/docs/guides/error-codes and
https://docs.anthropic.com/en/api/errors; a 2xx is over once it has begun, so an error after the
first byte of a stream is an `event` of its own, and no `[DONE]` follows it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from vllm_console.gateway.paths import KIND, Kind

SHOWN: Final = 100
"""Characters of a client's own text that an error repeats."""


class _Names(NamedTuple):
    openai: str
    code: str
    anthropic: str


NAMES: Final = {
    400: _Names("invalid_request_error", "invalid_request", "invalid_request_error"),
    401: _Names("authentication_error", "invalid_api_key", "authentication_error"),
    403: _Names("permission_error", "permission_denied", "permission_error"),
    404: _Names("not_found_error", "not_found", "not_found_error"),
    405: _Names("invalid_request_error", "method_not_allowed", "invalid_request_error"),
    408: _Names("invalid_request_error", "request_timeout", "invalid_request_error"),
    411: _Names("invalid_request_error", "length_required", "invalid_request_error"),
    413: _Names("invalid_request_error", "request_too_large", "request_too_large"),
    414: _Names("invalid_request_error", "url_too_long", "invalid_request_error"),
    415: _Names("invalid_request_error", "unsupported_media_type", "invalid_request_error"),
    417: _Names("invalid_request_error", "expectation_failed", "invalid_request_error"),
    429: _Names("rate_limit_error", "rate_limit_exceeded", "rate_limit_error"),
    431: _Names("invalid_request_error", "headers_too_large", "invalid_request_error"),
    499: _Names("invalid_request_error", "client_closed_request", "invalid_request_error"),
    500: _Names("server_error", "internal_error", "api_error"),
    502: _Names("server_error", "worker_failed", "api_error"),
    503: _Names("overloaded_error", "unavailable", "overloaded_error"),
    504: _Names("server_error", "timeout", "timeout_error"),
    505: _Names("invalid_request_error", "http_version", "invalid_request_error"),
}
"""Type and code of each status that is answered, in either form. 499 is recorded, never sent."""


class Refused(Exception):
    """A request that is not served. `str(error)` is the one line the client reads."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str,
        code: str,
        param: str | None = None,
        retry_after: float | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status, a key of `NAMES`."""
        self.type = type
        """OpenAI's kind of error; Anthropic's follows from the status."""
        self.code = code
        """What a program tells errors of one type apart by."""
        self.message = message
        self.param = param
        """Field of the request that is at fault."""
        self.retry_after = retry_after
        """Seconds after which another attempt may help; `None` where waiting does not."""
        self.headers = headers
        """More headers of the answer, names in lower case."""


def refused(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    retry_after: float | None = None,
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> Refused:
    """A refusal with the type, and unless given the code, that its status has in `NAMES`."""
    names = NAMES[status]
    return Refused(
        status,
        message,
        type=names.openai,
        code=code or names.code,
        param=param,
        retry_after=retry_after,
        headers=headers,
    )


def unknown_model(name: str, known: Iterable[str]) -> Refused:
    """404 for a model that is not of the fleet, with the names nearest to the one asked for."""
    there = sorted(set(known))
    near = difflib.get_close_matches(name, there, n=3, cutoff=0.5) if len(name) <= SHOWN else []
    if near:
        hint = f"did you mean {' or '.join(repr(one) for one in near)}?"
    elif there:
        hint = "GET /v1/models names what is served"
    else:
        hint = "the fleet has no models"
    return refused(404, f"no model {shown(name)}; {hint}", code="model_not_found", param="model")


def unknown_path(path: bytes) -> Refused:
    """404 for a path that is not passed on, with the one nearest to it."""
    text = path.decode("utf-8", "replace")
    if path in KIND:
        return wrong_method(path)
    known = [one.decode() for one in KIND]
    near = difflib.get_close_matches(text, known, n=1, cutoff=0.6) if len(text) <= SHOWN else []
    hint = f"; did you mean {near[0]}?" if near else "; GET /openapi.json names what is"
    return refused(404, f"no such path {shown(text)}{hint}", code="unknown_path")


def wrong_method(path: bytes, allowed: bytes = b"POST") -> Refused:
    """405 for a path that exists but not for this method."""
    text = shown(path.decode("utf-8", "replace"))
    return refused(405, f"{text} takes {allowed.decode()} only", headers=((b"allow", allowed),))


def shown(text: str) -> str:
    """A client's text, quoted, on one line and cut to `SHOWN` characters."""
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")


def rendered(
    refusal: Refused, kind: Kind | None = None
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body of the answer; `kind` `None` is a path of the gateway's own.

    The headers have Content-Type, Content-Length and, where waiting helps, Retry-After in whole
    seconds (RFC 9110 §10.2.3), rounded up and at least one.
    """
    body = msgspec.json.encode(_body(refusal, kind))
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *refusal.headers,
    ]
    if refusal.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(refusal.retry_after))))
    return refusal.status, headers, body


def event(refusal: Refused, kind: Kind) -> bytes:
    """The refusal as the last event of a stream that has begun.

    `/v1/responses` gets OpenAI's `error` event with the error object beside its fields, so that
    clients that know the event and clients that look for the object both see it.
    """
    body = _body(refusal, kind)
    if kind.name == "responses":
        error = body["error"]
        fields = {name: error[name] for name in ("code", "message", "param")}
        body = {"type": "error", "sequence_number": 0, **fields, "error": error}
    text = msgspec.json.encode(body)
    if "type" in body:
        return b"event: error\ndata: %b\n\n" % text
    return b"data: %b\n\n" % text


def _body(refusal: Refused, kind: Kind | None) -> dict[str, Any]:
    if kind is not None and kind.shape == "anthropic":
        name = NAMES[refusal.status].anthropic
        return {"type": "error", "error": {"type": name, "message": refusal.message}}
    return {
        "error": {
            "message": refusal.message,
            "type": refusal.type,
            "param": refusal.param,
            "code": refusal.code,
        }
    }
