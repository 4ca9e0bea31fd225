"""No sequence of trials, commands, faults and daemon deaths loses, doubles or mixes up a worker."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.faults.fake_world import World
from tests.faults.test_any_sequence import (
    SEQUENCES,
    AnySequence,
    TestAnySequence,
    lives,
    models,
    rounds,
    seconds,
)
from vllm_console.workers.states import ENDED, State
from vllm_console.workers.worker import Worker

shares = st.sampled_from((0.0, 0.1, 1.0))


class TrialWorld(World):
    """A world in which revisions are tried."""

    def settle(self) -> None:
        """Heal the machine: trials that go on are of their own revision, then they end."""
        self.machine.heals()
        self.launcher.refusals.clear()
        if self.daemon is None:
            self.up()
        self.until(self._settled, "settle")
        tried = [] if self.daemon is None else list(self.daemon.models.values())
        for model in tried:
            if model.canary is None:
                continue
            worker = model.workers[model.canary.worker]
            assert worker.state not in ENDED - {State.STOPPED}, f"{worker.id} is given up"
            assert model.canary.revision != model.revision
            if isinstance(worker, Worker) and worker.tree():
                assert worker.spec is not None
                assert worker.spec.revision == model.canary.revision
            self.ask("canary", model=model.name, end=True)
        self.until(self._settled, "settle")
        super().settle()
        if self.daemon is not None:
            assert [m.name for m in self.daemon.models.values() if m.canary] == []


class AnyCanary(AnySequence):
    """Whatever may happen to a fleet, with revisions that are tried."""

    def __init__(self) -> None:
        super().__init__()
        self.world.close()
        self.world = TrialWorld()

    @lives
    @rule(model=models, share=shares, r=rounds, s=seconds)
    def tries(self, model: str, share: float, r: int | None, s: float) -> None:
        self.world.ask("canary", model=model, share=share)
        self.world.step(s, r)

    @lives
    @rule(model=models, share=shares, r=rounds, s=seconds)
    def tries_another_step(self, model: str, share: float, r: int | None, s: float) -> None:
        """On a machine that is well, so that mostly there is a worker to try it beside."""
        self._is_well(model)
        kind, step = self.world.models.setdefault(model, ("cpu", 1))
        self.edits(model, kind, step % 3 + 1)
        if self.world.daemon is not None:
            self.tries(model, share, r, s)

    @lives
    @rule(model=models, share=shares, s=seconds, r=rounds)
    def tries_and_applies(self, model: str, share: float, s: float, r: int | None) -> None:
        self.tries_another_step(model, share, None, s)
        if self.world.daemon is not None:
            self.applies(r)

    @lives
    @rule(model=models, share=shares, s=seconds, r=rounds)
    def daemon_is_killed_in_a_trial(
        self, model: str, share: float, s: float, r: int | None
    ) -> None:
        self.tries_another_step(model, share, None, s)
        if self.world.daemon is not None:
            self.ends_a_trial(model, r)
        if self.world.daemon is not None:
            self.world.kill()
            self.world.up()

    def _is_well(self, model: str) -> None:
        self.world.machine.heals()
        self.world.launcher.refusals.clear()
        if model not in self.world.models:
            self.edits(model, "cpu", 1)
            self.world.ask("apply")
        self.world.ask("load", model=model)
        self.world.step(60.0)

    @lives
    @rule(model=models, r=rounds)
    def ends_a_trial(self, model: str, r: int | None) -> None:
        self.world.ask("canary", model=model, end=True)
        self.world.step(1.0, r)


TestAnyCanary = AnyCanary.TestCase
TestAnyCanary.settings = settings(
    TestAnySequence.settings, max_examples=SEQUENCES or 30, derandomize=not SEQUENCES
)
del AnySequence, TestAnySequence
