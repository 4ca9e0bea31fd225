"""The control API: HTTP/JSON on the fleet's unix socket, a pure ASGI application.

    GET  /v1/snapshot                      the newest snapshot
    GET  /v1/snapshots                     one snapshot a line, as they are made
    GET  /v1/events?after=N&limit=M        events above N; with follow=1 one a line, for ever
    POST /v1/commands                      {"verb": …, …}
    GET  /v1/history?subject=…&metric=…    graph series (both may repeat), seconds, step
    GET  /v1/logs/{worker}?offset=…        a worker's log from a byte offset, or its last lines

An error is {"error": {"message", "exit_code"}} with the HTTP status that fits.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote

from vllm_console.errors import ConsoleError, InvalidInput, NotFound, TimedOut
from vllm_console.snapshot import Event, to_json

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Query = Mapping[str, Sequence[str]]

_STATUS = {InvalidInput: 400, NotFound: 404, TimedOut: 504}
_BODY_MAX = 1 << 20


class Controlled(Protocol):
    """What the control API serves: the daemon, or a fake of it."""

    def snapshot_json(self) -> bytes:
        """The fleet as it is now."""

    def snapshot_stream(self) -> AsyncIterator[bytes]:
        """Each snapshot from now on."""

    def events_after(self, seq: int, limit: int) -> list[Event]:
        """Events above `seq`, oldest first."""

    def follow_events(self, seq: int) -> AsyncIterator[Event]:
        """Events above `seq`, then each new one."""

    def series(self, subject: str, metric: str, seconds: float, step: float) -> list[float | None]:
        """One graph series."""

    def log(self, worker: str, offset: int | None, lines: int) -> tuple[int, str]:
        """The next byte offset of a worker's log, and the text before it."""

    async def command(self, verb: str, args: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one command."""


class ControlApi:
    """The ASGI application over one `Controlled`."""

    def __init__(self, fleet: Controlled) -> None:
        self.fleet = fleet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a user's mistake is a JSON error, never a broken connection."""
        if scope["type"] != "http":
            return
        try:
            await self._route(scope, receive, send)
        except ConsoleError as error:
            status = next((s for k, s in _STATUS.items() if isinstance(error, k)), 409)
            await _reply(send, status, _error(str(error), error.exit_code))

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        query = parse_qs(scope["query_string"].decode("ascii", "replace"))
        match method, path:
            case "GET", "/v1/snapshot":
                await _reply(send, 200, self.fleet.snapshot_json())
            case "GET", "/v1/snapshots":
                await _stream(receive, send, self.fleet.snapshot_stream())
            case "GET", "/v1/events" if _integer(query, "follow", 0):
                events = self.fleet.follow_events(_integer(query, "after", 0))
                await _stream(receive, send, (_dump(to_json(e)) async for e in events))
            case "GET", "/v1/events":
                found = self.fleet.events_after(
                    _integer(query, "after", 0), _integer(query, "limit", 1000)
                )
                await _reply(send, 200, _dump({"events": [to_json(e) for e in found]}))
            case "GET", "/v1/history":
                await _reply(send, 200, _dump({"series": self._series(query)}))
            case "GET", _ if path.startswith("/v1/logs/"):
                offset = _integer(query, "offset", -1)
                end, text = self.fleet.log(
                    unquote(path.removeprefix("/v1/logs/")),
                    None if offset < 0 else offset,
                    _integer(query, "lines", 200),
                )
                await _reply(send, 200, _dump({"offset": end, "text": text}))
            case "POST", "/v1/commands":
                body = await _body(receive)
                verb = body.pop("verb", None)
                if not isinstance(verb, str):
                    raise InvalidInput('a command is {"verb": "…", …}')
                await _reply(send, 200, _dump(await self.fleet.command(verb, body)))
            case _:
                await _reply(send, 404, _error(f"no {method} {path} in the control API", 2))

    def _series(self, query: Query) -> dict[str, dict[str, list[float | None]]]:
        seconds, step = _number(query, "seconds", 600.0), _number(query, "step", 1.0)
        if not 0 < step <= seconds <= 400 * 86400 or seconds / step > 20_000:
            raise InvalidInput(f"seconds={seconds:g} step={step:g}: at most 20000 steps")
        return {
            subject: {
                metric: self.fleet.series(subject, metric, seconds, step)
                for metric in query.get("metric", ())
            }
            for subject in query.get("subject", ())
        }


async def _stream(receive: Receive, send: Send, lines: AsyncIterator[bytes]) -> None:
    """Send lines until the source or the client ends."""
    await send(_head(200, b"application/x-ndjson"))

    async def pump() -> None:
        async for line in lines:
            await send({"type": "http.response.body", "body": line + b"\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = {asyncio.ensure_future(pump()), asyncio.ensure_future(gone())}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _reply(send: Send, status: int, body: bytes) -> None:
    await send(_head(status, b"application/json", len(body)))
    await send({"type": "http.response.body", "body": body})


def _head(status: int, kind: bytes, length: int | None = None) -> Message:
    headers = [(b"content-type", kind)]
    if length is not None:
        headers.append((b"content-length", b"%d" % length))
    return {"type": "http.response.start", "status": status, "headers": headers}


async def _body(receive: Receive) -> dict[str, Any]:
    parts = bytearray()
    while True:
        message = await receive()
        parts += message.get("body", b"")
        if len(parts) > _BODY_MAX:
            raise InvalidInput(f"the command is larger than {_BODY_MAX} bytes")
        if not message.get("more_body"):
            break
    try:
        data = json.loads(bytes(parts))
    except ValueError as error:
        raise InvalidInput(f"the command is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise InvalidInput('a command is {"verb": "…", …}')
    return data


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _error(message: str, exit_code: int) -> bytes:
    return _dump({"error": {"message": message, "exit_code": exit_code}})


def _integer(query: Query, name: str, default: int) -> int:
    text = query.get(name, (str(default),))[-1]
    try:
        return int(text)
    except ValueError:
        raise InvalidInput(f"{name}={text}: not a whole number") from None


def _number(query: Query, name: str, default: float) -> float:
    text = query.get(name, (str(default),))[-1]
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"{name}={text}: not a number") from None
