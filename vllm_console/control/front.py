"""The gateway as the daemon has it: what it is told, what it asks for, what is shown of it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from vllm_console.control.endpoint import Endpoint
from vllm_console.control.gateway_link import GatewayLink
from vllm_console.control.revisions import Revisions
from vllm_console.control.roster import Roster
from vllm_console.control.routing import (
    attached_key,
    is_in_vain,
    key_hashes,
    routing_table,
    same,
    since_epoch,
)
from vllm_console.control.served import Actor, ServedModel
from vllm_console.errors import ConsoleError
from vllm_console.fleet.find import Place
from vllm_console.fleet.model import Fleet
from vllm_console.gateway.place import Config
from vllm_console.gateway.table import Table
from vllm_console.history.accounts import Accounts
from vllm_console.snapshot import STARTS, Alert, Gateway, Model, Queued
from vllm_console.workers.launch import iso
from vllm_console.workers.states import State

_SECRETS_S = 5.0
"""Between two looks at the files of secrets."""
OFF = "off: [gateway] enabled = false in the fleet file"

_log = logging.getLogger(__name__)


class Fronted(Protocol):
    """What the gateway's side of the daemon asks of it."""

    fleet: Fleet
    models: Roster
    revisions: Revisions
    going_down: bool

    def load(self, model: ServedModel) -> list[Actor]:
        """Want a model's workers; returns those that start."""

    def tell(self, level: str, subject: str, text: str) -> None:
        """Record an event."""


