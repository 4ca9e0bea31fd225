"""`sleep`, `wake` and `load` of a sleeper: what is waited for, and what is told in one line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vllm_console.cli import load, sleep, wake
from vllm_console.cli.main import main
from vllm_console.errors import ConsoleError
from vllm_console.snapshot import Daemon, Model, Snapshot, Worker

URL = "http://127.0.0.1:8100"
NO_ROOM = "cannot wake: GPU 0 has 3.0 GB free and it needs 60.0"
STAYED = "did not go to sleep: /sleep says HTTP 500: no"


class FakeClient:
    """A fake client of a daemon whose model is in one state after the other, a look each."""

    def __init__(self, *states: Worker, wanted: int = 1, refusal: str | None = None) -> None:
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.refusal = refusal
        self.left = list(states)
        self.wanted = wanted

    def command(self, verb: str, **args: Any) -> dict[str, Any]:
        self.commands.append((verb, args))
        if self.refusal is not None:
            raise ConsoleError(self.refusal)
        return {"ok": True, "model": "chat", "workers": ["chat-1"]}

    def snapshot(self) -> Snapshot:
        now = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        others = tuple(Worker(f"chat-{n}", "ready", url=URL) for n in range(2, self.wanted + 1))
        ready = len(others) + (now.state == "ready")
        state = "ready" if others else now.state
        workers = (now, *others)
        model = Model("chat", "fake/model", 1, state, self.wanted, ready, workers=workers)
        return Snapshot("t", "lab", Daemon(True), models=(replace(model, aliases=("c",)),))


def worker(state: str, reason: str | None = None) -> Worker:
    return Worker("chat-1", state, reason=reason, url=URL)


@pytest.fixture
def asks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line against a fake client; returns its exit code, stdout and stderr."""

    def run(client: FakeClient, *words: str) -> tuple[int, str, list[str]]:
        for module in (load, sleep, wake):
            monkeypatch.setattr(module, "client_of", lambda _: client)
        code = main(list(words))
        told = capsys.readouterr()
        return code, told.out, told.err.splitlines()

    return run


def test_sleep_waits_until_it_sleeps_and_says_what_wakes_it(asks: Any) -> None:
    client = FakeClient(
        worker("draining", "goes to sleep"), worker("draining", "falls asleep"), worker("asleep")
    )
    code, out, err = asks(client, "sleep", "chat")
    assert (code, client.commands) == (0, [("sleep", {"model": "chat"})])
    assert out == "chat: asleep; `vllm-console wake chat` or a request wakes it\n"
    assert err == [
        "chat: draining · chat-1 goes to sleep",
        "chat: draining · chat-1 falls asleep",
    ]


def test_wake_waits_until_it_serves(asks: Any) -> None:
    client = FakeClient(worker("starting", "wakes up"), worker("ready"))
    code, out, _ = asks(client, "wake", "chat")
    assert (code, client.commands) == (0, [("wake", {"model": "chat"})])
    assert out == f"chat: ready, {URL}\n"


@pytest.mark.parametrize(
    ("verb", "line"), [("sleep", "chat: going to sleep\n"), ("wake", "chat: waking\n")]
)
def test_without_waiting_it_only_asks(verb: str, line: str, asks: Any) -> None:
    client = FakeClient(worker("ready"))
    client.left.clear()
    assert asks(client, verb, "chat", "--no-wait") == (0, line, [])


@pytest.mark.parametrize(
    ("verb", "states", "line"),
    [
        (
            "sleep",
            [worker("draining"), worker("ready", STAYED)],
            f"chat is ready, and not asleep: {STAYED}",
        ),
        ("sleep", [worker("draining"), worker("ready")], "chat is ready, and not asleep"),
        ("sleep", [worker("stopped")], "chat is stopped, and not asleep"),
        ("wake", [worker("starting"), worker("asleep", NO_ROOM)], f"chat is asleep: {NO_ROOM}"),
        ("load", [worker("starting"), worker("asleep", NO_ROOM)], f"chat is asleep: {NO_ROOM}"),
        ("wake", [worker("stopped", "ended while it slept")], "chat is stopped: ended while it"),
    ],
)
def test_what_does_not_come_about_is_told_in_one_line_with_exit_code_1(
    verb: str, states: list[Worker], line: str, asks: Any
) -> None:
    code, out, err = asks(FakeClient(*states), verb, "chat")
    assert (code, out) == (1, "")
    assert line in err[-1]
    assert len([each for each in err if line in each]) == 1


@pytest.mark.parametrize("verb", ["wake", "load"])
def test_one_of_two_that_cannot_wake_is_told(verb: str, asks: Any) -> None:
    client = FakeClient(worker("starting"), worker("asleep", NO_ROOM), wanted=2)
    code, out, err = asks(client, verb, "chat")
    assert (code, out) == (1, "")
    assert f"chat is ready: {NO_ROOM}" in err[-1]


@pytest.mark.parametrize("verb", ["sleep", "wake"])
def test_a_refusal_is_passed_on(verb: str, asks: Any) -> None:
    client = FakeClient(worker("ready"), refusal="chat cannot sleep: set sleep_level")
    code, out, err = asks(client, verb, "chat")
    assert (code, out) == (1, "")
    assert len(err) == 1
    assert "chat cannot sleep: set sleep_level" in err[0]


@pytest.mark.parametrize(("verb", "state"), [("sleep", "draining"), ("wake", "starting")])
def test_who_waits_too_long_is_told_with_exit_code_5(verb: str, state: str, asks: Any) -> None:
    code, _, err = asks(FakeClient(worker(state)), verb, "chat", "--timeout", "0")
    assert code == 5
    assert f"chat is not {'asleep' if verb == 'sleep' else 'awake'} after 0 s: {state}" in err[-1]
