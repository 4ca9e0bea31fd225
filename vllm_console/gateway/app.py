"""What the endpoint answers itself: its models, its health and its numbers, as an ASGI application.

Requests for workers do not come here (`connection`). Everything is made of what is in memory.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, final
from urllib.parse import unquote

import msgspec

from vllm_console.gateway import catalogue, heads, openapi, refusals
from vllm_console.gateway.exposition import CONTENT_TYPE, exposition
from vllm_console.gateway.keyring import Key
from vllm_console.gateway.paths import KIND
from vllm_console.gateway.refusals import Refused
from vllm_console.gateway.routes import Gateway
from vllm_console.gateway.stats import Stats

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Answer = tuple[int, heads.Fields, bytes]

_JSON = (b"content-type", b"application/json")
_PREFLIGHT_S = b"600"
"""Seconds a browser may remember what it may do: what Chromium keeps at most is 7200."""


@final
class App:
    """The application; `gateway` is what its connections route by."""

    def __init__(self, gateway: Gateway, stats: Stats) -> None:
        self.gateway = gateway
        self.stats = stats
        self._document = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request of ASGI 3; its body, if it has one, is not read."""
        path: bytes = scope["raw_path"]
        fields: heads.Fields = scope["headers"]
        said = dict(fields)
        kind = KIND.get(path)
        try:
            status, answered, body = self._answer(scope["method"], path, said)
        except Refused as refused:
            status, answered, body = refusals.rendered(refused, kind)
        sent = [field for field in answered if field[0] != b"content-length"]
        sent.append((b"content-length", b"%d" % len(body)))
        sent.append((b"x-request-id", heads.request_id(said.get(b"x-request-id"))))
        for line in heads.cross_origin(said.get(b"origin"), self.gateway.table.cors).splitlines():
            name, _, value = line.partition(b": ")
            sent.append((name, value))
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, method: str, path: bytes, said: dict[bytes, bytes]) -> Answer:
        if method == "OPTIONS":
            return self._preflight(path, said)
        own = path in _OWN or path.startswith(_MODEL)
        if not own:
            raise refusals.unknown_path(path)
        if method not in ("GET", "HEAD"):
            raise refusals.wrong_method(path, b"GET")
        if path == b"/health":
            return 200, [_JSON], b'{"status":"ok"}'
        if path == b"/ready":
            return self._ready()
        if path == b"/openapi.json":
            self._document = self._document or openapi.document(self.stats.version)
            return 200, [_JSON], self._document
        key = self.gateway.keyring.find(said.get(b"authorization"), said.get(b"x-api-key"))
        if isinstance(key, Refused):
            raise key
        if path == b"/metrics":
            text = exposition(self.gateway, self.stats, time.monotonic())
            return 200, [(b"content-type", CONTENT_TYPE)], text
        if path == b"/stats":
            return 200, [_JSON], msgspec.json.encode(self.stats.picture(time.monotonic()))
        return self._models(path, key)

    def _ready(self) -> Answer:
        why = "the gateway is shutting down" if self.gateway.draining else None
        why = why or catalogue.ready(self.gateway.table)
        if why is not None:
            raise refusals.refused(503, why, code="not_ready", retry_after=1.0)
        return 200, [_JSON], b'{"status":"ready"}'

    def _models(self, path: bytes, key: Key) -> Answer:
        table = self.gateway.table
        if path == b"/v1/models":
            return 200, [_JSON], msgspec.json.encode(catalogue.listing(table, key.allows))
        name = unquote(path[len(_MODEL) :].decode("ascii", "replace"))
        entry = catalogue.one(table, name, key.allows)
        if entry is None:
            allowed = [one for one, live in self.gateway.names.items() if key.allows(live.name)]
            raise refusals.unknown_model(name, allowed)
        return 200, [_JSON], msgspec.json.encode(entry)

    def _preflight(self, path: bytes, said: dict[bytes, bytes]) -> Answer:
        """What a browser asks before it sends a page's request (Fetch, CORS preflight)."""
        allowed = b"POST" if path in KIND else b"GET"
        if path not in KIND and path not in _OWN and not path.startswith(_MODEL):
            raise refusals.unknown_path(path)
        fields = [(b"allow", allowed + b", OPTIONS")]
        origin = said.get(b"origin")
        if b"allow-origin" in heads.cross_origin(origin, self.gateway.table.cors):
            wanted = said.get(b"access-control-request-headers", b"authorization, content-type")
            fields += [
                (b"access-control-allow-methods", allowed),
                (b"access-control-allow-headers", wanted),
                (b"access-control-max-age", _PREFLIGHT_S),
            ]
        return 204, fields, b""


_OWN = frozenset({b"/v1/models", b"/health", b"/ready", b"/metrics", b"/stats", b"/openapi.json"})
_MODEL = b"/v1/models/"
