"""`scale`: what it asks the daemon for, and until when it waits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vllm_console.cli import scale
from vllm_console.cli.main import main
from vllm_console.snapshot import Canary, Daemon, Model, Snapshot, Worker


class FakeClient:
    """A fake client of a daemon that scales a model a worker a look."""

    def __init__(self, workers: int) -> None:
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.model = Model("chat", "fake/model", 1, "ready", workers, workers)

    def command(self, verb: str, **args: Any) -> dict[str, Any]:
        self.commands.append((verb, args))
        self.model = replace(self.model, wanted=args["workers"])
        return {"ok": True, "model": "chat", "workers": []}

    def snapshot(self) -> Snapshot:
        model = self.model
        ready = model.ready + (model.ready < model.wanted) - (model.ready > model.wanted)
        workers = tuple(Worker(f"chat-{n + 1}", "ready") for n in range(ready))
        self.model = replace(model, ready=ready, workers=workers)
        return Snapshot("t", "lab", Daemon(True), models=(self.model,))


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1)])
def test_it_waits_until_so_many_workers_are_there_and_no_others(
    before: int, after: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = FakeClient(before)
    monkeypatch.setattr(scale, "client_of", lambda _: client)
    assert main(["scale", "chat", str(after)]) == 0
    assert client.commands == [("scale", {"model": "chat", "workers": after})]
    assert capsys.readouterr().out == f"chat: {after} of {after} ready\n"


def test_without_waiting_it_only_asks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = FakeClient(1)
    monkeypatch.setattr(scale, "client_of", lambda _: client)
    assert main(["scale", "chat", "2", "--no-wait"]) == 0
    assert capsys.readouterr().out == "chat: 2 wanted\n"
    assert client.model.ready == 1


@pytest.mark.parametrize("number", ["-1", "two", "1.5"])
def test_what_is_no_number_of_workers_is_one_line(
    number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["scale", "chat", number])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_canary_is_not_one_of_the_workers_that_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class WithCanary(FakeClient):
        """The same, with one worker more that is tried."""

        def snapshot(self) -> Snapshot:
            (model,) = super().snapshot().models
            workers = (*model.workers, Worker("chat-9", "ready"))
            tried = replace(model, canary=Canary(2, 0.1, "chat-9", "t"), workers=workers)
            return Snapshot("t", "lab", Daemon(True), models=(tried,))

    client = WithCanary(1)
    monkeypatch.setattr(scale, "client_of", lambda _: client)
    assert main(["scale", "chat", "2", "--timeout", "5"]) == 0
    assert capsys.readouterr().out == "chat: 2 of 2 ready\n"
