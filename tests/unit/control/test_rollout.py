"""A rollout never leaves a model without the worker it had, unless the new one serves."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import pytest

from vllm_console.control.canary import Canary
from vllm_console.control.rollout import Rollout
from vllm_console.control.roster import Roster
from vllm_console.control.served import ServedModel
from vllm_console.errors import ConsoleError
from vllm_console.fleet.model import Fleet, ModelConfig
from vllm_console.snapshot import Failure, Worker
from vllm_console.workers.states import State


class FakeWorker:
    """Becomes ready, unless the configuration it starts with is one that does not serve."""

    def __init__(self, worker_id: str, model: ServedModel, told: list[str]) -> None:
        self.id = worker_id
        self.state = State.STOPPED
        self.runs: ModelConfig | None = None
        self._model = model
        self._told = told

    @property
    def view(self) -> Worker:
        failure = Failure("bad-option", "no such block size", "mend it", "t")
        return Worker(self.id, self.state.value, failure=failure if self.runs is None else None)

    def load(self) -> None:
        works = "block_size" not in self._model.config.options
        self.state = State.READY if works else State.FAILED
        self.runs = self._model.config if works else None
        self._told.append(f"{self.id} {self.state}")

    async def unload(self) -> None:
        self.state = State.STOPPED
        self._told.append(f"{self.id} stopped")

    async def restart(self) -> None:
        self.state = State.STOPPED
        self.load()

    async def wait(self, states: Collection[State], limit_s: float) -> None:
        assert self.state in states


class FakeCanaries:
    """Promotes and ends the canary of a fake fleet's model, and writes nothing down."""

    def __init__(self, fleet: FakeFleet) -> None:
        self._fleet = fleet

    def promote(self, model: ServedModel) -> Any:
        canary, model.canary = model.canary, None
        return model.workers[canary.worker] if canary is not None else None

    async def end(self, model: ServedModel) -> None:
        worker = model.end_canary()
        if worker is not None:
            await self._fleet.retire(model, worker)


class FakeFleet:
    """Stands in for the daemon; `room` says whether a new worker fits beside the old."""

    def __init__(self, config: ModelConfig, *, room: bool) -> None:
        self.room = room
        self.told: list[str] = []
        self.events: list[tuple[str, str]] = []
        self.configs = [config]
        self.canaries = FakeCanaries(self)
        first = ServedModel(config, 1, self._make)  # type: ignore[arg-type]
        self.models = Roster({config.name: first})
        self.models[config.name].load()
        self.told.clear()

    def _make(self, model: ServedModel, worker_id: str) -> FakeWorker:
        return FakeWorker(worker_id, model, self.told)

    def tell(self, level: str, subject: str, text: str) -> None:
        self.events.append((level, text))

    def admit(self, config: ModelConfig) -> None:
        self.models[config.name] = ServedModel(config, 1, self._make)  # type: ignore[arg-type]

    def revise(self, model: ServedModel, config: ModelConfig) -> None:
        if config not in self.configs:
            self.configs.append(config)
        model.config = config
        model.revision = self.configs.index(config) + 1

    def has_room_beside(self, model: ServedModel) -> bool:
        return self.room

    async def retire(self, model: ServedModel, worker: Any) -> None:
        await worker.unload()
        del model.workers[worker.id]


def config(**options: Any) -> ModelConfig:
    return ModelConfig(name="m", source="x/y", options=options)


def apply(fleet: FakeFleet, *configs: ModelConfig) -> None:
    wanted = Fleet(models={c.name: c for c in configs})
    asyncio.run(Rollout(fleet, lambda: wanted).apply())


def test_with_room_the_new_worker_serves_before_the_old_one_stops() -> None:
    fleet = FakeFleet(config(max_num_seqs=8), room=True)
    apply(fleet, config(max_num_seqs=16))
    assert fleet.told == ["m-2 ready", "m-1 stopped"]
    assert list(fleet.models["m"].workers) == ["m-2"]
    assert fleet.models["m"].revision == 2


def test_without_room_the_old_worker_makes_way() -> None:
    fleet = FakeFleet(config(max_num_seqs=8), room=False)
    apply(fleet, config(max_num_seqs=16))
    assert fleet.told == ["m-1 ready"]
    assert list(fleet.models["m"].workers) == ["m-1"]


@pytest.mark.parametrize("room", [True, False])
def test_a_revision_that_does_not_serve_is_taken_back(room: bool) -> None:
    fleet = FakeFleet(config(max_num_seqs=8), room=room)
    with pytest.raises(ConsoleError, match=r"revision 2 did not become ready .*revision 1 serves"):
        apply(fleet, config(max_num_seqs=8, block_size=7))
    (worker,) = fleet.models["m"].workers.values()
    assert worker.state is State.READY
    assert worker.id == "m-1"
    assert fleet.models["m"].config == config(max_num_seqs=8)
    assert fleet.models["m"].revision == 1
    if room:
        assert "m-1 stopped" not in fleet.told


