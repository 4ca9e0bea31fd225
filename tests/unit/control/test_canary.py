"""A model with a canary: what counts as its own, what each worker is started with, what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vllm_console.control.canary import Canary, CanaryFile, Kept
from vllm_console.control.served import ServedModel
from vllm_console.fleet.model import ModelConfig
from vllm_console.snapshot import Worker
from vllm_console.workers.states import State

KEPT = Kept(1, 2, 0.25, "m-2", 1000.5, True)


class FakeWorker:
    """A worker in the state a test puts it in; says whether it was loaded."""

    def __init__(self, worker_id: str, state: State = State.READY) -> None:
        self.id = worker_id
        self.state = state
        self.spec = None
        self.loaded = False

    @property
    def view(self) -> Worker:
        return Worker(self.id, self.state.value)

    def load(self) -> None:
        self.loaded = True


def config(**options: Any) -> ModelConfig:
    return ModelConfig(name="m", source="x/y", options=options)


def model(*states: State, wanted: int, tried: str = "m-2") -> ServedModel:
    """A model whose workers are in these states; one of them is a canary of revision 2."""

    def make(_: ServedModel, worker_id: str) -> Any:
        return FakeWorker(worker_id, State.STOPPED)

    made = ServedModel(config(), 1, make, wanted=wanted)
    for number, state in enumerate(states, 1):
        worker: Any = FakeWorker(f"m-{number}", state)
        made.workers[worker.id] = worker
    made.canary = Canary(config(max_num_seqs=8), 2, 0.1, tried, 0.0)
    return made


def ids(workers: list[Any]) -> list[str]:
    return [worker.id for worker in workers]


def test_each_worker_is_started_with_its_own_configuration() -> None:
    served = model(State.READY, State.READY, wanted=1)
    assert served.config_of("m-1") == (config(), 1)
    assert served.config_of("m-2") == (config(max_num_seqs=8), 2)
    served.canary = None
    assert served.config_of("m-2") == (config(), 1)


def test_a_canary_is_no_ready_worker_of_those_wanted() -> None:
    served = model(State.STARTING, State.READY, wanted=1)
    assert (served.ready, ids(served.own)) == (0, ["m-1"])
    assert served.state is State.READY


def test_a_load_does_not_count_the_canary() -> None:
    served = model(State.READY, State.READY, wanted=1)
    assert ids(served.load(2)) == ["m-3"]
    assert list(served.workers) == ["m-1", "m-2", "m-3"]


@pytest.mark.parametrize("state", [State.ASLEEP, State.STOPPED])
def test_a_load_starts_a_canary_that_rests(state: State) -> None:
    served = model(State.READY, state, wanted=1)
    assert ids(served.load()) == ["m-2"]


def test_the_id_of_a_canary_that_is_not_made_yet_is_taken() -> None:
    served = model(State.READY, wanted=1)
    assert served.free_id() == "m-3"


def test_scaling_down_leaves_the_canary_and_scaling_to_none_takes_it() -> None:
    served = model(State.READY, State.READY, State.READY, wanted=2)
    assert ids(served.scale(1)[1]) == ["m-3"]
    assert served.canary is not None
    served.workers.pop("m-3")
    assert ids(served.scale(0)[1]) == ["m-1", "m-2"]
    assert served.leaving >= {"m-1", "m-2"}
    assert served.config_of("m-2") == (config(), 1)


def test_a_canary_is_never_one_more_than_wanted() -> None:
    served = model(State.READY, State.READY, State.READY, wanted=2)
    assert served.surplus(2, {"m-1", "m-2", "m-3"}) == []
    assert ids(served.surplus(1, {"m-2", "m-3"})) == ["m-1"]


def test_only_stopped_workers_of_its_own_are_dropped() -> None:
    served = model(State.READY, State.STOPPED, State.STOPPED, wanted=1)
    assert ids(served.drop_stopped()) == ["m-3"]
    assert list(served.workers) == ["m-1", "m-2"]


def test_an_unload_takes_the_canary_for_good() -> None:
    served = model(State.READY, State.READY, wanted=1)
    assert ids(served.unload()) == ["m-1", "m-2"]
    assert (served.canary, served.leaving) == (None, {"m-2"})


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "canaries.json"
    CanaryFile(path).write({"m": KEPT})
    assert path.stat().st_mode & 0o777 == 0o600
    assert CanaryFile(path).read() == {"m": KEPT}


def test_without_a_canary_there_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "canaries.json"
    file = CanaryFile(path)
    file.write({"m": KEPT})
    file.write({})
    assert not path.exists()
    assert file.read() == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"m": 1}',
        '{"m": {"base": 1}}',
        '{"m": {"base": 1, "revision": 2, "share": 7, "worker": "m-2", "since": 0, "served": 1}}',
        '{"m": {"base": 1, "revision": 2, "share": NaN, "worker": "m-2", "since": 0, "served": 1}}',
        '{"m": {"base": 1, "revision": 2, "share": 0, "worker": "m", "since": 1e999, "served": 1}}',
    ],
)
def test_a_damaged_file_tells_of_no_canary(tmp_path: Path, text: str) -> None:
    path = tmp_path / "canaries.json"
    path.write_text(text)
    assert CanaryFile(path).read() == {}


def test_a_file_that_is_a_directory_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "canaries.json"
    path.mkdir()
    file = CanaryFile(path)
    assert file.read() == {}
    file.write({"m": KEPT})
    file.write({})