class Front:
    """Keeps a gateway in front of a fleet. All methods run on one event loop."""

    def __init__(
        self,
        daemon: Fronted,
        place: Place,
        *,
        serve: bool,
        info: Callable[[str], Mapping[str, str]],
        count: Callable[[Mapping[str, Any]], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`serve` false: there is no gateway at all, whatever the fleet file says.

        `info` is what a worker's /metrics says of its engine; `count` is told the gateway's numbers
        of each second.
        """
        self._daemon = daemon
        self._serve = serve
        self._info = info
        self._count = count
        self._clock = clock
        self._accounts = Accounts(place.accounts)
        self.endpoint = Endpoint(
            place.gateway,
            wanted=self._wanted,
            table=self._newest,
            hearing=self,
            tell=daemon.tell,
            clock=clock,
        )
        self._keeping: asyncio.Task[None] | None = None
        self._due = False
        self._table: Table | None = None
        self._stats: Mapping[str, Any] = {}
        self._bearers: dict[str, str | None] = {}
        """What attached servers want as their bearer, by model."""
        self._stated: dict[str, bytes | None] | None = None
        """Keys of the fleet file as they were last kept."""
        self._unkept: list[str] = []
        """Why some of them could not be kept."""
        self._missing: tuple[str, ...] = ()
        """What is wrong with the keys of the fleet file."""

    # -- what the daemon tells -----------------------------------------------------------------

    def start(self) -> None:
        """Bring the gateway up, or adopt the one that runs; the models are known by now."""
        if self._serve:
            self._keeping = asyncio.get_running_loop().create_task(self._keep())
            self._keeping.add_done_callback(_note_bug)

    def changed(self) -> None:
        """Hear that a model or a worker is no longer what it was."""
        if self._keeping is not None and not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._send)

    def configured(self) -> None:
        """Hear that the fleet file was applied."""
        if self._keeping is not None:
            self._send()
            self.endpoint.changed()

    async def drain(self, worker: str, within_s: float) -> None:
        """Return once no request is with a worker, or it is too late to wait for those."""
        if self._keeping is None:
            return
        self._send()
        try:
            async with asyncio.timeout(within_s):
                await self.endpoint.drained(worker)
        except TimeoutError:
            if within_s > 0:
                text = f"has requests that did not finish within {within_s:g} s"
                self._daemon.tell("warn", worker, text)

    async def restart(self) -> None:
        """Replace the gateway by a new process; raises `ConsoleError` where that fails."""
        if self._keeping is None:
            raise ConsoleError("this daemon runs without a gateway")
        await self.endpoint.restart()

    async def stop(self) -> None:
        """End the gateway: the fleet is down."""
        if await self._let_be():
            await self.endpoint.stop()

    async def close(self) -> None:
        """The daemon ends; the gateway serves on."""
        if await self._let_be():
            self.endpoint.close()
        await asyncio.to_thread(self._accounts.close)

    # -- what the gateway says (control.gateway_link.Hearing) ----------------------------------

    def wanted(self, model: str) -> None:
        """Load or wake a model that a request waits for, unless somebody already does."""
        served = self._daemon.models.get(model)
        if served is None or self._daemon.going_down:
            return
        if served.state is State.ASLEEP:
            if is_in_vain(served):
                return  # the gateway has asked before it heard so
            self._daemon.tell("info", model, "woken for a request")
            served.wake()
            return
        if served.wanted and served.state is not State.STOPPED:
            return
        self._daemon.tell("info", model, "loaded for a request")
        try:
            self._daemon.load(served)
        except ConsoleError as error:
            self._daemon.tell("warn", model, f"not loaded for a request: {error}")

    def counted(self, link: GatewayLink, stats: Mapping[str, Any]) -> None:
        """Take the numbers of the gateway that serves; one that was replaced counts no more."""
        now = self.endpoint.now
        if now is not None and now.link is link:
            self._stats = stats
            self._count(stats)

    # -- what is shown -------------------------------------------------------------------------

    def picture(self) -> Gateway:
        """The gateway as it is now."""
        now = self.endpoint.now
        if now is None:
            return Gateway(reason=self._why_not())
        total = self._total
        started = now.hello.get("started_at")
        return Gateway(
            running=True,
            url=now.url,
            requests_per_s=total.get("requests_per_s"),
            queued=_queued(total),
            oldest_s=total.get("oldest_s"),
            rejected_per_s=total.get("refused_per_s"),
            pid=now.pid,
            version=now.version,
            uptime_s=round(max(0.0, time.time() - started), 3) if started else None,
            started_at=iso(started) if started else None,
            in_flight=total.get("in_flight"),
            reason=self.endpoint.trouble,
        )

    def complete(self, models: Iterable[Model]) -> tuple[Model, ...]:
        """The models with what the gateway does for each."""
        if self.endpoint.now is None:
            return tuple(models)
        told = {one.get("name"): one for one in self._stats.get("models", ())}
        return tuple(self._complete(model, told.get(model.name, {})) for model in models)

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """What a person should look at."""
        found = [Alert("warn", "gateway", text) for text in self._missing]
        if self.endpoint.now is not None and (told := self._stats.get("trouble")):
            found.append(Alert("warn", "gateway", str(told)))
        trouble = self.endpoint.trouble
        if self._keeping is not None and trouble is not None:
            level = "crit" if self.endpoint.now is None else "warn"
            found.insert(0, Alert(level, "gateway", trouble))
        return tuple(found)

    def _complete(self, model: Model, told: Mapping[str, Any]) -> Model:
        batching = model.batching
        served = self._daemon.models.get(model.name)
        most = served.config.limits.concurrency if served is not None else None
        if most is not None:
            limit = math.ceil(most / (model.ready or 1))
            limit = min(limit, model.engine.max_num_seqs or limit)
            batching = replace(batching, policy="limited", limit=limit)
        return replace(
            model,
            balancing=told.get("policy") if model.ready else None,
            queued=_queued(told),
            in_flight=told.get("in_flight"),
            batching=batching,
        )

    def _why_not(self) -> str | None:
        if self._keeping is None:
            return None
        return self.endpoint.trouble or (OFF if self._wanted() is None else STARTS)

    @property
    def _total(self) -> Mapping[str, Any]:
        total: Mapping[str, Any] = self._stats.get("total", {})
        return total

    # -- behind it -----------------------------------------------------------------------------

    async def _keep(self) -> None:
        self.endpoint.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._read_secrets()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.endpoint.keep())
            group.create_task(self._look_for_ever())

    async def _look_for_ever(self) -> None:
        """What changes without an event: what an engine tells of itself, and the secrets' files."""
        read = self._clock()
        while True:
            await asyncio.sleep(1.0)
            if self._clock() - read >= _SECRETS_S:
                await self._read_secrets()
                read = self._clock()
            self._send()

    async def _read_secrets(self) -> None:
        fleet, models = self._daemon.fleet, list(self._daemon.models.values())
        self._bearers, self._missing = await asyncio.to_thread(self._secrets, fleet, models)

    def _secrets(
        self, fleet: Fleet, models: Iterable[ServedModel]
    ) -> tuple[dict[str, str | None], tuple[str, ...]]:
        """Read them, and have the keys of the fleet file kept; runs in a thread."""
        bearers = {m.name: attached_key(fleet, m) for m in models if m.config.api_key is not None}
        stated, missing = key_hashes(fleet)
        if stated != self._stated:
            try:
                self._unkept = self._accounts.keep(stated, time.time())
                self._stated = stated
            except ConsoleError as error:
                self._unkept = [str(error)]
            finally:
                self._accounts.close()
        return bearers, (*missing, *self._unkept)

    async def _let_be(self) -> bool:
        """Cease to keep it; whether it was kept."""
        keeping, self._keeping = self._keeping, None
        if keeping is None:
            return False
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        return True

    def _send(self) -> None:
        """Send the table, if it is another."""
        self._due = False
        if self._keeping is None:
            return
        table = self._made()
        if not same(self._table, table):
            self._table = table
            self.endpoint.send_table()

    def _newest(self) -> Table | None:
        """The table of this moment, for a gateway that has none yet."""
        self._table = self._made()
        return self._table

    def _made(self) -> Table:
        before = self._table.version if self._table is not None else 0
        daemon = self._daemon
        return routing_table(
            daemon.fleet,
            daemon.models.values(),
            version=max(before + 1, int(time.time() * 1e3)),
            info=self._info,
            created=self._created,
            key_of=lambda model: self._bearers.get(model.name),
            closing=daemon.going_down,
        )

    def _created(self, model: ServedModel) -> int:
        for revision in self._daemon.revisions.of(model.name):
            if revision.number == model.revision:
                return since_epoch(revision.at)
        return 0

    def _wanted(self) -> Config | None:
        gateway = self._daemon.fleet.gateway
        if not gateway.enabled:
            return None
        return Config(
            host=gateway.host,
            port=gateway.port,
            tls_cert=None if gateway.tls_cert is None else str(gateway.tls_cert),
            tls_key=None if gateway.tls_key is None else str(gateway.tls_key),
        )


def _queued(told: Mapping[str, Any]) -> Queued:
    waiting = told.get("waiting", {})
    return Queued(waiting.get("high"), waiting.get("normal"), waiting.get("low"))


def _note_bug(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("the gateway is no longer kept", exc_info=error)
