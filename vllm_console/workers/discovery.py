"""vLLM servers of this machine, found by their listening sockets and asked who they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_console.http1 import HttpError, Pool, Response
from vllm_console.workers.sockets import listeners_by_port, sockets_of
from vllm_console.workers.strangers import Table, owner_of

ANSWER_S = 1.0
"""Seconds a server gets for each of at most three questions."""
AT_ONCE = 64
MOST_PORTS = 512
"""More listening ports than any machine that serves models has; the lowest ones are asked."""
OTHERS = frozenset(
    {21, 22, 23, 25, 53, 110, 111, 139, 143, 445, 465, 587, 631, 993, 995, 1433, 2049, 3306, 3389}
    | {5432, 5900, 6379, 9092, 11211, 27017}
)
"""Ports of other protocols, whose servers would log a stray HTTP request as an attack."""


@dataclass(frozen=True, slots=True)
class Server:
    """A vLLM server that answers on 127.0.0.1."""

    port: int
    models: tuple[str, ...] | None
    """The names it serves; `None` when it wants an API key before it tells."""
    version: str | None
    pid: int | None = None
    """The process that listens; `None` when it is another user's or in a container."""
    directory: Path | None = None
    """The worker directory whose shim owns it; `None` for a server no console started."""

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"


async def discover(
    http: Pool,
    table: Table,
    owned: Mapping[int, Path],
    listening: Mapping[int, frozenset[int]] | None = None,
) -> list[Server]:
    """Every vLLM server that takes connections to 127.0.0.1, by port.

    `listening` are socket inodes by port (the kernel's own list when `None`); `owned` is from
    `strangers.owners`.
    """
    sockets = listeners_by_port() if listening is None else listening
    ports = sorted(port for port in sockets if port not in OTHERS)[:MOST_PORTS]
    gate = asyncio.Semaphore(AT_ONCE)

    async def ask(port: int) -> Server | None:
        async with gate:
            return await identify(http, port)

    found = [server for server in await asyncio.gather(*map(ask, ports)) if server is not None]
    holders = _holders(frozenset().union(*(sockets[s.port] for s in found)), table)
    return [_owned(server, sockets[server.port], holders, table, owned) for server in found]


async def identify(http: Pool, port: int) -> Server | None:
    """The vLLM server on 127.0.0.1:`port`; `None` when what listens there is no vLLM.

    `owned_by` of /v1/models tells. Behind an API key that is not answered, but /version and
    /metrics are, by vLLM's middleware guarding /v1 alone.
    """
    listed = await _get(http, port, "/v1/models")
    if listed is None or listed.status not in (200, 401):
        return None
    models = None
    if listed.status == 200:
        entries = _json(listed).get("data")
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            return None
        if not any(entry.get("owned_by") == "vllm" for entry in entries):
            return None
        models = tuple(str(entry.get("id")) for entry in entries)
    told = await _get(http, port, "/version")
    version = _json(told).get("version") if told is not None and told.status == 200 else None
    version = version if isinstance(version, str) and version.isprintable() else None
    if models is None:
        metrics = await _get(http, port, "/metrics") if version is not None else None
        if metrics is None or b"\nvllm:" not in metrics.body:
            return None
    return Server(port, models, version)


async def _get(http: Pool, port: int, path: str) -> Response | None:
    try:
        return await http.request("GET", f"http://127.0.0.1:{port}{path}", timeout=ANSWER_S)
    except HttpError:
        return None


def _json(response: Response) -> dict[str, Any]:
    try:
        content = json.loads(response.body)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _holders(inodes: frozenset[int], table: Table) -> dict[int, set[int]]:
    """Pids that hold each of these sockets; only this user's processes can be looked into."""
    found: dict[int, set[int]] = {}
    if inodes:
        for pid in table:
            for inode in sockets_of(pid) & inodes:
                found.setdefault(inode, set()).add(pid)
    return found


def _owned(
    server: Server,
    inodes: frozenset[int],
    holders: Mapping[int, set[int]],
    table: Table,
    owned: Mapping[int, Path],
) -> Server:
    """The server with its process: of several that share the socket the one that opened it."""
    pids = {pid for inode in inodes for pid in holders.get(inode, ())}
    heads = [pid for pid in sorted(pids) if table[pid].parent not in pids]
    if not heads:
        return server
    directory = owner_of(heads[0], table, owned)
    return Server(server.port, server.models, server.version, heads[0], directory)
