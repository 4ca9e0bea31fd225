"""The verbs of a canary over fake workers: begun, moved, given up, ended, gone on with."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from vllm_console.control.canaries import Canaries, Trying, share_of
from vllm_console.control.canary import CanaryFile, Kept
from vllm_console.control.roster import Roster
from vllm_console.control.served import Actor, ServedModel
from vllm_console.errors import ConsoleError, InvalidInput
from vllm_console.fleet.model import Fleet, ModelConfig, Slo
from vllm_console.fleet.revision import fingerprint
from vllm_console.snapshot import Failure, Worker
from vllm_console.workers.states import State

NOW = 5000.0
FAILURE = Failure("out-of-memory", "no room for the weights", "use a smaller one", "t")


class FakeWorker:
    """A worker that is in whatever state a test puts it."""

    def __init__(self, worker_id: str) -> None:
        self.id = worker_id
        self.model = "m"
        self.state = State.STOPPED
        self.failure: Failure | None = None

    @property
    def view(self) -> Worker:
        return Worker(self.id, self.state.value, failure=self.failure)

    def load(self) -> None:
        self.state = State.STARTING


class FakeRollout:
    """Reads what a test says is in the file."""

    def __init__(self, says: ModelConfig) -> None:
        self.says: ModelConfig | None = says
        self.busy = False

    def read(self) -> Fleet:
        return Fleet(models={"m": self.says} if self.says is not None else {})


class FakeRevisions:
    """Numbers configurations as they come."""

    def __init__(self) -> None:
        self.kept: list[ModelConfig] = []

    def number(self, config: ModelConfig) -> int:
        marks = [fingerprint(each) for each in self.kept]
        if fingerprint(config) not in marks:
            self.kept.append(config)
            return len(self.kept)
        return marks.index(fingerprint(config)) + 1

    def config(self, _: str, number: int) -> ModelConfig | None:
        return self.kept[number - 1] if 0 < number <= len(self.kept) else None


class FakeDaemon:
    """Stands in for the daemon, with one model `m` and one ready worker."""

    def __init__(self, path: Path, says: ModelConfig) -> None:
        self.revisions = FakeRevisions()
        self.rollout = FakeRollout(says)
        self.room = True
        self.told: list[tuple[str, str]] = []
        self.retired: list[str] = []
        self.promoted: list[str] = []
        self.rerouted = 0
        self.tasks: list[Coroutine[Any, Any, None]] = []
        base = config()
        self.revisions.number(base)
        model = ServedModel(base, 1, self._make, wanted=1)
        self.models = Roster({"m": model})
        model.add_worker()
        self.worker("m-1").state = State.READY
        self.file = CanaryFile(path)
        self.canaries = Canaries(
            cast(Trying, self),
            self.file,
            has_room=lambda _: self.room,
            promoted=lambda _, worker: self.promoted.append(worker),
            reroute=self.reroute,
            clock=lambda: NOW,
        )

    @property
    def model(self) -> ServedModel:
        return self.models["m"]

    def worker(self, name: str) -> FakeWorker:
        return cast(FakeWorker, self.model.workers[name])

    def become(self, name: str, state: State, failure: Failure | None = None) -> None:
        """Put a worker in a state and have it heard."""
        worker = self.worker(name)
        worker.state, worker.failure = state, failure
        self.canaries.heard(cast(Actor, worker), worker.view)

    def run(self) -> None:
        """Do what was begun beside."""
        tasks, self.tasks = self.tasks, []
        for work in tasks:
            asyncio.run(_done(work))

    def _make(self, model: ServedModel, worker_id: str) -> Actor:
        return cast(Actor, FakeWorker(worker_id))

    def tell(self, level: str, subject: str, text: str) -> None:
        self.told.append((level, text))

    def reroute(self) -> None:
        self.rerouted += 1

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(work)

    async def retire(self, model: ServedModel, worker: Actor) -> None:
        self.retired.append(worker.id)
        model.workers.pop(worker.id, None)
        model.leaving.discard(worker.id)


async def _done(work: Coroutine[Any, Any, None]) -> None:
    await work


def config(**said: Any) -> ModelConfig:
    return ModelConfig(name="m", **{"source": "x/y", **said})


TRIED = config(options={"max_num_seqs": 8})


@pytest.fixture
def daemon(tmp_path: Path) -> FakeDaemon:
    return FakeDaemon(tmp_path / "canaries.json", TRIED)


def test_a_canary_is_written_down_before_it_starts_and_told_once_it_is_ready(
    daemon: FakeDaemon,
) -> None:
    daemon.canaries.give(daemon.model, 0.1)
    assert daemon.worker("m-2").state is State.STARTING
    assert daemon.file.read() == {"m": Kept(1, 2, 0.1, "m-2", NOW, False)}
    assert daemon.told == [("info", "canary: revision 2 starts beside revision 1")]
    daemon.become("m-2", State.READY)
    assert daemon.told[1:] == [("ok", "canary: revision 2 has 10 % of the requests")]
    daemon.become("m-2", State.READY)
    assert len(daemon.told) == 2
    assert daemon.model.config_of("m-2") == (TRIED, 2)


def test_another_share_moves_requests_and_no_worker(daemon: FakeDaemon) -> None:
    daemon.canaries.give(daemon.model, 0.1)
    daemon.become("m-2", State.READY)
    before = daemon.rerouted
    assert daemon.canaries.give(daemon.model, 0.125).share == 0.125
    assert daemon.rerouted == before + 1
    assert list(daemon.model.workers) == ["m-1", "m-2"]
    assert daemon.told[-1] == ("ok", "canary: revision 2 has 12.5 % of the requests")
    assert daemon.file.read()["m"].share == 0.125


@pytest.mark.parametrize("says", [config(), TRIED, None])
def test_its_share_moves_while_the_file_says_nothing_new(
    daemon: FakeDaemon, says: ModelConfig | None
) -> None:
    daemon.canaries.give(daemon.model, 0.1)
    daemon.rollout.says = says
    assert daemon.canaries.give(daemon.model, 0.5).share == 0.5


def test_a_third_revision_is_not_taken_for_the_one_that_is_tried(daemon: FakeDaemon) -> None:
    daemon.canaries.give(daemon.model, 0.1)
    daemon.rollout.says = config(options={"max_num_seqs": 4})
    with pytest.raises(InvalidInput, match=r"has revision 2 as its canary.* --end"):
        daemon.canaries.give(daemon.model, 0.5)
    assert daemon.file.read()["m"].share == 0.1


def test_a_promoted_canary_is_a_worker_like_the_others(daemon: FakeDaemon) -> None:
    daemon.canaries.give(daemon.model, 0.1)
    promoted = daemon.canaries.promote(daemon.model)
    assert promoted is daemon.model.workers["m-2"]
    assert [worker.id for worker in daemon.model.own] == ["m-1", "m-2"]
    assert (daemon.promoted, daemon.file.read()) == (["m-2"], {})


@pytest.mark.parametrize(
    ("ready", "state", "text"),
    [
        (False, State.FAILED, "did not become ready"),
        (False, State.BACKOFF, "did not become ready"),
        (True, State.CRASH_LOOP, "is given up"),
        (True, State.FAILED, "is given up"),
    ],
)
def test_a_canary_that_fails_is_retired(
    daemon: FakeDaemon, ready: bool, state: State, text: str
) -> None:
    daemon.canaries.give(daemon.model, 0.1)
    if ready:
        daemon.become("m-2", State.READY)
    daemon.become("m-2", state, FAILURE)
    daemon.run()
    assert (daemon.model.canary, daemon.retired, daemon.file.read()) == (None, ["m-2"], {})
    why = "(out-of-memory: no room for the weights); revision 1 has all requests"
    assert daemon.told[-1] == ("crit", f"canary: revision 2 {text} {why}")


def test_a_canary_that_was_ready_may_start_again(daemon: FakeDaemon) -> None:
    daemon.canaries.give(daemon.model, 0.1)
    daemon.become("m-2", State.READY)
    daemon.become("m-2", State.BACKOFF, FAILURE)
    assert (daemon.model.canary is not None, daemon.retired) == (True, [])


def test_what_becomes_of_the_other_workers_is_not_the_canarys(daemon: FakeDaemon) -> None:
    daemon.canaries.give(daemon.model, 0.1)
    daemon.become("m-1", State.CRASH_LOOP, FAILURE)
    assert (daemon.model.canary is not None, daemon.retired) == (True, [])


def test_a_canary_that_ends_is_kept_as_one_that_ends_until_it_has_gone(daemon: FakeDaemon) -> None:
    daemon.canaries.give(daemon.model, 0.1)
    daemon.become("m-2", State.READY)
    seen: list[dict[str, Kept]] = []

    async def retire(model: ServedModel, worker: Actor) -> None:
        seen.append(daemon.file.read())

    daemon.retire = retire  # type: ignore[method-assign]
    assert daemon.canaries.dismiss(daemon.model).worker == "m-2"
    daemon.run()
    assert seen == [{"m": Kept(1, 2, 0.1, "m-2", NOW, True, ends=True)}]
    assert daemon.file.read() == {}
    assert daemon.told[-1] == ("info", "canary: revision 2 ends; revision 1 has all requests")
    with pytest.raises(ConsoleError, match="m has no canary"):
        daemon.canaries.dismiss(daemon.model)


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        ("same", "changes nothing of m"),
        ("gone", "no longer in the fleet file"),
        ("attached", "attached in the fleet file"),
        ("busy", "is being applied"),
        ("asleep", "`vllm-console wake m` comes first"),
        ("stopped", "m is stopped: a canary needs a ready worker"),
        ("full", "no room for one more worker"),
        ("pinned to GPUs", "devices = "),
        ("alias", "no longer answer to em"),
        ("adapter", "no longer answer to polite"),
    ],
)
def test_what_cannot_be_tried_is_refused_and_nothing_starts(
    daemon: FakeDaemon, trouble: str, why: str
) -> None:
    rollout, worker = daemon.rollout, daemon.worker("m-1")
    match trouble:
        case "same":
            rollout.says = config(slo={"ttft_p95_s": 1.0})
        case "gone":
            rollout.says = None
        case "attached":
            rollout.says = config(engine="attach", url="http://there")
        case "busy":
            rollout.busy = True
        case "asleep":
            worker.state = State.ASLEEP
        case "stopped":
            worker.state = State.STOPPED
        case "full":
            daemon.room = False
        case "pinned to GPUs":
            daemon.room, rollout.says = False, config(devices=(0,))
        case "alias":
            daemon.model.config = config(aliases=("em",))
        case "adapter":
            daemon.model.config = config(options={"lora_modules": ["polite=a/path"]})
    with pytest.raises(ConsoleError, match=why):
        daemon.canaries.give(daemon.model, 0.1)
    assert (list(daemon.model.workers), daemon.model.canary) == (["m-1"], None)
    assert (daemon.told, daemon.file.read()) == ([], {})


def test_the_next_daemon_runs_the_former_revision_though_the_file_says_the_new_one(
    daemon: FakeDaemon,
) -> None:
    model = daemon.model
    slo = Slo(ttft_p95_s=0.3)
    daemon.file.write({"m": Kept(1, 2, 0.5, "m-2", 1000.0, True)})
    daemon.revisions.number(TRIED)
    model.config, model.revision = TRIED.model_copy(update={"slo": slo}), 2
    daemon.canaries.restore({"m": 1})
    assert (model.config.options, model.revision) == ({}, 1)
    assert model.config.slo == slo  # what needs no worker is as the file says
    assert model.config_of("m-2") == (TRIED.model_copy(update={"slo": slo}), 2)
    daemon.canaries.resume(start=True)
    assert daemon.worker("m-2").state is State.STARTING
    assert daemon.told == [("info", "canary: goes on, revision 2 with 50 % of the requests")]


def test_a_canary_that_was_about_to_end_goes_with_the_next_daemon(daemon: FakeDaemon) -> None:
    model = daemon.model
    daemon.file.write({"m": Kept(1, 2, 0.5, "m-2", 1000.0, True, ends=True)})
    model.config, model.revision = TRIED, daemon.revisions.number(TRIED)
    model.add_worker("m-2")
    daemon.canaries.restore({"m": 1})
    assert [worker.id for worker in model.own] == ["m-1"]
    daemon.canaries.resume(start=True)
    daemon.run()
    assert (daemon.retired, model.canary, model.revision) == (["m-2"], None, 1)
    assert daemon.file.read() == {}


def test_a_canary_is_not_started_again_where_nothing_is_to_start(daemon: FakeDaemon) -> None:
    daemon.revisions.number(TRIED)
    daemon.file.write({"m": Kept(1, 2, 0.5, "m-2", 1000.0, True)})
    daemon.canaries.restore(None)
    daemon.canaries.resume(start=False)
    assert (list(daemon.model.workers), daemon.file.read()) == (["m-1"], {})


@pytest.mark.parametrize(("base", "tried"), [(7, 2), (1, 7)])
def test_a_revision_that_is_no_longer_known_ends_the_trial(
    daemon: FakeDaemon, base: int, tried: int
) -> None:
    daemon.revisions.number(TRIED)
    daemon.file.write({"m": Kept(base, tried, 0.5, "m-2", 1000.0, True)})
    daemon.canaries.restore({"m": 1})
    assert daemon.model.canary is None
    assert daemon.told == [("warn", "canary: given up, as revision 7 cannot be read any more")]


def test_an_unloaded_model_or_one_that_is_gone_has_no_canary(daemon: FakeDaemon) -> None:
    kept = Kept(1, 1, 0.5, "m-2", 1000.0, True)
    daemon.file.write({"m": kept, "other": kept})
    daemon.canaries.restore({"m": 0})
    assert daemon.model.canary is None
    daemon.canaries.resume(start=True)
    assert daemon.file.read() == {}


@pytest.mark.parametrize("value", [None, "0.1", True, -0.01, 1.01, float("nan"), float("inf")])
def test_what_is_no_share_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput, match="share of the requests"):
        share_of(value)


@pytest.mark.parametrize("value", [0, 0.5, 1])
def test_a_share_is_between_none_and_all(value: float) -> None:
    assert share_of(value) == value
