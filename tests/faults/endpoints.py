"""A fleet with a gateway in front of fake `vllm serve` trees, and clients that load it."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.faults.test_daemon import FakeNvml, Fleet, model, until
from vllm_console.control.daemon import Daemon
from vllm_console.control.process import make_state_dir
from vllm_console.fleet.find import locate
from vllm_console.fleet.load import load_fleet
from vllm_console.gateway.place import is_held, read_record
from vllm_console.launchers.processes import send
from vllm_console.snapshot import Alert
from vllm_console.workers.shim import process

ANY_PORT = "port = 0\n"
PIECE = b'data: {"object": "text_completion", "choices": [{"text": " x"}]}\n\n'
END = b"data: [DONE]\n\n"
_CLIENTS = ThreadPoolExecutor(64, "client")


class Fronted(Fleet):
    """A fleet whose daemons keep a gateway."""

    def __init__(self, root: Path, engine: Path, gateway: str = ANY_PORT) -> None:
        super().__init__(root, engine)
        self.gateway = gateway

    @property
    def directory(self) -> Path:
        """Where the gateway's files lie."""
        return self.root / "state" / "gateway"

    def write(self, *models: str) -> None:
        head = f'[gateway]\n{self.gateway}[defaults]\nengine = "{self.engine}"\n'
        self.file.write_text(head + 'drain_timeout = "5s"\n' + "".join(models))

    def daemon(self, nvml: FakeNvml | None = None) -> Daemon:  # type: ignore[override]
        place = locate(self.file, self.root / "state")
        make_state_dir(place)
        daemon = Daemon(place, load_fleet(self.file), nvml=nvml or FakeNvml(0), gateway=True)
        self.daemons.append(daemon)
        return daemon

    async def serving(self, *models: str) -> Daemon:
        """The next daemon, its gateway and its first model ready."""
        daemon = await self.up(*models)
        await until(lambda: daemon.snapshot().gateway.running and model(daemon).ready >= 1)
        return daemon

    async def end(self) -> None:
        """Take the fleet down; what a daemon that failed left of its gateway is killed."""
        try:
            await super().end()
        finally:
            record = read_record(self.directory) if is_held(self.directory) else None
            if record is not None and (seen := process(record.pid)) and record.is_of(seen[0]):
                send((record.pid, record.start), signal.SIGKILL)


def pid_of(daemon: Daemon) -> int:
    """The pid of the gateway."""
    pid = daemon.snapshot().gateway.pid
    assert pid is not None
    return pid


def url_of(daemon: Daemon) -> str:
    """Where the gateway serves."""
    url = daemon.snapshot().gateway.url
    assert url is not None
    return url


def kill(pid: int) -> None:
    """SIGKILL to a process of this test, if it still lives."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def connected(url: str, timeout: float = 20.0) -> http.client.HTTPConnection:
    """A connection to the gateway."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)


def ask(
    connection: http.client.HTTPConnection, name: str = "one", tokens: int = 3
) -> tuple[int, bytes]:
    """Status and body of a streamed completion."""
    body = json.dumps({"model": name, "prompt": "x", "max_tokens": tokens, "stream": True})
    connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read()


async def asked(url: str, name: str = "one", tokens: int = 3) -> tuple[int, bytes]:
    """As `ask`, over a connection of its own, in a thread that the daemon does not count on."""

    def once() -> tuple[int, bytes]:
        connection = connected(url)
        try:
            return ask(connection, name, tokens)
        finally:
            connection.close()

    return await asyncio.get_running_loop().run_in_executor(_CLIENTS, once)


async def alerted(daemon: Daemon, count: int = 1) -> list[Alert]:
    """The gateway's alerts, once there are so many."""

    def found() -> list[Alert]:
        return [alert for alert in daemon.snapshot().alerts if alert.subject == "gateway"]

    await until(lambda: len(found()) == count)
    return found()


@dataclass
class Crowd:
    """Clients that ask again and again until they are told to stop; what was wrong is kept."""

    url: str
    name: str = "one"
    tokens: int = 3
    keep_alive: bool = True
    answered: int = 0
    wrong: list[str] = field(default_factory=list)
    _enough: bool = False
    _clients: list[asyncio.Future[None]] = field(default_factory=list)

    def start(self, clients: int = 4) -> None:
        """Begin to ask."""
        loop = asyncio.get_running_loop()
        self._clients = [loop.run_in_executor(_CLIENTS, self._ask) for _ in range(clients)]

    async def more(self, answers: int) -> None:
        """Return once so many more requests were answered, or one was not."""
        least = self.answered + answers
        await until(lambda: self.answered >= least or bool(self.wrong))

    async def stop(self) -> None:
        """Ask no more; every answer that is on its way is waited for."""
        self._enough = True
        await asyncio.gather(*self._clients)

    def _ask(self) -> None:
        whole = PIECE * self.tokens + END
        connection = connected(self.url)
        try:
            while not self._enough:
                try:
                    status, body = ask(connection, self.name, self.tokens)
                except (OSError, http.client.HTTPException) as error:
                    self.wrong.append(repr(error))
                    return
                if (status, body) != (200, whole):
                    self.wrong.append(f"{status} {body[-200:]!r}")
                    return
                self.answered += 1
                if not self.keep_alive:
                    connection.close()
        finally:
            connection.close()
