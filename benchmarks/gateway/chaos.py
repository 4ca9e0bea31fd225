"""Requests while everything around them breaks: what was lost, what was wrong, what went on.

    python -m benchmarks.gateway.chaos [--count 10000] [--seed 1] [--connections 64]

Clients hang up at random moments, fake workers are killed and started again, the gateway is
restarted while it serves, daemons connect, send a table and are gone. Every byte of an answer is
known from its request, and the workers write down when each of theirs ended. Exit code 1 when an
answer was lost without an error, a byte was wrong, or a request went on for a client that had gone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.common import table
from benchmarks.faults.table import until
from benchmarks.gateway.client import Connection, Cut
from benchmarks.gateway.ours import Standalone, standalone
from benchmarks.gateway.processes import Tools, free_ports, listens, tools
from benchmarks.gateway.targets import MODEL
from benchmarks.gateway.workers import Workers

WORKERS = 4
PATH = "/v1/chat/completions"
LEAVES = 0.25
"""Share of clients that hang up before their answer is over."""
ENDS_S = 2.0
"""Within this a worker knows that a client has gone."""
QUIET_S = 15.0
LIMIT_S = 300.0
"""A run that takes longer is broken off, and has failed."""


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
        chunks=chance.randint(1, 60),
        pace_us=chance.choice((0, 500, 2000, 5000)),
        leaves_after_s=chance.uniform(0.0, 0.15) if by_time else None,
        leaves_after_pieces=chance.randint(0, 8) if leaves and not by_time else None,
    )


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m benchmarks.gateway.chaos")
    options.description = (__doc__ or "").partition("\n")[0]
    options.add_argument("--count", type=int, default=10_000, help="requests")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--connections", type=int, default=64, help="clients at a time")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="vllm-console-chaos-") as root:
        made = tools(Path(root))
        return _run(made, Path(root), given.count, given.seed, given.connections)


def _run(made: Tools, root: Path, count: int, seed: int, connections: int) -> int:
    ports = free_ports(WORKERS)
    with Workers(made, root, ports, "-e", "-m", MODEL) as workers:
        until(lambda: all(map(listens, ports)), 10.0, "the workers listen")
        with standalone(root, {MODEL: ports}) as gateway:
            seen = Seen()
            began = time.monotonic()
            faults = asyncio.run(_storm(seen, gateway, workers, count, seed, connections))
            took = time.monotonic() - began
            calm = _calm(gateway, workers)
            going_on, ends_ms = workers.went_on(seen.left, ENDS_S)
            one = len(gateway.processes())
    rows: list[list[object]] = [
        ["requests", count, ""],
        *([f"  {name}", number, ""] for name, number in sorted(seen.outcomes.items())),
        ["sent again: the connection was idle and closed", seen.again, ""],
        *([name, number, ""] for name, number in sorted(faults.items())),
        ["answers lost without an error", len(seen.lost), "0"],
        ["answers with wrong bytes", len(seen.wrong), "0"],
        [f"requests that ran on for {ENDS_S:g} s after their client left", going_on, "0"],
        ["from a client's leaving to the end at the worker, p99 (ms)", ends_ms, ""],
        ["requests that workers still run at the end", calm, "0"],
        ["gateway processes at the end", one, "1"],
        ["seconds", took, ""],
    ]
    table(rows, ["", "", "goal"])
    for kind, examples in (("lost", seen.lost), ("wrong", seen.wrong)):
        for example in examples[:5]:
            print(f"{kind}: {example}")
    answered = sum(seen.outcomes.values())
    if answered != count:
        print(f"broken off after {LIMIT_S:g} s: {answered} of {count} requests are over")
    sound = not seen.lost and not seen.wrong and not going_on and not calm and one == 1
    return 0 if sound and answered == count else 1


async def _storm(
    seen: Seen, gateway: Standalone, workers: Workers, count: int, seed: int, connections: int
) -> Counter[str]:
    """Send everything while faults go on; how many of each fault there were."""
    numbers = iter(range(count))
    faults: Counter[str] = Counter()
    breaking = [
        asyncio.create_task(_kill_workers(workers, faults, random.Random(f"{seed}/kills"))),
        asyncio.create_task(_restart(gateway, faults, random.Random(f"{seed}/restarts"))),
        asyncio.create_task(_daemons(gateway, faults, random.Random(f"{seed}/daemons"))),
    ]

    async def client() -> None:
        connection: Connection | None = None
        for number in numbers:
            connection = await _one(
                seen, gateway.port, gateway.secret, drawn(seed, number), connection
            )
        if connection is not None:
            connection.abort()

    clients = [asyncio.create_task(client()) for _ in range(connections)]
    try:
        await asyncio.wait(clients, timeout=LIMIT_S)
        for each in clients:
            if each.done():
                each.result()
    finally:
        for task in (*clients, *breaking):
            task.cancel()
        done = await asyncio.gather(*breaking, return_exceptions=True)
    for result in done:
        if isinstance(result, Exception):
            raise result
    return faults


async def _one(
    seen: Seen, port: int, key: str, ask: Ask, connection: Connection | None
) -> Connection | None:
    """One request to its end; the connection for the next one, if it can be used again."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    headers["x-request-id"] = ask.user
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
        return f"error told: {reply.status} {told['type']}"
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


# --- faults --------------------------------------------------------------------------------------


async def _kill_workers(workers: Workers, faults: Counter[str], chance: random.Random) -> None:
    while True:
        await asyncio.sleep(chance.uniform(0.2, 1.0))
        port = chance.choice(workers.ports)
        workers.kill(port)
        faults["workers killed"] += 1
        await asyncio.sleep(chance.uniform(0.05, 1.0))
        workers.start(port)


async def _restart(gateway: Standalone, faults: Counter[str], chance: random.Random) -> None:
    while True:
        await asyncio.sleep(chance.uniform(1.0, 3.0))
        await asyncio.to_thread(gateway.start)
        faults["gateway restarts"] += 1


async def _daemons(gateway: Standalone, faults: Counter[str], chance: random.Random) -> None:
    """Daemons that connect, send a table, and are killed."""
    version = gateway.routes.version
    while True:
        await asyncio.sleep(chance.uniform(0.1, 0.6))
        version += 1
        newer = msgspec.structs.replace(gateway.routes, version=version)
        with contextlib.suppress(OSError):  # at that moment one gateway takes over from another
            await asyncio.to_thread(gateway.tell, table=newer)
            faults["daemons come and gone"] += 1


def _calm(gateway: Standalone, workers: Workers) -> int:
    """Requests that still run once all clients are gone and the old gateways had time to end."""

    def still() -> bool:
        return not workers.running() and len(gateway.processes()) <= 1

    with contextlib.suppress(Exception):
        until(still, QUIET_S, "nothing runs", every_s=0.1)
    return workers.running()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        raise SystemExit(main())
