"""Attacks on the HTTP path: nothing may crash it, leak from it, reach a worker or answer 500.

    python -m benchmarks.gateway.fuzz [--count 5000] [--seed 1] [--keys 10000] [--only TEXT]

Raw sockets send what `hostile` holds, the smuggling set of RFC 9112 among it, random mutations,
bodies of 100 MB, bytes one by one, and wrong keys; schemathesis reads /openapi.json and tries what
it says. Between the rows the process has to be the same, its memory and descriptors as before.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common import table
from benchmarks.faults.table import NotMet, until
from benchmarks.gateway import hostile
from benchmarks.gateway.hostile import HUNG_UP, Case
from benchmarks.gateway.ours import Standalone, standalone
from benchmarks.gateway.processes import Missing, free_ports, listens, tools
from benchmarks.gateway.targets import MODEL, rival_environment
from benchmarks.gateway.workers import Workers

AT_ONCE = 32
ANSWER_S = 15.0
"""Within this the worst request is refused or cut off: the header's limit is 10 s."""
SLOW_CLIENTS = 200
BODY_BYTES = 100 << 20
LEAK_KB = 8192
"""Growth of memory over one row that is still no leak; beyond it the attack is tried again."""
FILES_MORE = 8
"""Descriptors beyond those before an attack: connections to workers are kept for a while."""
CLOSED_S = 10.0
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@dataclass
class Row:
    """One kind of attack, and what came of it."""

    name: str
    statuses: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    note: str = ""


Attack = Callable[[Standalone, Workers, argparse.Namespace], Awaitable[Row]]


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m benchmarks.gateway.fuzz")
    options.description = (__doc__ or "").partition("\n")[0]
    options.add_argument("--count", type=int, default=5000, help="random mutations")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--keys", type=int, default=10_000, help="wrong keys")
    options.add_argument("--examples", type=int, default=20, help="of schemathesis, an operation")
    options.add_argument("--only", metavar="TEXT", default="", help="attacks whose name has it")
    given = options.parse_args()
    rows: list[list[object]] = []
    broken: list[str] = []
    with tempfile.TemporaryDirectory(prefix="vllm-console-fuzz-") as root:
        ports = free_ports(2)
        with Workers(tools(Path(root)), Path(root), ports, "-m", MODEL) as workers:
            until(lambda: all(map(listens, ports)), 10.0, "the workers listen")
            with standalone(Path(root), {MODEL: ports}) as gateway:
                for name, attack in ATTACKS.items():
                    if given.only in name:
                        row = asyncio.run(_guarded(gateway, workers, given, attack))
                        broken += [f"{name}: {problem}" for problem in row.problems]
                        rows.append(_shown(row))
    table(rows, ["attack", "requests", "answers", "problems", "note"])
    for problem in broken[:30]:
        print(problem)
    return 1 if broken else 0


async def _guarded(
    gateway: Standalone, workers: Workers, given: argparse.Namespace, attack: Attack
) -> Row:
    """One attack, with a look at the process before and after it."""
    await _serves(gateway)  # files and connections that stay open are open from here on
    pid, files = gateway.pid, gateway.open_files()
    memory = gateway.rss_kb()
    began = time.monotonic()
    row = await attack(gateway, workers, given)
    took = time.monotonic() - began
    if gateway.processes() == [pid] and gateway.rss_kb() - memory > LEAK_KB:
        memory = gateway.rss_kb()  # what an allocator keeps for next time is no leak
        await attack(gateway, workers, given)
    if gateway.processes() != [pid]:
        row.problems.append(f"the process is another: {gateway.said()}")
        return row
    try:
        await asyncio.to_thread(
            until, lambda: gateway.open_files() <= files + FILES_MORE, CLOSED_S, "files are closed"
        )
    except NotMet:
        row.problems.append(f"{gateway.open_files() - files} descriptors more than before")
    grown = gateway.rss_kb() - memory
    if grown > LEAK_KB:
        row.problems.append(f"{grown} kB more than before")
    row.note = "; ".join(filter(None, (row.note, f"{took:.1f} s, memory {grown:+d} kB")))
    if not await _serves(gateway):
        row.problems.append("it does not serve a sound request any more")
    return row


def _shown(row: Row) -> list[object]:
    answers = ", ".join(
        f"{count}× {status or 'closed'}" for status, count in sorted(row.statuses.items())
    )
    return [row.name, sum(row.statuses.values()), answers, len(row.problems), row.note]


# --- sending -------------------------------------------------------------------------------------


