"""`discover`: the vLLM servers of this machine, and the lines that attach them to a fleet."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from vllm_console.fleet.find import Place
    from vllm_console.fleet.model import Fleet
    from vllm_console.workers.discovery import Server
    from vllm_console.workers.strangers import Table

SUMMARY = "list the vLLM servers of this machine, whoever started them"
SCHEMA = "vllm-console/discover/1"
_WANTS_A_KEY = '# it wants a key: api_key = { file = "…" }'


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `discover`."""
    parser.description = (
        "Ask every local listening port whether vLLM answers there, and say whose it is; for a "
        "server that no console started, the lines that let a fleet watch it. Signals nothing."
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def run(args: argparse.Namespace) -> int:
    """Print what answers, and how to attach what is foreign."""
    from vllm_console.workers.strangers import owners, processes

    place, fleet = _fleet(args)
    workers = place.workers if place is not None else None
    watched = _watched(fleet)
    table = processes()
    servers = asyncio.run(_ask(table, owners(table, workers)))
    if args.json:
        from vllm_console.cli.connect import print_json

        listed = [_as_json(server, workers, watched) for server in servers]
        print_json({"schema": SCHEMA, "servers": listed})
        return 0
    if not servers:
        print("no vLLM server answers on 127.0.0.1")
        return 0
    rows = [("URL", "VLLM", "PID", "WHOSE", "MODELS")]
    for server in servers:
        models = "(wants an API key)" if server.models is None else ", ".join(server.models)
        pid = "–" if server.pid is None else str(server.pid)
        whose = whose_words(server, workers, watched)
        rows.append((server.url, server.version or "–", pid, whose, _one_line(models)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())
    foreign = [s for s in servers if s.directory is None and s.port not in watched]
    if foreign:
        print("\n# to watch what no console started, add to fleet.toml:")
        print("\n".join(attach_lines(foreign, fleet.models if fleet else ())))
    return 0


def whose_words(server: Server, workers: Path | None, watched: Mapping[int, str]) -> str:
    """Whose a server is, in words; `watched` are this fleet's attached models by local port."""
    if server.directory is not None:
        if server.directory.parent == workers:
            return f"this fleet: {server.directory.name}"
        return f"another fleet: {server.directory.name} in {server.directory.parent.parent}"
    if server.port in watched:
        return f"attached: {watched[server.port]}"
    return "foreign"


def attach_lines(servers: Iterable[Server], taken: Iterable[str] = ()) -> list[str]:
    """Lines of a fleet file that watch these servers, under names that are not `taken`."""
    names, lines = set(taken), []
    for server in servers:
        first = server.models[0] if server.models else ""
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", first.rstrip("/").rpartition("/")[2])
        stem = stem.strip("-_").lower()[:80] or "vllm"
        name = stem if stem not in names else f"{stem}-{server.port}"
        names.add(name)
        lines += [f"[models.{name}]", 'engine = "attach"', f"url = {json.dumps(server.url)}"]
        lines += [""] if server.models is not None else [_WANTS_A_KEY, ""]
    return lines[:-1]


async def _ask(table: Table, owned: Mapping[int, Path]) -> list[Server]:
    from vllm_console.http1 import Pool
    from vllm_console.workers.discovery import discover

    http = Pool(max_body=4 << 20)
    try:
        return await discover(http, table, owned)
    finally:
        await http.close()


def _fleet(args: argparse.Namespace) -> tuple[Place | None, Fleet | None]:
    """The fleet that is meant, if there is one; raises `InvalidInput` for one that is broken."""
    from vllm_console.errors import InvalidInput
    from vllm_console.fleet.find import find_fleet, locate
    from vllm_console.fleet.load import load_fleet

    try:
        path = find_fleet(args.fleet)
    except InvalidInput:
        if args.fleet is not None:
            raise
        return None, None
    return locate(path, args.state_dir), load_fleet(path, sets=args.set)


def _watched(fleet: Fleet | None) -> dict[int, str]:
    """The fleet's attached models by port, where that is one of this machine's own."""
    found = {}
    for model in fleet.models.values() if fleet is not None else ():
        if model.attached and model.url:
            parts = urlsplit(model.url)
            if parts.hostname in ("127.0.0.1", "localhost", "::1"):
                found[parts.port or 80] = model.name
    return found


def _as_json(server: Server, workers: Path | None, watched: Mapping[int, str]) -> dict[str, object]:
    directory = server.directory
    owner = "foreign" if directory is None else "another fleet"
    if directory is not None and directory.parent == workers:
        owner = "this fleet"
    return {
        "url": server.url,
        "models": None if server.models is None else list(server.models),
        "version": server.version,
        "pid": server.pid,
        "owner": owner,
        "worker": None if directory is None else directory.name,
        "state_dir": None if directory is None else str(directory.parent.parent),
        "attached_as": watched.get(server.port) if directory is None else None,
    }


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else "�" for character in text)
