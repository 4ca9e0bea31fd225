"""The control API and its client, over a real unix socket and a fake fleet."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from vllm_console import __version__
from vllm_console.answer import Answer, Change, Figure, Mark, Measured, Question
from vllm_console.control.audit import AuditLog
from vllm_console.control.client import Client, LogChunk
from vllm_console.control.events import EventLog
from vllm_console.control.peer import PeerProtocol, process_name
from vllm_console.control.server import ControlApi
from vllm_console.errors import ConsoleError, InvalidInput, NoDaemon, NotFound
from vllm_console.history.database import Database
from vllm_console.snapshot import Daemon, Snapshot, to_json

ANSWER = Answer(
    subject="model/a",
    since="s",
    until="u",
    step_s=60.0,
    starts=("s",),
    measured=(
        Measured(
            "ttft", "s", "distribution", None,
            Figure({"p95": 0.1, "p99": None}, 3, {"p95": (0.1, None)}, ("p95",), 0.5),
            before=Figure({"p95": 0.2}), change={"p95": Change(-0.1, -50.0)},
            steps=(Figure({"p95": 0.1}),),
        ),
    ),
    marks=(Mark("t", "start", "ok", "a-1", "ready"),),
)  # fmt: skip
PICTURE = Snapshot(at="t", fleet="fake", daemon=Daemon(True, 1, "0", 1.0))


class FakeFleet:
    """Stands in for the daemon: remembers what it was told."""

    def __init__(self, database: Database) -> None:
        self.events = EventLog(database, clock=iter([f"t{n}" for n in range(100)]).__next__)
        for level in ("ok", "warn", "crit", "ok"):
            self.events.add(level, "a", "x")
        self.audit = AuditLog(database)
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.streams = 0

    def snapshot_json(self) -> bytes:
        return json.dumps(to_json(PICTURE)).encode()

    def metrics(self) -> bytes:
        return b"vllm_console_alerts 0\n"

    async def snapshot_stream(self) -> AsyncIterator[bytes]:
        self.streams += 1
        try:
            while True:
                yield self.snapshot_json()
                await asyncio.sleep(0.01)
        finally:
            self.streams -= 1

    async def series(
        self,
        subjects: Sequence[str],
        metrics: Sequence[str],
        seconds: float,
        step: float,
        until: float | None = None,
    ) -> dict[str, dict[str, list[float | None]]]:
        return {s: {m: [until or 1.0, None, seconds / step] for m in metrics} for s in subjects}

    async def snapshot_at(self, moment: str) -> bytes:
        if moment == "noon tomorrow":
            raise InvalidInput(f'"{moment}" is still to come')
        return json.dumps(to_json(replace(PICTURE, at=moment))).encode()

    async def answer(self, question: Question) -> Answer:
        self.asked = question
        return ANSWER

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
        if verb == "tell":
            self.events.add("info", "a", "told")
        return {"ok": True}


@pytest.fixture
def fleet(database: Callable[..., Database]) -> FakeFleet:
    return FakeFleet(database())


@pytest.fixture
def client(tmp_path: Path, fleet: FakeFleet) -> Iterator[Client]:
    path = tmp_path / "control.sock"
    config = uvicorn.Config(
        ControlApi(fleet),
        uds=str(path),
        http=PeerProtocol,
        lifespan="off",
        log_config=None,
        ws="none",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    client = Client(path, timeout=10, program="load")
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


def test_metrics_come_as_prometheus_text(client: Client) -> None:
    assert client.metrics() == "vllm_console_alerts 0\n"


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


def test_events_come_above_a_number_of_a_level_and_since_a_time(client: Client) -> None:
    assert [e.seq for e in client.events(after=2)] == [3, 4]
    assert [e.seq for e in client.events(limit=1)] == [4]
    assert [e.seq for e in client.events(level="warn")] == [2, 3]
    assert [e.seq for e in client.events(since="t3")] == [4]
    with pytest.raises(InvalidInput, match="level=loud: is one of info, ok, warn, crit"):
        client.events(level="loud")


def test_events_are_followed_as_they_come(client: Client) -> None:
    stream = client.follow_events(after=3)
    assert next(stream).seq == 4
    client.command("tell")
    assert next(stream).text == "told"
    client.close()


def test_a_quiet_fleet_is_followed_for_longer_than_an_answer_may_take(client: Client) -> None:
    client.timeout = 0.2
    stream = client.follow_events(after=3)
    assert next(stream).seq == 4
    threading.Timer(0.5, client.command, ["tell"]).start()
    assert next(stream).text == "told"
    client.close()


def test_every_command_is_audited_with_who_asked(client: Client) -> None:
    client.command("load", model="a", password="hunter2")
    with pytest.raises(ConsoleError):
        client.command("refuse")
    with pytest.raises(InvalidInput):
        client._request("POST", "/v1/commands", b"no JSON")
    done, refused, broken = client.audit()
    assert done.client == f"vllm-console/{__version__} load"
    assert (done.uid, done.pid) == (os.getuid(), os.getpid())
    assert done.user == pwd.getpwuid(os.getuid()).pw_name
    assert (done.verb, done.outcome) == ("load", "ok")
    assert done.arguments == {"model": "a", "password": "•••"}
    assert (refused.verb, refused.outcome) == ("refuse", "it will not")
    assert (broken.verb, broken.outcome[:23]) == ("?", "the command is not JSON")
    assert [e.seq for e in client.audit(after=1)] == [2, 3]
    assert next(client.follow_audit(after=2)) == broken


def test_a_look_that_a_screen_repeats_is_not_audited(client: Client) -> None:
    before = len(client.audit())
    for verb in ("config", "load-plan", "fleet-file"):
        client.command(verb, model="a")
    assert len(client.audit()) == before


def test_a_command_of_another_user_is_an_event(
    client: Client, fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.command("load", model="a")
    assert "asked for by" not in fleet.events.newest(1)[0].text
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    client.command("plan")
    client.command("unload", model="a")
    event = fleet.events.newest(1)[0]
    who = pwd.getpwuid(mine).pw_name
    assert (event.seq, event.subject, event.text) == (5, "a", f"unload asked for by {who}")


def test_a_program_that_says_not_who_it_is_is_named_by_the_kernel(client: Client) -> None:
    body = b'{"verb": "load"}'
    head = f"POST /v1/commands HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as plain:
        plain.connect(str(client.path))
        plain.sendall(head.encode() + body)
        assert plain.recv(4096).startswith(b"HTTP/1.1 200")
    assert client.audit()[-1].client == process_name(os.getpid())


def test_series_come_by_subject_and_metric(client: Client) -> None:
    answer = client.series(["model/a", "fleet"], ["running"], 60, 2)
    assert answer == {
        "model/a": {"running": [1.0, None, 30.0]},
        "fleet": {"running": [1.0, None, 30.0]},
    }
    with pytest.raises(InvalidInput, match="steps"):
        client.series(["fleet"], ["running"], 1e6, 0.001)


def test_series_may_end_in_the_past(client: Client) -> None:
    answer = client.series(["fleet"], ["running"], 60, 2, until=1.7e9 + 0.5)
    assert answer == {"fleet": {"running": [1.7e9 + 0.5, None, 30.0]}}


def test_the_fleet_as_it_was_is_a_snapshot_and_a_time_to_come_is_one_line(client: Client) -> None:
    assert client.snapshot_at("yesterday 14:00") == replace(PICTURE, at="yesterday 14:00")
    with pytest.raises(InvalidInput, match='"noon tomorrow" is still to come'):
        client.snapshot_at("noon tomorrow")


def test_a_question_arrives_as_it_was_asked_and_its_answer_comes_back_whole(
    client: Client, fleet: FakeFleet
) -> None:
    plain = Question("model/a b%2F", ("ttft", "slo:ttft:300ms"), 1.7e9, 1.7e9 + 60.25)
    full = replace(plain, quantiles=(50, 99.9), step=10, by="worker", compare=True)
    for question in (plain, full):
        assert client.ask(question) == ANSWER
        assert fleet.asked == question


def test_a_question_that_cannot_be_answered_says_why(client: Client) -> None:
    with pytest.raises(InvalidInput, match='no metric "tfft"; did you mean "ttft"'):
        client.ask(Question("a", ("tfft",), 1.7e9, 1.7e9 + 60))
    with pytest.raises(InvalidInput, match='not a time: "yesterdy"'):
        client._get_json("/v1/history/a?since=yesterdy")


def test_no_daemon_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon, match="up -d"):
        Client(tmp_path / "nothing.sock").snapshot()


def test_a_stale_socket_is_no_daemon(tmp_path: Path) -> None:
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(NoDaemon):
        Client(path).snapshot()
