"""The control API and its client, over a real unix socket and a fake fleet."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from vllm_console.control.client import Client, LogChunk
from vllm_console.control.server import ControlApi
from vllm_console.errors import ConsoleError, InvalidInput, NoDaemon, NotFound
from vllm_console.snapshot import Daemon, Event, Snapshot, to_json

PICTURE = Snapshot(at="t", fleet="fake", daemon=Daemon(True, 1, "0", 1.0))


class FakeFleet:
    """Stands in for the daemon: remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.streams = 0
        self.pause_s = 0.0

    def snapshot_json(self) -> bytes:
        return json.dumps(to_json(PICTURE)).encode()

    async def snapshot_stream(self) -> AsyncIterator[bytes]:
        self.streams += 1
        try:
            while True:
                yield self.snapshot_json()
                await asyncio.sleep(0.01)
        finally:
            self.streams -= 1

    def events_after(self, seq: int, limit: int) -> list[Event]:
        return [Event(n, "t", "ok", "a", "x") for n in range(seq + 1, 5)][-limit:]

    async def follow_events(self, seq: int) -> AsyncIterator[Event]:
        for event in self.events_after(seq, 100):
            await asyncio.sleep(self.pause_s)
            yield event

    def series(self, subject: str, metric: str, seconds: float, step: float) -> list[float | None]:
        return [1.0, None, seconds / step]

    def log(self, worker: str, offset: int | None, lines: int) -> tuple[int, str]:
        if worker != "a/1":
            raise NotFound(f'no worker "{worker}"')
        return (offset or 0) + 5, f"lines {lines}"

    async def command(self, verb: str, args: Mapping[str, Any]) -> dict[str, Any]:
        self.told.append((verb, dict(args)))
        if verb == "refuse":
            raise ConsoleError("it will not")
        if verb == "bad":
            raise InvalidInput("no command bad")
        return {"ok": True}


@pytest.fixture
def fleet() -> FakeFleet:
    return FakeFleet()


@pytest.fixture
def client(tmp_path: Path, fleet: FakeFleet) -> Iterator[Client]:
    path = tmp_path / "control.sock"
    config = uvicorn.Config(
        ControlApi(fleet), uds=str(path), lifespan="off", log_config=None, ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    client = Client(path, timeout=10)
    deadline = threading.Event()
    for _ in range(1000):
        if server.started or deadline.wait(0.01):
            break
    yield client
    client.close()
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


def test_a_snapshot_comes_whole(client: Client) -> None:
    assert client.snapshot() == PICTURE


def test_snapshots_stream_until_the_client_closes(client: Client, fleet: FakeFleet) -> None:
    stream = client.snapshots()
    assert [next(stream) for _ in range(3)] == [PICTURE] * 3
    client.close()
    rest = 0
    with suppress(NoDaemon):  # it may end as cut or as finished
        for _ in stream:
            rest += 1
    assert rest < 100


def test_a_closed_stream_is_closed_at_the_daemon_too(client: Client, fleet: FakeFleet) -> None:
    stream = client.snapshots()
    next(stream)
    assert fleet.streams == 1
    stream.close()  # type: ignore[attr-defined]
    done = threading.Event()
    for _ in range(1000):
        if fleet.streams == 0 or done.wait(0.01):
            break
    assert fleet.streams == 0


def test_commands_carry_their_arguments(client: Client, fleet: FakeFleet) -> None:
    assert client.command("load", model="a") == {"ok": True}
    assert fleet.told == [("load", {"model": "a"})]


@pytest.mark.parametrize(("verb", "kind"), [("refuse", ConsoleError), ("bad", InvalidInput)])
def test_the_daemons_error_arrives_as_what_it_was(
    client: Client, verb: str, kind: type[ConsoleError]
) -> None:
    with pytest.raises(ConsoleError) as caught:
        client.command(verb)
    assert type(caught.value) is kind


def test_logs_name_their_worker_and_offset(client: Client) -> None:
    assert client.log("a/1", offset=7, lines=3) == LogChunk(12, "lines 3")
    with pytest.raises(NotFound, match='no worker "b"'):
        client.log("b")


def test_events_come_above_a_number(client: Client) -> None:
    assert [e.seq for e in client.events(after=2)] == [3, 4]
    assert [e.seq for e in client.follow_events(after=3)] == [4]


def test_a_quiet_fleet_is_followed_for_longer_than_an_answer_may_take(
    client: Client, fleet: FakeFleet
) -> None:
    fleet.pause_s, client.timeout = 0.8, 0.4
    assert [e.seq for e in client.follow_events(after=3)] == [4]


def test_series_come_by_subject_and_metric(client: Client) -> None:
    answer = client.series(["model/a", "fleet"], ["running"], 60, 2)
    assert answer == {
        "model/a": {"running": [1.0, None, 30.0]},
        "fleet": {"running": [1.0, None, 30.0]},
    }
    with pytest.raises(InvalidInput, match="steps"):
        client.series(["fleet"], ["running"], 1e6, 0.001)


def test_no_daemon_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon, match="up -d"):
        Client(tmp_path / "nothing.sock").snapshot()


def test_a_stale_socket_is_no_daemon(tmp_path: Path) -> None:
    import socket

    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(NoDaemon):
        Client(path).snapshot()
