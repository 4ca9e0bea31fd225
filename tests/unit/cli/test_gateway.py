"""`gateway`: one line for a script's eye, a few for a person's, and a restart that is asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vllm_console.cli import gateway as verb
from vllm_console.cli import up
from vllm_console.cli.gateway import line
from vllm_console.cli.main import main
from vllm_console.cli.status import table
from vllm_console.snapshot import (
    STARTS,
    Alert,
    Daemon,
    Gateway,
    Model,
    Queued,
    Snapshot,
    to_json,
)

URL = "http://127.0.0.1:4000"
RUNS = Gateway(
    True, URL, 4.25, Queued(1, 2, 0), 0.5, 0.0, pid=42, version="0.1.0", uptime_s=61.0, in_flight=7
)
MODEL = Model("m", "s", 1, "ready", 2, 2, queued=Queued(1, 2, 0), in_flight=7)
FLEET = Snapshot("t", "lab", Daemon(True, 1, "0", 1.0), models=(MODEL,), gateway=RUNS)


class FakeClient:
    """A daemon's client that shows these snapshots one after the other, the last for ever."""

    asked: tuple[str, ...] = ()
    shown: tuple[Snapshot, ...] = (FLEET,)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def command(self, name: str, **_: Any) -> dict[str, Any]:
        FakeClient.asked += (name,)
        return {"ok": True}

    def snapshot(self) -> Snapshot:
        first, *rest = FakeClient.shown
        FakeClient.shown = tuple(rest) or (first,)
        return first


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (tmp_path / "fleet.toml").write_text('[fleet]\nname = "lab"\n')
    monkeypatch.setattr(verb, "Client", FakeClient)
    FakeClient.asked, FakeClient.shown = (), (FLEET,)
    return ["gateway", "--fleet", str(tmp_path / "fleet.toml"), "--state-dir", str(tmp_path)]


def test_a_gateway_that_runs_is_shown_with_its_models(
    fleet: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(fleet) == 0
    assert capsys.readouterr().out == (
        f"gateway  {URL}, 4.2 req/s, 7 in flight, 3 queued\n"
        "         pid 42, version 0.1.0, up 61 s\n"
        "  m  ready, 2/2 workers, 7 in flight, 1/2/0 waiting (high/normal/low)\n"
    )
    assert FakeClient.asked == ()


def test_a_gateway_that_does_not_run_says_why_and_fails(
    fleet: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    FakeClient.shown = (replace(FLEET, gateway=Gateway(reason="127.0.0.1:4000 is taken by pid 9")),)
    assert main(fleet) == 1
    assert capsys.readouterr().out == "gateway  127.0.0.1:4000 is taken by pid 9\n"


def test_a_restart_is_asked_for(fleet: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*fleet, "restart"]) == 0
    assert FakeClient.asked == ("gateway-restart",)
    assert "pid 42" in capsys.readouterr().out


def test_what_is_wrong_with_it_is_said_once(
    fleet: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = "no certificate"
    alerts = (Alert("warn", "gateway", text), Alert("warn", "m-1", "slow"))
    FakeClient.shown = (replace(FLEET, gateway=replace(RUNS, reason=text), alerts=alerts),)
    assert main(fleet) == 0
    said = capsys.readouterr().out
    assert said.count(text) == 1
    assert "slow" not in said


def test_it_is_one_json_object(fleet: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*fleet, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["fleet"], said["url"], said["in_flight"]) == ("lab", URL, 7)
    assert said["models"] == [
        {
            "name": "m",
            "state": "ready",
            "ready": 2,
            "in_flight": 7,
            "queued": {"high": 1, "normal": 2, "low": 0},
            "balancing": None,
        }
    ]


def test_what_it_rejects_is_in_the_line_and_what_is_unknown_is_a_dash() -> None:
    assert line(to_json(replace(RUNS, rejected_per_s=0.5))).endswith("3 queued, 0.5/s rejected")
    fresh = Gateway(True, URL, pid=42)
    assert line(to_json(fresh)) == f"gateway  {URL}, – req/s, – in flight, – queued"
    assert line(to_json(Gateway())) == "gateway  none"


def test_status_has_its_line() -> None:
    assert f"gateway  {URL}, 4.2 req/s" in table(to_json(FLEET))


def test_up_tells_the_endpoint_once_it_is_there_or_why_there_is_none() -> None:
    starting = replace(FLEET, gateway=Gateway(reason=STARTS))
    FakeClient.shown = (starting, starting, FLEET)
    assert up.endpoint(FakeClient()) == f"endpoint {URL}"  # type: ignore[arg-type]
    FakeClient.shown = (replace(FLEET, gateway=Gateway(reason="off")),)
    assert up.endpoint(FakeClient()) == "no endpoint: off"  # type: ignore[arg-type]
    FakeClient.shown = (starting,)
    assert up.endpoint(FakeClient(), within_s=0.0) == "no endpoint: starts"  # type: ignore[arg-type]
