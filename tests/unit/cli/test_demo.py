"""The demo's own decisions: where traffic goes, when the fleet is ready, what is bad input."""

from __future__ import annotations

import io
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllm_console.cli import demo
from vllm_console.errors import ConsoleError, InvalidInput
from vllm_console.fleet.load import load_fleet
from vllm_console.fleet.model import Fleet
from vllm_console.snapshot import Daemon, Engine, Failure, Model, Snapshot, Worker
from vllm_console.traffic.generate import Target


def worker(state: str, number: int = 1, **more: object) -> Worker:
    return Worker(f"w-{number}", state, url=f"http://127.0.0.1:800{number}", **more)  # type: ignore[arg-type]


def model(name: str, *workers: Worker, context: int | None = None) -> Model:
    state = workers[0].state if workers else "stopped"
    ready = sum(w.state == "ready" for w in workers)
    engine = Engine(max_model_len=context)
    return Model(name, "tiny:small", 1, state, 1, ready, engine=engine, workers=workers)


def snapshot(*models: Model) -> Snapshot:
    return Snapshot("2026-11-21T00:00:00Z", "demo", Daemon(True), models)


class FakeClient:
    """Gives scripted snapshots, the last one for ever."""

    def __init__(self, *snapshots: Snapshot) -> None:
        self._left = list(snapshots)

    def snapshot(self) -> Snapshot:
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    path = tmp_path / "fleet.toml"
    path.write_text(
        '[fleet]\nname = "demo"\n'
        '[models.a]\nsource = "tiny:small"\nstart_timeout = "200ms"\n'
        '[models.b]\nsource = "tiny:small"\nstart_timeout = "100ms"\n'
    )
    return load_fleet(path, environ={})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_POLL_S", 0.001)


def wait(client: FakeClient, fleet: Fleet, *, strict: bool) -> None:
    demo._wait_ready(client, fleet, ["a", "b"], strict=strict)  # type: ignore[arg-type]


def failed() -> Worker:
    why = Failure("port-in-use", "Address already in use", "free the port", "2026-11-21T00:00:00Z")
    return worker("failed", failure=why)


def test_traffic_goes_to_ready_workers_at_the_length_they_take() -> None:
    now = snapshot(
        model("a", worker("ready", 1), worker("starting", 2), worker("draining", 3), context=512),
        model("b", worker("ready", 4)),
        model("c"),
    )
    assert demo.targets_of(now) == [
        Target("a", "http://127.0.0.1:8001", 512),
        Target("b", "http://127.0.0.1:8004"),
    ]


def test_waiting_ends_when_every_model_is_ready_and_tells_each_stage_once(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    client = FakeClient(
        snapshot(model("a", worker("starting", stage="import", progress=0.1)), model("b")),
        snapshot(model("a", worker("starting", stage="import", progress=0.2)), model("b")),
        snapshot(model("a", worker("ready")), model("b", worker("starting", stage="weights"))),
        snapshot(model("a", worker("ready")), model("b", worker("ready"))),
    )
    wait(client, fleet, strict=True)
    assert capsys.readouterr().err.splitlines() == [
        "a: starting · w-1 import",
        "b: stopped",
        "a: ready",
        "b: starting · w-1 weights",
        "b: ready",
    ]


def test_a_failed_model_ends_a_headless_demo_with_its_cause(fleet: Fleet) -> None:
    client = FakeClient(snapshot(model("a", failed()), model("b", worker("starting"))))
    with pytest.raises(ConsoleError, match=r"w-1 failed \(port-in-use\): Address .*; free the"):
        wait(client, fleet, strict=True)


def test_a_failed_model_beside_a_ready_one_is_left_for_the_console_to_show(fleet: Fleet) -> None:
    wait(
        FakeClient(snapshot(model("a", failed()), model("b", worker("ready")))), fleet, strict=False
    )
    with pytest.raises(ConsoleError, match="port-in-use"):
        wait(FakeClient(snapshot(model("a", failed()), model("b", failed()))), fleet, strict=False)


def test_waiting_ends_at_the_longest_start_timeout(fleet: Fleet) -> None:
    with pytest.raises(ConsoleError, match=r"not ready after 0\.2 s"):
        wait(FakeClient(snapshot(model("a", worker("starting")), model("b"))), fleet, strict=True)


def parsed(*words: str) -> Namespace:
    parser = ArgumentParser()
    demo.configure(parser)
    args = parser.parse_args(words)
    args.fleet = args.state_dir = None
    args.set = []
    return args


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--headless", "--rate", "0"], "--rate 0: takes a number above 0"),
        (["--headless", "--for", "-3"], "--for -3: takes a number above 0"),
        (["--headless", "--for", "nan"], "--for nan: takes a number above 0"),
        (["--headless", "--trace", "none.csv"], "none.csv: cannot read the trace"),
        (["--json"], "--json goes with --headless"),
        ([], "the console needs a terminal"),
    ],
)
def test_bad_input_is_told_before_anything_starts(
    words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(InvalidInput) as caught:
        demo.run(parsed(*words))
    assert told in str(caught.value)


def test_a_fleet_in_which_nothing_starts_is_bad_input(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "fleet.toml").write_text('[models.a]\nsource = "tiny:small"\nautostart = false\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="no model has autostart"):
        demo.run(parsed("--headless"))


def test_without_a_fleet_file_here_the_packaged_one_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    packaged = demo._fleet_file()
    assert packaged.is_absolute()
    assert packaged.is_file()
    (tmp_path / "fleet.toml").touch()
    assert demo._fleet_file() == Path("fleet.toml")


@pytest.fixture
def handlers() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    assert {number: signal.getsignal(number) for number in numbers} == before


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_unwinds_what_was_started(number: signal.Signals) -> None:
    cleaned = []

    def clean() -> None:
        signal.raise_signal(number)
        cleaned.append(True)

    def wait_for_the_signal() -> None:
        try:
            signal.raise_signal(number)
        finally:
            demo._untouchable(clean)()

    with pytest.raises(SystemExit) as caught, demo._stopped_by_signals():
        wait_for_the_signal()
    assert caught.value.code == 128 + number
    assert cleaned == [True]


def test_tiny_models_share_the_cards_where_there_are_fewer_cards_than_models(
    tmp_path: Path,
) -> None:
    from vllm_console.cli.demo import sharing
    from vllm_console.fleet.load import load_fleet

    file = tmp_path / "fleet.toml"
    file.write_text(
        '[models.a]\nsource = "tiny:small"\n[models.b]\nsource = "tiny:large"\n'
        '[models.c]\nsource = "Qwen/Qwen3-8B"\n'
    )
    fleet = load_fleet(file, environ={})
    assert sharing(fleet, 0) == []
    assert sharing(fleet, 2) == []
    shared = load_fleet(file, environ={}, sets=sharing(fleet, 1))
    assert [model.devices for model in shared.models.values()] == [(0,), (0,), None]
    assert shared.models["a"].options == {"gpu_memory_utilization": 0.45}
    assert shared.models["c"].options == {}
