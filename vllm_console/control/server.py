"""The control API: HTTP/JSON on the fleet's unix socket, a pure ASGI application.

    GET  /v1/snapshot                      the newest snapshot
    GET  /v1/snapshots                     one snapshot a line, as they are made
    GET  /v1/snapshots/at?time=…           the fleet as it was: "-2h", "yesterday 14:00", ISO 8601
    GET  /v1/events?after=N&limit=M        events above N, since=TIME, level=LEAST; with follow=1
                                           one a line, for ever
    GET  /v1/audit?after=N&limit=M         the commands that were given, likewise
    POST /v1/commands                      {"verb": …, …}
    GET  /v1/history?subject=…&metric=…    graph series (both may repeat), seconds, step, until
    GET  /v1/history/{subject}?metric=…    any metric of any span: since, until, quantiles, step,
                                           by, compare, as `vllm-console history` has them
    GET  /metrics                          the fleet as Prometheus text
    GET  /v1/logs/{worker}?offset=…        a worker's log from a byte offset, or its last lines

An error is {"error": {"message", "exit_code"}} with the HTTP status that fits.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote

from vllm_console.answer import Answer, Question
from vllm_console.control.audit import AuditLog
from vllm_console.control.events import EventLog
from vllm_console.control.exposition import CONTENT_TYPE
from vllm_console.control.numbered import NumberedLog
from vllm_console.control.peer import Asker, asker_of
from vllm_console.errors import ConsoleError, InvalidInput, NotFound, TimedOut
from vllm_console.history.asking import SINCE, question
from vllm_console.history.records import LEVELS, Span
from vllm_console.snapshot import to_json

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Query = Mapping[str, Sequence[str]]

_STATUS = {InvalidInput: 400, NotFound: 404, TimedOut: 504}
_BODY_MAX = 1 << 20
_ENTRIES_MAX = 10_000
"""Entries of a log in one answer."""
_UNRECORDED = ("load-plan", "config", "fleet-file")
"""Looks that a screen repeats each second: the audit would hold nothing else."""
_LOOKS_ONLY = ("plan", "revisions", *_UNRECORDED)
"""Commands that change nothing."""


class Controlled(Protocol):
    """What the control API serves: the daemon, or a fake of it."""

    events: EventLog
    audit: AuditLog

    def snapshot_json(self) -> bytes:
        """The fleet as it is now."""

    async def snapshot_at(self, moment: str) -> bytes:
        """The fleet as it was at a time that a person wrote."""

    def metrics(self) -> bytes:
        """The fleet as Prometheus text."""

    def snapshot_stream(self) -> AsyncIterator[bytes]:
        """Each snapshot from now on."""

    async def series(
        self,
        subjects: Sequence[str],
        metrics: Sequence[str],
        seconds: float,
        step: float,
        until: float | None = None,
    ) -> dict[str, dict[str, list[float | None]]]:
        """Graph series by subject and metric, up to `until` (seconds since the epoch) or now."""

    async def answer(self, question: Question) -> Answer:
        """What the stored past says."""

    def log(self, worker: str, offset: int | None, lines: int) -> tuple[int, str]:
        """The next byte offset of a worker's log, and the text before it."""

    async def command(self, verb: str, args: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one command."""


class ControlApi:
    """The ASGI application over one `Controlled`."""

    def __init__(self, fleet: Controlled) -> None:
        self.fleet = fleet
        self._ended = asyncio.Event()

    def end_streams(self) -> None:
        """Finish every stream, now and from now on: the daemon ends."""
        self._ended.set()

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
                await self._stream(receive, send, self.fleet.snapshot_stream())
            case "GET", "/v1/snapshots/at":
                asked_for = query.get("time", ("",))[-1]
                await _reply(send, 200, await self.fleet.snapshot_at(asked_for))
            case "GET", "/metrics":
                await _reply(send, 200, self.fleet.metrics(), CONTENT_TYPE)
            case "GET", "/v1/events":
                await self._log(receive, send, query, self.fleet.events, "events")
            case "GET", "/v1/audit":
                await self._log(receive, send, query, self.fleet.audit, "audit")
            case "GET", "/v1/history":
                await _reply(send, 200, _dump({"series": await self._series(query)}))
            case "GET", _ if path.startswith("/v1/history/"):
                asked = _question(path.removeprefix("/v1/history/"), query)
                await _reply(send, 200, _dump(to_json(await self.fleet.answer(asked))))
            case "GET", _ if path.startswith("/v1/logs/"):
                offset = _integer(query, "offset", -1)
                end, text = self.fleet.log(
                    unquote(path.removeprefix("/v1/logs/")),
                    None if offset < 0 else offset,
                    _integer(query, "lines", 200),
                )
                await _reply(send, 200, _dump({"offset": end, "text": text}))
            case "POST", "/v1/commands":
                await _reply(send, 200, _dump(await self._command(asker_of(scope), receive)))
            case _:
                await _reply(send, 404, _error(f"no {method} {path} in the control API", 2))

    async def _command(self, asker: Asker, receive: Receive) -> dict[str, Any]:
        try:
            body = await _body(receive)
            verb = body.pop("verb", None)
            if not isinstance(verb, str):
                raise InvalidInput('a command is {"verb": "…", …}')
        except ConsoleError:
            with self.fleet.audit.record(asker, "?", {}):
                raise
        if asker.uid not in (None, os.getuid()) and verb not in _LOOKS_ONLY:
            subject = body.get("model") if isinstance(body.get("model"), str) else "fleet"
            self.fleet.events.add("info", str(subject), f"{verb} asked for by {asker.user}")
        if verb in _UNRECORDED:
            return await self.fleet.command(verb, body)
        with self.fleet.audit.record(asker, verb, body):
            return await self.fleet.command(verb, body)

    async def _log(
        self, receive: Receive, send: Send, query: Query, log: NumberedLog[Any], name: str
    ) -> None:
        """Answer with entries of a log, or follow it."""
        after = _integer(query, "after", 0)
        if _integer(query, "follow", 0):
            entries = log.follow(after)
            await self._stream(receive, send, (_dump(to_json(e)) async for e in entries))
            return
        level = query.get("level", LEVELS[:1])[-1]
        if level not in LEVELS:
            raise InvalidInput(f"level={level}: is one of {', '.join(LEVELS)}")
        limit = min(_integer(query, "limit", 1000), _ENTRIES_MAX)
        since = query.get("since", (None,))[-1]
        found = await asyncio.to_thread(
            log.find, Span(after=after, limit=limit, since=since, level=level)
        )
        await _reply(send, 200, _dump({name: [to_json(e) for e in found]}))

    async def _stream(self, receive: Receive, send: Send, lines: AsyncIterator[bytes]) -> None:
        """Send lines until the source, the client or the daemon ends."""
        await send(_head(200, b"application/x-ndjson"))

        async def pump() -> None:
            async for line in lines:
                await send({"type": "http.response.body", "body": line + b"\n", "more_body": True})

        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        work = (pump(), gone(), self._ended.wait())
        tasks = {asyncio.ensure_future(each) for each in work}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await send({"type": "http.response.body", "body": b""})

    async def _series(self, query: Query) -> dict[str, dict[str, list[float | None]]]:
        seconds, step = _number(query, "seconds", 600.0), _number(query, "step", 1.0)
        if not 0 < step <= seconds <= 400 * 86400 or seconds / step > 20_000:
            raise InvalidInput(f"seconds={seconds:g} step={step:g}: at most 20000 steps")
        subjects, metrics = query.get("subject", ()), query.get("metric", ())
        until = _number(query, "until", math.nan)
        known = until if math.isfinite(until) else None
        return await self.fleet.series(subjects, metrics, seconds, step, known)


async def _reply(send: Send, status: int, body: bytes, kind: bytes = b"application/json") -> None:
    await send(_head(status, kind, len(body)))
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


def _question(subject: str, query: Query) -> Question:
    def one(name: str) -> str | None:
        return query.get(name, (None,))[-1]

    return question(
        subject,
        metrics=query.get("metric", ()),
        quantiles=one("quantiles") or "50,95,99",
        since=one("since") or SINCE,
        until=one("until") or "now",
        step=one("step"),
        by=one("by"),
        compare=one("compare"),
        now=time.time(),
    )


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
