"""A whole fleet of fake workers with its gateway; daemons and workers of it are killed."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.faults.site import Site
from benchmarks.faults.table import NotMet, until
from benchmarks.gateway.processes import Tools, free_ports, listens
from benchmarks.gateway.targets import MODEL
from benchmarks.gateway.workers import running_at
from tests.faults.fake_engine import make_fake_engine
from vllm_console.errors import ConsoleError
from vllm_console.launchers.processes import send

VLLM = """#!/bin/sh
while [ $# -gt 0 ]; do
  case "$1" in --port) port="$2";; --served-model-name) name="$2";; esac
  shift
done
exec "{backend}" -e -p "$port" -m "$name"
"""
"""A `vllm` whose `serve` is backend.c."""
FLEET = """
[fleet]
name = "storm"
[gateway]
port = {port}
[defaults]
engine = "{engine}"
drain_timeout = "10s"
[models.{model}]
source = "fake/model"
scale = {{ min = {workers}, max = {workers} }}
"""
WHOLE_S = 60.0


class StormSite(Site):
    """A fleet whose workers are backend.c."""

    port = 0
    """Of its gateway."""

    def __enter__(self) -> StormSite:
        return self

    def whole(self) -> None:
        """Wait until daemon, workers and gateway are there."""
        if self.daemon() is None:
            self.up()
        self.ready(within_s=WHOLE_S)
        until(lambda: listens(self.port), WHOLE_S, "the gateway listens")

    def running(self) -> int:
        """Requests that run or wait in the workers now."""
        count = 0
        for url, _ in self.targets().values():
            with suppress(OSError):
                count += running_at(urlsplit(url).port or 80)
        return count

    def gateways(self) -> list[int]:
        """Gateway processes of this fleet."""
        return [
            pid for (pid, _), title in self.processes().items() if "vllm_console.gateway" in title
        ]

    def logs(self) -> list[Path]:
        """What the workers wrote."""
        return sorted(self.place.workers.glob("*/out.log"))


@contextmanager
def fleet(made: Tools, root: Path, workers: int) -> Iterator[StormSite]:
    """The fleet, whole; taken down on leaving."""
    engine = make_fake_engine(root / "engine")
    (engine / "bin" / "vllm").write_text(VLLM.format(backend=made.backend))
    (port,) = free_ports(1)
    file = FLEET.format(port=port, engine=engine, model=MODEL, workers=workers)
    environment = {"XDG_CACHE_HOME": str(root / "cache")}
    with StormSite(root / "fleet", file, env=environment) as site:
        site.port = port
        site.up()
        site.whole()
        yield site


def breaking(
    site: StormSite, faults: Counter[str], chance: random.Random
) -> list[Coroutine[Any, Any, None]]:
    """What is done to the fleet for as long as it is let."""
    return [
        _daemons(site, faults, random.Random(chance.random())),
        _workers(site, faults, random.Random(chance.random())),
        _gateways(site, faults, random.Random(chance.random())),
    ]


async def _daemons(site: StormSite, faults: Counter[str], chance: random.Random) -> None:
    while True:
        await asyncio.sleep(chance.uniform(0.2, 1.0))
        with suppress(NotMet):  # one that is just starting
            await asyncio.to_thread(site.kill_daemon, signal.SIGKILL)
            faults["daemons killed"] += 1
        await asyncio.sleep(chance.uniform(0.0, 0.5))
        with suppress(NotMet):
            await asyncio.to_thread(site.up)


async def _workers(site: StormSite, faults: Counter[str], chance: random.Random) -> None:
    while True:
        await asyncio.sleep(chance.uniform(1.0, 3.0))
        with suppress(ConsoleError, OSError):
            workers = await asyncio.to_thread(site.workers)
            ready = [name for name, worker in workers.items() if worker.state == "ready"]
            if len(ready) > 1:
                tree = await asyncio.to_thread(site.tree, chance.choice(ready))
                send(tree[0], signal.SIGKILL)
                faults["workers killed"] += 1


async def _gateways(site: StormSite, faults: Counter[str], chance: random.Random) -> None:
    while True:
        await asyncio.sleep(chance.uniform(2.0, 4.0))
        with suppress(NotMet):  # no daemon is there to do it
            await asyncio.to_thread(site.verb, "gateway", "restart")
            faults["gateway restarts"] += 1
