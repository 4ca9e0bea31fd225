"""`pin`, `unpin` and `plan` as a user types them, over a daemon that answers as told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vllm_console.cli import pin, plan, unpin
from vllm_console.cli.main import main
from vllm_console.errors import NotFound
from vllm_console.looks import Cut, LoadPlan
from vllm_console.snapshot import to_json

GB = 1 << 30
GPU = Cut(0, "H100", 80 * GB, 20 * GB, 72 * GB)
PLAN = LoadPlan("chat", 3, 1, gpus=(GPU,), expected_s=42.0, command=("vllm", "serve", "a b"))


class FakeClient:
    """A fake client of a daemon that has one model and one plan."""

    def __init__(self, plan: LoadPlan = PLAN) -> None:
        self.plan = plan
        self.commands: list[tuple[str, str]] = []

    def command(self, verb: str, *, model: str) -> dict[str, Any]:
        self.commands.append((verb, model))
        if model not in ("chat", "c"):
            raise NotFound(f"no model {model}")
        if verb == "load-plan":
            return dict(to_json(self.plan))
        return {"ok": True, "model": "chat", "workers": [], "pinned": verb == "pin"}


@pytest.fixture
def asks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line against a fake client; returns its exit code, stdout and stderr."""

    def run(client: FakeClient, *words: str) -> tuple[int, str, str]:
        for module in (pin, plan, unpin):
            monkeypatch.setattr(module, "client_of", lambda _: client)
        code = main(list(words))
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_pin_and_unpin_say_what_is_so_now(asks: Any) -> None:
    client = FakeClient()
    assert asks(client, "pin", "c") == (0, "chat: pinned, nothing evicts it\n", "")
    assert asks(client, "unpin", "c") == (0, "chat: not pinned\n", "")
    assert client.commands == [("pin", "c"), ("unpin", "c")]


@pytest.mark.parametrize("verb", ["pin", "unpin", "plan"])
def test_an_unknown_model_is_one_line(asks: Any, verb: str) -> None:
    assert asks(FakeClient(), verb, "chta") == (4, "", "vllm-console: no model chta\n")


def test_a_plan_tells_whether_it_could_start_and_what_it_would_take(asks: Any) -> None:
    code, out, _ = asks(FakeClient(), "plan", "chat")
    assert code == 0
    first, *rest = out.splitlines()
    assert first == "● it can start now   `vllm-console load chat` starts it"
    assert "" not in rest
    told = "\n".join(rest)
    assert "GPU 0  H100" in told
    assert "only 60.0 GiB are free now" in told
    assert "vllm serve 'a b'" in told


def test_a_plan_that_cannot_be_carried_out_exits_1(asks: Any) -> None:
    refused = LoadPlan("chat", 3, 1, refused=("GPU 7 is not here",))
    code, out, _ = asks(FakeClient(refused), "plan", "chat")
    assert code == 1
    assert "GPU 7 is not here" in out
    code, out, _ = asks(FakeClient(refused), "plan", "chat", "--json")
    assert code == 1
    told = json.loads(out)
    assert (told["schema"], told["refused"]) == ("vllm-console/plan/1", ["GPU 7 is not here"])