def test_one_models_failure_leaves_the_others_to_be_applied() -> None:
    fleet = FakeFleet(config(), room=True)
    other = ModelConfig(name="other", source="x/y")
    with pytest.raises(ConsoleError):
        apply(fleet, config(block_size=7), other)
    assert "other" in fleet.models


def test_a_model_that_left_the_file_is_stopped_and_forgotten() -> None:
    fleet = FakeFleet(config(), room=True)
    apply(fleet)
    assert fleet.models == {}
    assert fleet.told == ["m-1 stopped"]


def test_a_plan_that_is_no_longer_the_files_is_refused() -> None:
    fleet = FakeFleet(config(), room=True)
    wanted = Fleet(models={"m": config(max_num_seqs=4)})
    rollout = Rollout(fleet, lambda: wanted)
    with pytest.raises(ConsoleError, match="changed since"):
        asyncio.run(rollout.apply("0000000000000000"))
    assert fleet.told == []
    asyncio.run(rollout.apply(rollout.plan()["digest"]))
    assert fleet.told == ["m-2 ready", "m-1 stopped"]


def beside(fleet: FakeFleet, tried: ModelConfig, state: State = State.READY) -> None:
    """Try a configuration beside what serves; its worker is `m-9`."""
    model = fleet.models["m"]
    model.canary = Canary(tried, 2, 0.1, "m-9", 0.0)
    worker: Any = model.add_worker("m-9")
    worker.state = state
    fleet.told.clear()


def test_a_canary_of_the_wanted_configuration_takes_the_place_of_one_worker() -> None:
    fleet = FakeFleet(config(max_num_seqs=8), room=True)
    fleet.models["m"].load(2)
    beside(fleet, config(max_num_seqs=16))
    apply(fleet, config(max_num_seqs=16))
    assert fleet.told == ["m-1 stopped", "m-1 ready", "m-2 stopped"]
    assert sorted(fleet.models["m"].workers) == ["m-1", "m-9"]
    assert (fleet.models["m"].canary, fleet.models["m"].revision) == (None, 2)
    assert ("ok", "revision 2 serves") in fleet.events


def test_a_canary_takes_the_place_of_a_worker_that_serves_none() -> None:
    fleet = FakeFleet(config(max_num_seqs=8), room=True)
    fleet.models["m"].load(2)
    beside(fleet, config(max_num_seqs=16))
    ended: Any = fleet.models["m"].workers["m-2"]
    ended.state = State.CRASH_LOOP
    apply(fleet, config(max_num_seqs=16))
    assert fleet.told == ["m-2 stopped", "m-2 ready", "m-1 stopped"]


def test_a_canary_that_sleeps_is_taken_as_it_is() -> None:
    fleet = FakeFleet(config(max_num_seqs=8), room=True)
    beside(fleet, config(max_num_seqs=16), State.ASLEEP)
    apply(fleet, config(max_num_seqs=16))
    assert fleet.told == ["m-1 stopped"]
    assert list(fleet.models["m"].workers) == ["m-9"]


def test_a_canary_that_does_not_serve_when_it_is_taken_goes_and_the_former_stays() -> None:
    fleet = FakeFleet(config(max_num_seqs=8), room=True)
    beside(fleet, config(max_num_seqs=16), State.BACKOFF)
    with pytest.raises(ConsoleError, match=r"revision 2 did not become ready .*revision 1 serves"):
        apply(fleet, config(max_num_seqs=16))
    assert fleet.told == ["m-9 stopped"]
    assert list(fleet.models["m"].workers) == ["m-1"]
    assert fleet.models["m"].config == config(max_num_seqs=8)


@pytest.mark.parametrize(
    ("slots", "told"), [(8, ["m-9 stopped"]), (32, ["m-9 stopped", "m-2 ready", "m-1 stopped"])]
)
def test_a_canary_of_any_other_configuration_ends_first(slots: int, told: list[str]) -> None:
    fleet = FakeFleet(config(max_num_seqs=8), room=True)
    beside(fleet, config(max_num_seqs=16))
    apply(fleet, config(max_num_seqs=slots))
    assert fleet.told == told
    assert fleet.models["m"].canary is None


def test_a_model_that_left_the_file_goes_with_its_canary() -> None:
    fleet = FakeFleet(config(), room=True)
    beside(fleet, config(max_num_seqs=16))
    apply(fleet)
    assert fleet.models == {}
    assert sorted(fleet.told) == ["m-1 stopped", "m-9 stopped"]