async def _said(port: int, data: bytes, *, half_close: bool, patience_s: float) -> bytes:
    """Send bytes and read all that comes back until the end, or until nothing more does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    heard = bytearray()
    try:
        with contextlib.suppress(OSError):
            writer.write(data)
            if half_close:
                writer.write_eof()
            async with asyncio.timeout(patience_s):
                while piece := await reader.read(65536):
                    heard += piece
    except TimeoutError:
        pass
    finally:
        writer.transport.abort()
    return bytes(heard)


async def _try(row: Row, gateway: Standalone, case: Case, *, half_close: bool) -> None:
    """One case: its answers are counted, those that may not be are problems."""
    patience = ANSWER_S if half_close else 1.0
    heard = await _said(gateway.port, case.data, half_close=half_close, patience_s=patience)
    statuses = [int(status) for status in _STATUS.findall(heard)] or [HUNG_UP]
    row.statuses.update(statuses)
    for status in statuses:
        if status not in case.allowed:
            row.problems.append(f"{case.name}: {status}: {heard[:160]!r}")
    if len(statuses) > max(1, case.reaches):
        row.problems.append(f"{case.name}: {len(statuses)} answers: {statuses}")
    refused = [status for status in statuses if status >= 400]
    if refused and b'"error"' not in heard and b"HTTP/1.1 200" not in heard:
        row.problems.append(f"{case.name}: {refused[0]} in no shape of OpenAI: {heard[:160]!r}")


async def _all(row: Row, gateway: Standalone, cases: Iterable[Case], half_close: bool) -> Row:
    waiting = iter(cases)

    async def client() -> None:
        for case in waiting:
            await _try(row, gateway, case, half_close=half_close)

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return row


async def _serves(gateway: Standalone) -> bool:
    data = hostile.valid(gateway.secret, "connection: close")
    return (await _said(gateway.port, data, half_close=False, patience_s=10.0))[9:12] == b"200"


# --- attacks -------------------------------------------------------------------------------------


async def _smuggling(gateway: Standalone, workers: Workers, given: argparse.Namespace) -> Row:
    row = Row("request smuggling")
    before = await asyncio.to_thread(workers.counted)
    await _all(row, gateway, hostile.smuggling(gateway.secret), half_close=False)
    await asyncio.to_thread(_reached, row, workers, before, 0)
    return row


async def _malformed(gateway: Standalone, workers: Workers, given: argparse.Namespace) -> Row:
    row = Row("malformed heads and bodies")
    before = await asyncio.to_thread(workers.counted)
    await _all(row, gateway, hostile.malformed(gateway.secret), half_close=False)
    await asyncio.to_thread(_reached, row, workers, before, 0)
    return row


async def _sound(gateway: Standalone, workers: Workers, given: argparse.Namespace) -> Row:
    row = Row("unusual and sound")
    return await _all(row, gateway, hostile.sound(gateway.secret), half_close=False)


async def _mutated(gateway: Standalone, workers: Workers, given: argparse.Namespace) -> Row:
    row = Row("random mutations")
    cases = hostile.mutated(gateway.secret, given.seed, given.count)
    return await _all(row, gateway, cases, half_close=True)


async def _slow(gateway: Standalone, workers: Workers, given: argparse.Namespace) -> Row:
    """Heads and bodies one byte at a time: each is cut off, and others are served meanwhile."""
    row = Row("slowloris")
    data = hostile.valid(gateway.secret)
    heads = data.index(b"\r\n\r\n")
    over = asyncio.Event()

    async def drip(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        began = time.monotonic()
        sent = 0 if number % 2 else heads + 6
        with contextlib.suppress(OSError):
            writer.write(data[:sent])
            while time.monotonic() - began < 4 * ANSWER_S and not reader.at_eof():
                writer.write(data[sent : sent + 1] if sent < heads + 5 or number % 2 == 0 else b"")
                sent = min(sent + 1, len(data) - 1)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        heard = await reader.read(65536)
                        row.statuses[int(heard[9:12] or HUNG_UP)] += 1
                        break
            else:
                row.problems.append("a client that sends a byte a second was never cut off")
        writer.transport.abort()

    async def others() -> None:
        while not over.is_set():
            began = time.monotonic()
            if not await _serves(gateway):
                row.problems.append("a sound client was not served meanwhile")
            if (took := time.monotonic() - began) > 1.0:
                row.problems.append(f"a sound client waited for {took:.1f} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 0.5)

    beside = asyncio.create_task(others())
    began = time.monotonic()
    await asyncio.gather(*(drip(number) for number in range(SLOW_CLIENTS)))
    row.note = f"the last is cut off after {time.monotonic() - began:.0f} s"
    over.set()
    await beside
    return row


async def _large(gateway: Standalone, workers: Workers, given: argparse.Namespace) -> Row:
    """Bodies of 100 MB, announced or not, several at once."""
    row = Row("100 MB bodies")
    head = hostile.valid(gateway.secret).partition(b"content-length")[0]
    announced = head + b"content-length: %d\r\n\r\n" % BODY_BYTES
    chunked = head + b"transfer-encoding: chunked\r\n\r\n"
    piece = b"a" * (1 << 20)
    most = gateway.rss_kb()

    async def send(number: int) -> None:
        nonlocal most
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        with contextlib.suppress(OSError):
            writer.write(chunked if number % 2 else announced)
            for _ in range(BODY_BYTES >> 20):
                if reader.at_eof() or writer.transport.is_closing():
                    break
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if number % 2 else piece)
                async with asyncio.timeout(ANSWER_S):
                    await writer.drain()
                most = max(most, gateway.rss_kb())
        heard = b""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                heard = await reader.read(65536)
        status = int(heard[9:12] or HUNG_UP)
        row.statuses[status] += 1
        if status not in (413, HUNG_UP):
            row.problems.append(f"{status}: {heard[:160]!r}")
        writer.transport.abort()

    await asyncio.gather(*(send(number) for number in range(8)))
    row.note = f"at most {most / 1024:.0f} MB held"
    return row


async def _keys(gateway: Standalone, workers: Workers, given: argparse.Namespace) -> Row:
    """Wrong keys, near misses of the right one among them."""
    row = Row("wrong keys")
    numbers = iter(range(given.keys))
    right = gateway.secret

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        for number in numbers:
            at = number % len(right)
            wrong = right[:at] + chr(33 + (ord(right[at]) + 1 + number) % 90) + right[at + 1 :]
            if wrong == right:
                wrong += "x"
            writer.write(hostile.valid(wrong))
            try:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), ANSWER_S)
            except (OSError, asyncio.IncompleteReadError):
                row.statuses[HUNG_UP] += 1
                reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                continue
            status = int(head[9:12])
            row.statuses[status] += 1
            if status != 401:
                row.problems.append(f"{status} for {wrong!r}")
            length = re.search(rb"content-length: (\d+)", head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            if wrong.encode() in body:
                row.problems.append("the answer tells the key")
            if b"connection: close" in head.lower():
                writer.transport.abort()
                reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.transport.abort()

    before = await asyncio.to_thread(workers.counted)
    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    await asyncio.to_thread(_reached, row, workers, before, 0)
    return row


async def _schema(gateway: Standalone, workers: Workers, given: argparse.Namespace) -> Row:
    """schemathesis on the document that the gateway gives of itself."""
    row = Row("schemathesis")
    try:
        programs = await asyncio.to_thread(rival_environment, "schemathesis", "schemathesis")
    except Missing as reason:
        row.note = f"left out: {reason}"
        return row
    words = [
        *(str(programs / "st"), "run", f"http://127.0.0.1:{gateway.port}/openapi.json"),
        *("-H", f"Authorization: Bearer {gateway.secret}"),
        *("--checks", "not_a_server_error,status_code_conformance,content_type_conformance"),
        *("--max-examples", str(given.examples), "--seed", str(given.seed), "--no-color"),
        *("--generation-database", "none", "--request-timeout", "20"),
    ]
    done = await asyncio.to_thread(
        subprocess.run, words, capture_output=True, text=True, timeout=600, check=False
    )
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    summary = [line for line in lines if re.match(r"(Selected|Tested|Test cases|\d+ gen)", line)]
    row.note = "; ".join(summary) or " ".join(lines[-3:])
    if done.returncode:
        row.problems += lines[-60:] or [done.stderr.strip()[-400:]]
    return row


def _reached(row: Row, workers: Workers, before: dict[str, int], most: int) -> None:
    """Tells of requests that reached a worker and should not have."""
    count = workers.counted()["fake_requests_total"] - before["fake_requests_total"]
    if count > most:
        row.problems.append(f"{count} requests reached a worker, {most} should have")


ATTACKS: dict[str, Attack] = {
    "sound": _sound,
    "smuggling": _smuggling,
    "malformed": _malformed,
    "mutations": _mutated,
    "slowloris": _slow,
    "bodies": _large,
    "keys": _keys,
    "schemathesis": _schema,
}

if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        raise SystemExit(main())
