"""Clients whose every answer is known beforehand, and what became of their requests.

What a request is follows from a seed and its number: whether it streams, how long it is, when its
client hangs up. A fake worker answers with the words that `Ask.text` has.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gateway.client import Connection, Cut
from benchmarks.gateway.targets import MODEL

PATH = "/v1/chat/completions"
LEAVES = 0.25
"""Share of clients that mean to hang up before their answer is over."""
LIMIT_S = 300.0
"""A storm that takes longer is broken off, and has failed."""


@dataclass
class Seen:
    """What became of the requests."""

    outcomes: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    """Answers that ended without their end and without an error."""
    wrong: list[str] = field(default_factory=list)
    """Answers with a byte that is not theirs."""
    again: int = 0
    """Requests sent once more, as an idle connection was closed under them."""
    left: dict[str, int] = field(default_factory=dict)
    """When a client hung up, monotonic nanoseconds, by its request."""


@dataclass(frozen=True)
class Ask:
    """One request, all of it drawn from the seed."""

    user: str
    stream: bool
    chunks: int
    pace_us: int
    leaves_after_s: float | None
    leaves_after_pieces: int | None

    @property
    def body(self) -> Mapping[str, Any]:
        """As it is sent."""
        return {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"as {self.user}"}],
            "user": self.user,
            "stream": self.stream,
            "max_tokens": self.chunks,
            "seed": self.pace_us,
        }

    @property
    def text(self) -> str:
        """The whole answer to it."""
        return "".join(f"{self.user}:{index} " for index in range(self.chunks))


def drawn(seed: int, number: int) -> Ask:
    """The request of this number."""
    chance = random.Random(f"{seed}/{number}")
    stream = chance.random() < 0.7
    leaves = chance.random() < LEAVES
    by_time = leaves and chance.random() < 0.5
    return Ask(
        user=f"c{seed}-{number}",
        stream=stream,
        chunks=chance.randint(1, 100),
        pace_us=chance.choice((0, 1000, 5000, 10_000)),
        leaves_after_s=chance.uniform(0.0, 0.3) if by_time else None,
        leaves_after_pieces=chance.randint(0, 20) if leaves and not by_time else None,
    )


async def storm(
    seen: Seen,
    port: int,
    key: str | None,
    *,
    seed: int,
    count: int,
    connections: int,
    breaking: Sequence[Coroutine[Any, Any, None]],
) -> None:
    """Send all requests, so many at a time, while what is `breaking` goes on beside them."""
    numbers = iter(range(count))
    beside = [asyncio.create_task(each) for each in breaking]

    async def client() -> None:
        connection: Connection | None = None
        for number in numbers:
            connection = await _one(seen, port, key, drawn(seed, number), connection)
        if connection is not None:
            connection.abort()

    clients = [asyncio.create_task(client()) for _ in range(connections)]
    try:
        await asyncio.wait(clients, timeout=LIMIT_S)
        for each in clients:
            if each.done():
                each.result()
    finally:
        for task in (*clients, *beside):
            task.cancel()
        done = await asyncio.gather(*beside, return_exceptions=True)
    for result in done:
        if isinstance(result, Exception):
            raise result


async def _one(
    seen: Seen, port: int, key: str | None, ask: Ask, connection: Connection | None
) -> Connection | None:
    """One request to its end; the connection for the next one, if it can be used again."""
    headers = {"content-type": "application/json", "x-request-id": ask.user}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    for _ in range(2):
        try:
            connection = connection or await Connection.open(port)
        except OSError as error:
            seen.lost.append(f"{ask.user}: refused: {error}")
            seen.outcomes["lost"] += 1
            return None
        try:
            outcome = await asyncio.wait_for(
                _answer(seen, ask, connection, headers), ask.leaves_after_s
            )
        except TimeoutError:
            outcome = "client left"
        except Cut as cut:
            again = connection.used and not cut.heard
            connection.abort()
            if again:  # it had been idle: RFC 9112, 9.3.1, a client asks once more
                seen.again += 1
                connection = None
                continue
            reply = connection.reply
            known = reply is not None and "content-length" in reply.headers
            if cut.heard and known:
                outcome = "error told: cut before its content-length"
            else:
                outcome = "lost"
                seen.lost.append(f"{ask.user}: {cut}")
            connection = None
        break
    seen.outcomes[outcome] += 1
    if outcome == "client left":
        assert connection is not None
        seen.left[ask.user] = time.monotonic_ns()
        connection.abort()
        return None
    return connection if connection is not None and connection.stays else None


async def _answer(seen: Seen, ask: Ask, connection: Connection, headers: Mapping[str, str]) -> str:
    """Send, read, compare; what became of it. Raises `Cut`."""
    reply = await connection.ask(ask.body, headers, PATH)
    pieces: list[bytes] = []
    if ask.leaves_after_pieces == 0:
        return "client left"
    async for piece in connection.pieces():
        pieces.append(piece)
        if len(pieces) == ask.leaves_after_pieces:
            return "client left"
    body = b"".join(pieces)
    if reply.status != 200:
        try:
            told = json.loads(body)["error"]
        except (ValueError, KeyError, TypeError):
            seen.lost.append(f"{ask.user}: HTTP {reply.status} without an error: {body[:80]!r}")
            return "lost"
        return f"error told: {reply.status} {told['message']}"
    try:
        text, whole, error = _streamed(body) if ask.stream else _unary(body)
    except (ValueError, KeyError, TypeError, IndexError) as problem:
        seen.wrong.append(f"{ask.user}: {problem}: {body[-120:]!r}")
        return "wrong"
    if not ask.text.startswith(text) or (whole and text != ask.text):
        seen.wrong.append(f"{ask.user}: {text[-60:]!r} of {len(text)} bytes")
        return "wrong"
    if whole:
        return "complete"
    if error:
        return "error told: in the stream"
    seen.lost.append(f"{ask.user}: ends without [DONE] or an error: {body[-80:]!r}")
    return "lost"


def _streamed(body: bytes) -> tuple[str, bool, bool]:
    """The text of an event stream, whether it is whole, and whether it tells an error."""
    text: list[str] = []
    whole = error = False
    for event in body.split(b"\n\n"):
        if not event or event.startswith(b":"):
            continue
        if not event.startswith(b"data: "):
            raise ValueError(f"no event: {event[:60]!r}")
        if event == b"data: [DONE]":
            whole = True
            continue
        data = json.loads(event[6:])
        if "error" in data:
            error = True
        elif not data["choices"]:
            raise ValueError("usage that nobody asked for")
        else:
            text.append(data["choices"][0]["delta"]["content"])
    if whole and error:
        raise ValueError("an error and [DONE]")
    return "".join(text), whole, error


def _unary(body: bytes) -> tuple[str, bool, bool]:
    return json.loads(body)["choices"][0]["message"]["content"], True, False
