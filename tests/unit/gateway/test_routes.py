"""What a new routing table does to those who wait and to what runs."""

from __future__ import annotations

from time import monotonic
from typing import Any

from vllm_console.gateway.admission import NORMAL, Waiting
from vllm_console.gateway.keyring import Keyring
from vllm_console.gateway.measures import Measures
from vllm_console.gateway.routes import Gateway
from vllm_console.gateway.table import Model, Table, Worker

ONE = Worker(id="small-1", port=9001, revision=1, slots=1)
TWO = Worker(id="small-2", port=9002, revision=1, slots=1)
HELD = Worker(id="other-1", port=9003, revision=1, slots=1)


def small(*workers: Worker, **more: Any) -> Model:
    more.setdefault("state", "ready" if workers else "stopped")
    return Model(name="small", workers=workers, **more)


def routing(*models: Model) -> Gateway:
    return Gateway(Table(version=1, models=models), Keyring(), Measures())


def again(gateway: Gateway, *models: Model) -> None:
    gateway.configure(Table(version=gateway.table.version + 1, models=models))


def waits(gateway: Gateway, told: list[str], model: str = "small") -> None:
    """Fills the model's only place, and lets one wait behind it."""
    queue, now = gateway.models[model].queue, monotonic()
    assert queue.enter(NORMAL, now)
    assert not queue.enter(NORMAL, now)
    assert queue.wait(Waiting(NORMAL, 1, now, lambda: told.append("in"), told.append)) is None


def test_the_requests_of_a_model_that_is_gone_find_no_worker_of_it_to_go_on_with() -> None:
    gateway = routing(small(ONE, TWO))
    live = gateway.models["small"]
    slot = live.balance.pick(0, 0, 0.0)
    assert slot is not None
    mark = slot.begin(1.0, 0.0)
    again(gateway)
    assert live.balance.pick(0, 0, 0.0, (slot,)) is None
    assert slot.end(1.0, mark, 1.0) == 0.0


def test_a_model_is_asked_for_when_its_worker_goes_while_somebody_waits() -> None:
    gateway, told, wanted = routing(small(ONE)), list[str](), list[str]()
    gateway.demand = wanted.append
    waits(gateway, told)
    again(gateway, small())
    again(gateway, small())
    assert (told, wanted) == ([], ["small"])


def test_who_waits_for_a_model_that_cannot_come_back_is_told() -> None:
    for gone in (small(state="failed"), small(on_demand=False)):
        gateway, told, wanted = routing(small(ONE)), list[str](), list[str]()
        gateway.demand = wanted.append
        waits(gateway, told)
        again(gateway, gone)
        assert (told, wanted) == (["no-worker"], [])


def test_whoever_is_let_in_finds_every_model_as_the_new_table_has_it() -> None:
    gateway = routing(small(), Model(name="other", state="ready", workers=(HELD,)))
    queue, now, picked = gateway.models["small"].queue, monotonic(), list[object]()

    def admitted() -> None:
        picked.append(gateway.models["other"].balance.pick(0, 0, now))

    assert queue.wait(Waiting(NORMAL, 1, now, admitted, picked.append)) is None
    again(gateway, small(ONE), Model(name="other", state="stopped"))
    assert picked == [None]
