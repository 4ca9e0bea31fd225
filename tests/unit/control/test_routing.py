"""The routing table: what a client may ask for, made of what is wanted and what runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from vllm_console.control.canary import Canary
from vllm_console.control.routing import (
    adapters,
    attached_key,
    key_hashes,
    routing_table,
    same,
    since_epoch,
)
from vllm_console.control.served import ServedModel
from vllm_console.fleet.load import load_fleet
from vllm_console.fleet.model import Fleet, ModelConfig
from vllm_console.gateway.balancing import Balance
from vllm_console.gateway.table import Limits, Model, Table, Worker, decoded, encoded
from vllm_console.history.account_rows import hash_of
from vllm_console.snapshot import Engine, Failure
from vllm_console.snapshot import Worker as View
from vllm_console.workers.launch import LaunchSpec
from vllm_console.workers.states import SERVING, State

FAILURE = Failure("kv-too-small", "no room for one request", "lower max_model_len", "t")


@dataclass
class FakeWorker:
    """A worker in whatever state a test puts it."""

    view: View
    spec: LaunchSpec | None = None
    engine: Engine = field(default_factory=Engine)
    found: bool = False
    """It was ready when it was found, and is looked at again."""

    @property
    def id(self) -> str:
        return self.view.id

    @property
    def state(self) -> State:
        return State(self.view.state)

    @property
    def serves(self) -> bool:
        return self.state in SERVING or self.found


def worker(number: int = 1, state: State = State.READY, **more: Any) -> FakeWorker:
    port = 18000 + number
    view = View(f"m-{number}", state.value, url=f"http://127.0.0.1:{port}", pid=number)
    spec = LaunchSpec(f"m-{number}", "m", more.pop("revision", 3), (), port, ("m",))
    made = FakeWorker(view, spec, more.pop("engine", Engine()), more.pop("found", False))
    made.view = replace(made.view, **more)
    return made


@dataclass
class Shown:
    """One model and what the table says of it."""

    config: ModelConfig
    workers: list[FakeWorker] = field(default_factory=list)
    info: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    key: str | None = None
    closing: bool = False
    canary: Canary | None = None

    @property
    def served(self) -> ServedModel:
        model = ServedModel(self.config, 3, lambda *_: None)  # type: ignore[arg-type]
        model.workers.update({each.id: each for each in self.workers})  # type: ignore[misc]
        model.canary = self.canary
        return model

    @property
    def table(self) -> Table:
        return routing_table(
            Fleet(name="lab", gpu_hour_cost=2.0),
            [self.served],
            version=7,
            info=lambda name: self.info.get(name, {}),
            created=lambda _: 1000,
            key_of=lambda _: self.key,
            closing=self.closing,
        )

    @property
    def model(self) -> Model:
        (model,) = self.table.models
        return model


def config(**keys: Any) -> ModelConfig:
    return ModelConfig(name="m", source="s", **keys)


def test_a_ready_worker_is_listed_with_what_it_takes() -> None:
    wanted = config(aliases=("em",), options={"max_num_seqs": 8, "max_model_len": 2048})
    shown = Shown(wanted, [worker(gpus=(0, 1))])
    assert shown.table.fleet == "lab"
    assert (shown.table.version, shown.table.gpu_hour_cost) == (7, 2.0)
    assert shown.model == Model(
        name="m",
        aliases=("em",),
        state="ready",
        created=1000,
        max_model_len=2048,
        workers=(Worker(id="m-1", port=18001, revision=3, slots=8, gpus=2),),
    )


def test_slots_are_what_the_engine_says_before_what_the_file_says() -> None:
    engine = Engine(max_num_seqs=64)
    shown = Shown(config(options={"max_num_seqs": 8}), [worker(engine=engine), worker(2)])
    assert [each.slots for each in shown.model.workers] == [64, 8]
    assert [each.slots for each in Shown(config(), [worker()]).model.workers] == [256]


@pytest.mark.parametrize(
    ("state", "listed", "draining"),
    [
        (State.READY, True, False),
        (State.STALLED, True, True),
        (State.DRAINING, True, True),
        (State.STARTING, False, None),
        (State.QUEUED, False, None),
        (State.STOPPING, False, None),
        (State.ASLEEP, False, None),
        (State.BACKOFF, False, None),
        (State.STOPPED, False, None),
    ],
)
def test_what_a_worker_is_given_follows_its_state(
    state: State, listed: bool, draining: bool | None
) -> None:
    shown = Shown(config(), [worker(state=state)])
    assert [each.draining for each in shown.model.workers] == ([draining] if listed else [])
    assert shown.model.state == state


def test_a_worker_that_was_found_serving_goes_on_while_it_is_looked_at() -> None:
    shown = Shown(config(), [worker(state=State.STARTING, found=True, reason="was found running")])
    assert (shown.model.state, shown.model.reason) == ("ready", None)
    assert [each.draining for each in shown.model.workers] == [False]


def test_why_a_model_is_not_ready_is_told() -> None:
    failed = Shown(config(), [worker(state=State.FAILED, failure=FAILURE)])
    assert (failed.model.state, failed.model.reason) == (
        "failed",
        "kv-too-small: no room for one request",
    )
    queued = Shown(config(), [worker(state=State.QUEUED, reason="waits for its turn")])
    assert queued.model.reason == "waits for its turn"


def test_what_is_left_of_a_start_is_told_in_steps() -> None:
    starting = [
        worker(1, State.STARTING, expected_s=20.0, elapsed_s=3.0),
        worker(2, State.STARTING, expected_s=60.0, elapsed_s=1.0),
    ]
    assert Shown(config(), starting).model.ready_in_s == 20.0
    assert Shown(config(), starting[1:]).model.ready_in_s == 60.0
    late = worker(1, State.STARTING, expected_s=20.0, elapsed_s=100.0)
    assert Shown(config(), [late]).model.ready_in_s == 5.0
    assert Shown(config(), [worker(1, State.STARTING)]).model.ready_in_s is None


def test_a_sleeper_is_woken_by_requests_but_not_just_after_that_failed() -> None:
    asleep = Shown(config(), [worker(state=State.ASLEEP)]).model
    assert (asleep.state, asleep.workers, asleep.on_demand) == ("asleep", (), True)
    why = "cannot wake: GPU 0 has 3.0 GB free"
    refused = Shown(config(), [worker(state=State.ASLEEP, reason=why)]).model
    assert (refused.state, refused.reason, refused.on_demand) == ("asleep", why, False)
    beside = [worker(state=State.ASLEEP, reason=why), worker(2)]
    assert Shown(config(), beside).model.on_demand
    starts = [worker(state=State.ASLEEP, reason=why), worker(2, State.STARTING)]
    assert Shown(config(), starts).model.on_demand


def test_limits_shares_and_defaults_are_passed_on() -> None:
    keys = {
        "limits": {"queue": 3, "cold_timeout_s": 9.0, "max_tokens": 5},
        "weights": {3: 90.0, 4: 10.0},
        "sampling": {"temperature": 0.5},
        "on_demand": False,
        "options": {"scheduling_policy": "priority", "lora_modules": ["sql=/a", "cat=/b"]},
    }
    model = Shown(config(**keys)).model
    assert model.limits == Limits(queue=3, cold_s=9.0, max_tokens=5)
    assert (model.weights, model.sampling) == ({3: 90.0, 4: 10.0}, {"temperature": 0.5})
    assert (model.on_demand, model.engine_priority) == (False, True)
    assert model.adapters == ("sql", "cat")


def test_a_fleet_that_goes_down_takes_nothing_new_and_finishes_what_it_has() -> None:
    model = Shown(config(), [worker()], closing=True).model
    assert (model.state, model.reason) == ("stopped", "the fleet goes down")
    assert (model.on_demand, [each.draining for each in model.workers]) == (False, [True])


def test_an_attached_server_is_reached_with_its_key() -> None:
    wanted = ModelConfig(name="m", engine="attach", url="http://10.0.0.7")
    far = worker(url="http://10.0.0.7")
    far.spec = None
    shown = Shown(wanted, [far], key="sk-1")
    assert shown.model.workers == (
        Worker(id="m-1", host="10.0.0.7", port=80, revision=3, api_key="sk-1"),
    )
    assert not shown.model.on_demand
    assert Shown(wanted).model.on_demand


def test_an_attached_server_behind_tls_is_named_as_out_of_reach() -> None:
    wanted = ModelConfig(name="m", engine="attach", url="https://far.example")
    model = Shown(wanted, [worker(url="https://far.example")]).model
    assert (model.workers, model.state) == ((), "failed")
    assert "https" in (model.reason or "")


def test_tables_are_the_same_but_for_their_version() -> None:
    one = Shown(config(), [worker()]).table
    again = decoded(encoded(one))
    assert same(again, one)
    assert same(Table(version=1, fleet="f"), Table(version=2, fleet="f"))
    assert not same(None, one)
    assert not same(one, Shown(config(), [worker(state=State.DRAINING)]).table)


@pytest.mark.parametrize(
    ("option", "names"),
    [
        (None, ()),
        ("sql=/a", ("sql",)),
        (["sql=/a", '{"name": "cat", "path": "/b"}'], ("sql", "cat")),
        ([{"name": "cat", "path": "/b"}, {"path": "/c"}, 5, "{broken"], ("cat",)),
    ],
)
def test_adapters_are_named_as_vllm_takes_them(option: Any, names: tuple[str, ...]) -> None:
    assert adapters(option) == names


def test_keys_of_the_file_are_hashed_and_a_missing_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text(
        '[gateway.keys]\nann = { file = "ann" }\nbob = { env = "BOB" }\n'
    )
    (tmp_path / "ann").write_text("secret-of-ann\n")
    fleet = load_fleet(tmp_path / "fleet.toml", environ={})
    found, missing = key_hashes(fleet, environ={})
    assert found == {"ann": hash_of(b"secret-of-ann"), "bob": None}
    (line,) = missing
    assert line.startswith("gateway.keys.bob: the variable BOB is not set")


def test_a_key_of_a_watched_server_that_is_missing_is_none(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text(
        '[models.m]\nengine = "attach"\nurl = "http://h:1"\napi_key = { file = "key" }\n'
    )
    fleet = load_fleet(tmp_path / "fleet.toml", environ={})
    model = Shown(fleet.models["m"]).served
    assert attached_key(fleet, model) is None
    (tmp_path / "key").write_text("sk-9\n")
    assert attached_key(fleet, model) == "sk-9"


def test_a_time_becomes_seconds_since_the_epoch() -> None:
    assert since_epoch("2026-11-21T10:00:00.500Z") == 1795255200
    assert since_epoch("yesterday") == 0


def tried(share: float) -> Canary:
    return Canary(config(options={"max_num_seqs": 4}), 4, share, "m-2", 0.0)


def test_a_canary_has_its_share_and_its_own_slots() -> None:
    wanted = config(options={"max_num_seqs": 8}, weights={"3": 1.0})
    shown = Shown(wanted, [worker(), worker(2, revision=4)], canary=tried(0.1))
    assert shown.model.weights == pytest.approx({3: 0.9, 4: 0.1})
    assert [each.slots for each in shown.model.workers] == [8, 4]


def test_beside_a_canary_adopted_workers_of_other_revisions_share_the_rest() -> None:
    there = [worker(1, revision=2), worker(2, revision=4), worker(3), worker(4)]
    assert Shown(config(), there, canary=tried(0.4)).model.weights == pytest.approx(
        {2: 0.2, 3: 0.4, 4: 0.4}
    )


@pytest.mark.parametrize("alone", ["canary", "others"])
def test_one_side_alone_has_every_request(alone: str) -> None:
    there = [worker(), worker(2, revision=4)]
    gone = there[0 if alone == "canary" else 1]
    gone.view = replace(gone.view, state=State.BACKOFF.value)
    model = Shown(config(), there, canary=tried(0.1)).model
    balance = Balance()
    balance.configure(model.workers, model.weights, 0.0)
    picked = {balance.pick(0, 0, 0.0) for _ in range(20)}
    assert [slot.id for slot in picked if slot] == ["m-2" if alone == "canary" else "m-1"]


def test_shares_are_those_that_the_gateway_keeps() -> None:
    model = Shown(config(), [worker(), worker(2, revision=4)], canary=tried(0.25)).model
    balance = Balance()
    balance.configure(model.workers, model.weights, 0.0)
    picked = [slot.id for _ in range(400) if (slot := balance.pick(0, 0, 0.0))]
    assert picked.count("m-2") == 100
