"""Requests while everything around them breaks: what was lost, what was wrong, what went on.

    python -m benchmarks.gateway.chaos [--count 10000] [--seed 1] [--connections 64] [--fleet]

Clients hang up at random moments, fake workers are killed and started again, the gateway is
restarted while it serves, daemons connect, send a table and are gone. With --fleet the gateway is
that of a whole fleet: its daemon is killed and started again, its workers are killed under it.
Every byte of an answer is known from its request, and workers write down when each request ended.
Exit code 1 when an answer was lost without an error, a byte was wrong, or a request went on for a
client that had gone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import msgspec

from benchmarks.common import table
from benchmarks.faults.table import NotMet, until
from benchmarks.gateway import storm_fleet
from benchmarks.gateway.clients import LIMIT_S, Seen, storm
from benchmarks.gateway.ours import Standalone, standalone
from benchmarks.gateway.processes import Tools, free_ports, listens, tools
from benchmarks.gateway.targets import MODEL
from benchmarks.gateway.workers import Workers, ran_on

WORKERS = 4
ENDS_S = 2.0
"""Within this a worker knows that a client has gone."""
QUIET_S = 15.0


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m benchmarks.gateway.chaos")
    options.description = (__doc__ or "").partition("\n")[0]
    options.add_argument("--count", type=int, default=10_000, help="requests")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--connections", type=int, default=64, help="clients at a time")
    options.add_argument("--fleet", action="store_true", help="a whole fleet, its daemon killed")
    given = options.parse_args()
    seen, faults = Seen(), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="vllm-console-chaos-") as root:
        made = tools(Path(root))
        began = time.monotonic()
        run = _fleet if given.fleet else _alone
        running, processes, logs = run(made, Path(root), seen, faults, given)
        late, ends_ms = ran_on(logs, seen.left, ENDS_S)
        took = time.monotonic() - began
    rows: list[list[object]] = [
        ["requests", given.count, ""],
        *([f"  {name}", number, ""] for name, number in sorted(seen.outcomes.items())),
        ["sent again: the connection was idle and closed", seen.again, ""],
        *([name, number, ""] for name, number in sorted(faults.items())),
        ["answers lost without an error", len(seen.lost), "0"],
        ["answers with wrong bytes", len(seen.wrong), "0"],
        [f"requests that ran on for {ENDS_S:g} s after their client left", late, "0"],
        ["from a client's leaving to the end at the worker, p99 (ms)", ends_ms, ""],
        ["requests that workers still run at the end", running, "0"],
        ["gateway processes at the end", processes, "1"],
        ["seconds", took, ""],
    ]
    table(rows, ["", "", "goal"])
    for kind, examples in (("lost", seen.lost), ("wrong", seen.wrong)):
        for example in examples[:5]:
            print(f"{kind}: {example}")
    answered = sum(seen.outcomes.values())
    if answered != given.count:
        print(f"broken off after {LIMIT_S:g} s: {answered} of {given.count} requests are over")
    sound = not seen.lost and not seen.wrong and not late and not running and processes == 1
    return 0 if sound and answered == given.count else 1


def _alone(
    made: Tools, root: Path, seen: Seen, faults: Counter[str], given: argparse.Namespace
) -> tuple[int, int, list[Path]]:
    """A gateway without a daemon; requests and processes left at the end, the workers' logs."""
    ports = free_ports(WORKERS)
    with Workers(made, root, ports, "-e", "-m", MODEL) as workers:
        until(lambda: all(map(listens, ports)), 10.0, "the workers listen")
        with standalone(root, {MODEL: ports}) as gateway:
            chance = random.Random(f"{given.seed}/faults")
            breaking = [
                _kill_workers(workers, faults, random.Random(chance.random())),
                _restart(gateway, faults, random.Random(chance.random())),
                _daemons(gateway, faults, random.Random(chance.random())),
            ]
            shape = {"seed": given.seed, "count": given.count, "connections": given.connections}
            asyncio.run(storm(seen, gateway.port, gateway.secret, breaking=breaking, **shape))
            with contextlib.suppress(NotMet):
                until(
                    lambda: not workers.running() and len(gateway.processes()) <= 1,
                    QUIET_S,
                    "nothing runs, and the old gateways have ended",
                    every_s=0.1,
                )
            return workers.running(), len(gateway.processes()), workers.logs


def _fleet(
    made: Tools, root: Path, seen: Seen, faults: Counter[str], given: argparse.Namespace
) -> tuple[int, int, list[Path]]:
    """The gateway of a whole fleet; as `_alone`."""
    with storm_fleet.fleet(made, root, WORKERS) as site:
        shape = {"seed": given.seed, "count": given.count, "connections": given.connections}
        breaking = storm_fleet.breaking(site, faults, random.Random(f"{given.seed}/faults"))
        asyncio.run(storm(seen, site.port, None, breaking=breaking, **shape))
        site.whole()
        with contextlib.suppress(NotMet):
            until(lambda: not site.running(), QUIET_S, "nothing runs", every_s=0.1)
            until(lambda: len(site.gateways()) == 1, QUIET_S, "one gateway runs", every_s=0.1)
        return site.running(), len(site.gateways()), site.logs()


async def _kill_workers(workers: Workers, faults: Counter[str], chance: random.Random) -> None:
    while True:
        await asyncio.sleep(chance.uniform(0.1, 0.6))
        port = chance.choice(workers.ports)
        workers.kill(port)
        faults["workers killed"] += 1
        await asyncio.sleep(chance.uniform(0.02, 0.5))
        workers.start(port)


async def _restart(gateway: Standalone, faults: Counter[str], chance: random.Random) -> None:
    while True:
        await asyncio.sleep(chance.uniform(0.5, 2.0))
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


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        raise SystemExit(main())
