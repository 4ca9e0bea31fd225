"""Models that sleep, as the daemon has them: requests, commands, and what is noted of a change."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_console.control.changes import Changes
from vllm_console.control.commands import Commands
from vllm_console.control.front import Front
from vllm_console.control.roster import Roster
from vllm_console.control.served import Actor, ServedModel
from vllm_console.errors import ConsoleError
from vllm_console.fleet.find import locate
from vllm_console.fleet.model import Fleet, ModelConfig
from vllm_console.snapshot import Worker as View
from vllm_console.workers.launch import LaunchSpec
from vllm_console.workers.states import State
from vllm_console.workers.worker import Worker


class FakeSleeper(Worker):
    """A fake worker in whatever state a test puts it, that notes what is asked of it."""

    def __init__(
        self, number: int = 1, state: State = State.READY, *, level: int = 1, rests: bool = False
    ) -> None:
        self.id, self.model = f"m-{number}", "m"
        self.now = View(self.id, state.value, url="http://127.0.0.1:1", pid=number)
        self.level = level
        self.heard: list[str] = []
        self._resting = rests or state is State.ASLEEP
        self.waking = False

    @property
    def view(self) -> View:
        return self.now

    @property
    def state(self) -> State:
        return State(self.now.state)

    @property
    def spec(self) -> LaunchSpec:
        return LaunchSpec(self.id, "m", 1, (), 1, ("m",), sleep_level=self.level)

    @property
    def can_sleep(self) -> bool:
        return self.level > 0

    @property
    def rests(self) -> bool:
        return self._resting

    @property
    def wakes(self) -> bool:
        return self.waking

    def sleep(self) -> None:
        self.heard.append("sleep")

    def wake(self) -> None:
        self.heard.append("wake")

    def load(self) -> None:
        self.heard.append("load")

    def tree(self) -> list[int]:
        return []


def model(*workers: FakeSleeper, wanted: int = 1, **keys: Any) -> ServedModel:
    config = ModelConfig(name="m", source="s", **{"sleep_level": 1, **keys})
    made = ServedModel(config, 1, lambda *_: pytest.fail("no worker is to be made"), wanted)
    made.workers.update({worker.id: worker for worker in workers})
    return made


# -- a request ----------------------------------------------------------------------------------


@dataclass
class FakeDaemon:
    """A fake of the daemon with one model; counts what it is asked for."""

    served: ServedModel
    fleet: Fleet = field(default_factory=Fleet)
    revisions: Any = None
    going_down: bool = False
    loads: int = 0
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.models = Roster({"m": self.served})

    def load(self, model: ServedModel) -> list[Actor]:
        self.loads += 1
        return []

    def tell(self, level: str, subject: str, text: str) -> None:
        self.told.append(text)


def wanted(tmp_path: Path, daemon: FakeDaemon, name: str = "m") -> FakeDaemon:
    """A request waits for a model."""
    place = locate(tmp_path / "fleet.toml", tmp_path / "state")
    Front(daemon, place, serve=False, info=lambda _: {}).wanted(name)
    return daemon


def test_a_request_wakes_every_worker_of_a_model_that_sleeps(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").touch()
    workers = [FakeSleeper(1, State.ASLEEP), FakeSleeper(2, State.ASLEEP)]
    daemon = wanted(tmp_path, FakeDaemon(model(*workers, wanted=2)))
    assert [worker.heard for worker in workers] == [["wake"], ["wake"]]
    assert (daemon.loads, daemon.told) == (0, ["woken for a request"])


def test_a_request_that_comes_as_a_wake_has_failed_does_not_repeat_it(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").touch()
    worker = FakeSleeper(1, State.ASLEEP)
    worker.now = replace(worker.now, reason="cannot wake: no room")
    daemon = wanted(tmp_path, FakeDaemon(model(worker)))
    assert (daemon.loads, daemon.told, worker.heard) == (0, [], [])


@pytest.mark.parametrize(
    ("state", "count", "loads"),
    [
        (State.STOPPED, 1, 1),  # it ended while it slept
        (State.STOPPED, 0, 1),
        (State.CRASH_LOOP, 1, 0),
        (State.FAILED, 1, 0),
        (State.BACKOFF, 1, 0),
        (State.STARTING, 1, 0),
        (State.DRAINING, 1, 0),
    ],
)
def test_a_request_loads_what_is_stopped_and_nothing_that_somebody_wants_already(
    state: State, count: int, loads: int, tmp_path: Path
) -> None:
    (tmp_path / "fleet.toml").touch()
    worker = FakeSleeper(1, state)
    daemon = wanted(tmp_path, FakeDaemon(model(worker, wanted=count)))
    assert (daemon.loads, worker.heard) == (loads, [])


def test_a_request_wakes_nobody_while_the_fleet_goes_down(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").touch()
    worker = FakeSleeper(1, State.ASLEEP)
    daemon = wanted(tmp_path, FakeDaemon(model(worker), going_down=True))
    wanted(tmp_path, FakeDaemon(model(worker)), "another")
    assert (daemon.loads, worker.heard) == (0, [])


# -- commands -----------------------------------------------------------------------------------


def ask(verb: str, served: ServedModel) -> list[str]:
    """Carry out a command; the workers that it told something."""
    daemon: Any = SimpleNamespace(models=Roster({"m": served}), going_down=False)
    answer = asyncio.run(Commands(daemon).carry_out(verb, {"model": "m"}))
    workers: list[str] = answer["workers"]
    return workers


def test_sleep_is_told_to_those_that_are_ready_and_those_that_were_called_back() -> None:
    workers = [
        FakeSleeper(1),
        FakeSleeper(2, State.DRAINING, rests=True),
        FakeSleeper(3, State.STARTING),
        FakeSleeper(4, level=0),
        FakeSleeper(5, State.DRAINING),
    ]
    assert ask("sleep", model(*workers)) == ["m-1", "m-2"]
    assert [worker.heard for worker in workers] == [["sleep"], ["sleep"], [], [], []]


def test_wake_is_told_to_those_that_sleep_or_are_about_to() -> None:
    workers = [
        FakeSleeper(1),
        FakeSleeper(2, State.DRAINING, rests=True),
        FakeSleeper(3, State.ASLEEP),
    ]
    assert ask("wake", model(*workers)) == ["m-2", "m-3"]
    assert [worker.heard for worker in workers] == [[], ["wake"], ["wake"]]


def test_to_wake_what_serves_is_nothing_to_do() -> None:
    assert ask("wake", model(FakeSleeper())) == []


@pytest.mark.parametrize(
    ("verb", "served", "line"),
    [
        ("sleep", model(FakeSleeper(), sleep_level=None, wanted=1), None),
        (
            "sleep",
            model(FakeSleeper(level=0), sleep_level=None),
            "m cannot sleep: set models.m.sleep_level = 1, then apply",
        ),
        (
            "sleep",
            model(FakeSleeper(level=0)),
            "m cannot sleep: it was started without sleep_level; restart it",
        ),
        ("sleep", model(), "m is stopped: only a ready model can sleep"),
        (
            "sleep",
            model(FakeSleeper(1, State.FAILED, level=0)),
            "m is failed: only a ready model can sleep",
        ),
        (
            "sleep",
            model(FakeSleeper(1, State.STALLED)),
            "m is stalled: only a ready model can sleep",
        ),
        (
            "sleep",
            model(FakeSleeper(1, State.DRAINING)),
            "m is draining: only a ready model can sleep",
        ),
        (
            "sleep",
            model(engine="attach", url="http://h:1", sleep_level=None),
            "m is attached (http://h:1): put it to sleep where it runs",
        ),
        (
            "wake",
            model(FakeSleeper(1, State.STOPPED)),
            "m is stopped and does not sleep; `vllm-console load m` starts it",
        ),
        (
            "wake",
            model(FakeSleeper(1, State.STARTING)),
            "m is starting and does not sleep; `vllm-console load m` starts it",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    verb: str, served: ServedModel, line: str | None
) -> None:
    if line is None:  # the file says no more that it can, its worker still can
        assert ask(verb, served) == ["m-1"]
        return
    with pytest.raises(ConsoleError) as refused:
        ask(verb, served)
    assert str(refused.value) == line


# -- changes ------------------------------------------------------------------------------------


class Heard:
    """Changes of one worker over fakes: what is told, and how its counters are taken."""

    def __init__(self) -> None:
        self.worker = FakeSleeper()
        self.told: list[tuple[str, str]] = []
        self.watched: list[bool] = []
        observation: Any = SimpleNamespace(
            watch=lambda *_, fresh: self.watched.append(fresh),
            unwatch=lambda _: None,
            forget_worker=lambda _: None,
        )
        machine: Any = SimpleNamespace(note=lambda *_: None, ended=lambda *_: None)
        self.changes = Changes(observation, machine, self._tell, lambda: 0.0)

    def _tell(self, level: str, subject: str, text: str, failure: object) -> None:
        self.told.append((level, text))

    def becomes(self, *states: State, reason: str | None = None, wakes: bool = False) -> Any:
        """The worker goes through these states; whether its counters then begin at zero."""
        self.watched.clear()
        self.worker.waking = wakes
        for state in states:
            self.worker.now = replace(self.worker.now, state=state.value, reason=reason)
            self.changes.heard(self.worker, self.worker.now)
        return self.watched[-1] if self.watched else None


def test_the_counters_of_one_that_woke_go_on() -> None:
    heard = Heard()
    assert heard.becomes(State.QUEUED, State.STARTING, State.READY) is True
    assert heard.becomes(State.DRAINING, State.ASLEEP) is None
    heard.becomes(State.STARTING, wakes=True)
    assert heard.becomes(State.READY) is False
    assert heard.told[-1] == ("ok", "ready in 0.0 s after sleep")


def test_the_counters_of_one_that_was_called_back_while_it_fell_asleep_go_on() -> None:
    heard = Heard()
    heard.becomes(State.STARTING, State.READY, State.DRAINING)
    heard.becomes(State.STARTING, wakes=True)
    assert heard.becomes(State.READY) is False


def test_the_counters_of_one_that_starts_anew_after_it_woke_begin_at_zero() -> None:
    heard = Heard()
    heard.becomes(State.STARTING, State.READY, State.DRAINING, State.ASLEEP)
    heard.becomes(State.STARTING, wakes=True)
    assert heard.becomes(State.STOPPING, State.BACKOFF, State.STARTING, State.READY) is True
    assert heard.told[-1] == ("ok", "ready in 0.0 s")


def test_one_that_did_not_sleep_or_could_not_wake_is_a_warning() -> None:
    heard = Heard()
    heard.becomes(State.STARTING, State.READY, State.DRAINING)
    heard.becomes(State.READY, reason="did not go to sleep: no")
    assert heard.told[-1] == ("warn", "ready: did not go to sleep: no")
    heard.becomes(State.DRAINING, State.ASLEEP)
    assert heard.told[-1] == ("info", "asleep")
    heard.becomes(State.STARTING, wakes=True)
    heard.becomes(State.ASLEEP, reason="cannot wake: no room")
    assert heard.told[-1] == ("warn", "asleep: cannot wake: no room")


def test_that_an_adopted_one_sleeps_is_told_and_its_counters_go_on() -> None:
    heard = Heard()
    heard.changes.adopting("m-1")
    heard.becomes(State.STARTING, State.ASLEEP)
    assert heard.told == [("info", "asleep")]
    heard.becomes(State.STARTING, wakes=True)
    assert heard.becomes(State.READY) is False
