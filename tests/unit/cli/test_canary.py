"""`canary`: what it asks the daemon for, until when it waits, and what it compares."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from vllm_console.answer import Answer, Figure, Measured, Question
from vllm_console.cli import canary
from vllm_console.cli.main import main
from vllm_console.cli.status import table
from vllm_console.snapshot import Canary, Daemon, Event, Failure, Model, Snapshot, Worker, to_json

SINCE = "2026-11-21T10:00:00.000Z"
TRIED = Canary(4, 0.1, "chat-3", SINCE)


class FakeClient:
    """A fake client of a daemon whose newest worker changes its state at every look."""

    def __init__(self, *states: str, ends_with: str | None = None) -> None:
        """`ends_with` is what the events say once there is no canary any more."""
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.questions: list[Question] = []
        self._states = list(states)
        self._ends_with = ends_with

    def command(self, verb: str, **args: Any) -> dict[str, Any]:
        self.commands.append((verb, args))
        return {"ok": True, "model": "chat", "workers": ["chat-3"], "revision": 4, "base": 3}

    def snapshot(self) -> Snapshot:
        state = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        workers = (Worker("chat-1", "ready"), Worker("chat-2", "ready"))
        model = Model("chat", "fake/model", 3, "ready", 2, 2, workers=workers)
        if state != "gone":
            failure = Failure("killed", "signal 9", "load it again", "t")
            tried = Worker("chat-3", state, failure=failure if state == "failed" else None)
            model = replace(model, canary=TRIED, workers=(*workers, tried))
        return Snapshot("t", "lab", Daemon(True, pid=1, uptime_s=5.0), models=(model,))

    def events(self, after: int = 0, limit: int = 1000) -> list[Event]:
        before = Event(7, "t", "info", "chat", "revision 3 serves")
        told = Event(8, "t", "crit", "chat", self._ends_with or "")
        return [event for event in (before, told) if event.seq > after][:limit]

    def ask(self, question: Question) -> Answer:
        self.questions.append(question)
        figures = {
            "requests": Figure({"per_s": 3.0, "count": 900.0}, 900),
            "ttft": Figure({"p95": 0.2}, 900),
            "itl": Figure({"p95": None}),
            "errors": Figure({"per_s": 0.0, "count": 0.0}, 0),
        }
        forms = {"requests": "counter", "errors": "counter"}
        measured = tuple(
            Measured(name, "s", forms.get(name, "distribution"), part, figure)
            for name, figure in figures.items()
            for part in (None, "chat-1", "chat-3")
        )
        return Answer("model/chat", SINCE, SINCE, None, (), measured, ())


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Any:
    def give(client: FakeClient) -> FakeClient:
        monkeypatch.setattr(canary, "client_of", lambda _: client)
        return client

    return give


def test_it_waits_until_the_canary_is_ready(given: Any, capsys: pytest.CaptureFixture[str]) -> None:
    client = given(FakeClient("queued", "starting", "ready"))
    assert main(["canary", "chat", "10%"]) == 0
    assert client.commands == [("canary", {"model": "chat", "share": 0.1})]
    said = "chat: revision 4 has 10 % of the requests, revision 3 the rest\n"
    assert capsys.readouterr().out == said


def test_without_waiting_it_only_asks(given: Any, capsys: pytest.CaptureFixture[str]) -> None:
    given(FakeClient("queued"))
    assert main(["canary", "chat", "2.5%", "--no-wait"]) == 0
    said = "chat: revision 4 has 2.5 % of the requests once it is ready\n"
    assert capsys.readouterr().out == said


def test_a_canary_that_was_given_up_is_told_with_its_reason(
    given: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    why = "canary: revision 4 did not become ready (killed: signal 9); revision 3 has all requests"
    given(FakeClient("starting", "gone", ends_with=why))
    assert main(["canary", "chat", "10%"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"vllm-console: chat: {why}"


def test_ending_waits_until_its_worker_is_gone(
    given: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    client = given(FakeClient("draining", "stopping", "gone"))
    assert main(["canary", "chat", "--end"]) == 0
    assert client.commands == [("canary", {"model": "chat", "end": True})]
    assert capsys.readouterr().out == "chat: revision 3 has all requests\n"


def test_both_revisions_are_compared_since_the_canary_began(
    given: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    client = given(FakeClient("ready"))
    assert main(["canary", "chat"]) == 0
    (asked,) = client.questions
    assert (asked.subject, asked.by, asked.since) == ("model/chat", "worker", 1795255200.0)
    first, head, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith("chat: revision 4 beside revision 3, for ")
    names = ["revision", "share", "state", "requests", "TTFT", "p95", "ITL", "p95", "errors"]
    assert head.split() == names
    assert [row.split() for row in rows] == [
        ["chat-1", "3", "90", "%", "ready", "900", "200", "ms", "–", "0"],
        ["chat-2", "3", "ready", "–", "–", "–", "–"],
        ["chat-3", "4", "canary", "10", "%", "ready", "900", "200", "ms", "–", "0"],
    ]


def test_one_that_is_not_ready_yet_is_told_so(
    given: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    given(FakeClient("starting"))
    assert main(["canary", "chat"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert ", begun " in first
    assert first.endswith(" ago")


def test_the_comparison_as_json(given: Any, capsys: pytest.CaptureFixture[str]) -> None:
    given(FakeClient("ready"))
    assert main(["canary", "chat", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "vllm-console/canary/1"
    assert told["canary"] == {"revision": 4, "share": 0.1, "worker": "chat-3", "since": SINCE}
    assert (told["base"], told["history"]["subject"]) == (3, "model/chat")


def test_a_model_without_one_says_how_to_begin(
    given: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    given(FakeClient("gone"))
    assert main(["canary", "chat"]) == 1
    assert "`vllm-console canary chat 10%`" in capsys.readouterr().err


@pytest.mark.parametrize("share", ["10", "0.1", "101%", "-1%", "ten%", "nan%", "%"])
def test_what_is_no_share_is_one_line(share: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["canary", "chat", share])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("words", [["10%", "--end"], ["--end", "--json"], ["10%", "--json"]])
def test_two_wishes_at_once_are_refused(
    given: Any, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    client = given(FakeClient("ready"))
    assert main(["canary", "chat", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert client.commands == []


def test_the_status_table_marks_the_canary() -> None:
    shown = table(to_json(FakeClient("ready").snapshot()))
    assert "  chat-3 (r4, 10 %)  ready" in shown
    assert "  chat-1             ready" in shown
