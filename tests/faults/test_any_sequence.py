"""No sequence of commands, faults and daemon deaths loses a worker, doubles one or leaves one."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.faults.fake_machine import GPUS, Start, Tree
from tests.faults.fake_world import KINDS, World
from vllm_console.snapshot import Failure
from vllm_console.workers.states import Cause

SEQUENCES = int(os.environ.get("VLLM_CONSOLE_SEQUENCES", "0"))
"""How many sequences to look at, different ones each time; 0 is CI's choice, the same each time."""
MODELS = ("a", "b", "c", "d")
FLEETS = (
    {"a": ("one", 1), "b": ("two", 1), "c": ("zero", 1)},
    {"a": ("nap", 1), "b": ("naps", 1), "c": ("turns", 1)},
)
"""What a fleet may begin with."""

models = st.sampled_from(MODELS)
kinds = st.sampled_from(sorted(KINDS))
trees = st.integers(0, 7)
verbs = st.sampled_from(("load", "unload", "restart", "rollback", "sleep", "wake"))
rounds = st.integers(1, 80) | st.none()
"""How far the daemon gets; as far as time allows, or so many rounds of its loop."""
seconds = st.sampled_from((0.01, 0.3, 1.0, 2.5, 12.0, 45.0))
lives = precondition(lambda self: self.world.daemon is not None)
dead = precondition(lambda self: self.world.daemon is None)


class AnySequence(RuleBasedStateMachine):
    """Whatever may happen to a fleet, in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @initialize(fleet=st.sampled_from(FLEETS))
    def begins(self, fleet: dict[str, tuple[str, int]]) -> None:
        self.world.models = dict(fleet)
        self.world.write()
        self.world.up()

    def _tree(self, number: int) -> Tree | None:
        living = self.world.machine.living()
        return living[number % len(living)] if living else None

    # -- what people do ----------------------------------------------------------------------

    @lives
    @rule(model=models, verb=verbs, r=rounds, s=seconds)
    def asks(self, model: str, verb: str, r: int | None, s: float) -> None:
        self.world.ask(verb, model=model)
        self.world.step(s, r)

    @lives
    @rule(model=models, s=seconds)
    def sleeps(self, model: str, s: float) -> None:
        self.world.step(20.0)
        if self.world.daemon is not None:
            self.world.ask("sleep", model=model)
            self.world.step(s)

    @rule(model=models, kind=kinds, step=st.integers(1, 3))
    def edits(self, model: str, kind: str, step: int) -> None:
        self.world.models[model] = (kind, step)
        self.world.write()

    @rule(model=models)
    def removes(self, model: str) -> None:
        self.world.models.pop(model, None)
        self.world.write()

    @lives
    @rule(r=rounds)
    def applies(self, r: int | None) -> None:
        self.world.ask("apply")
        self.world.step(1.0, r)

    @lives
    @rule(model=models, kind=kinds, step=st.integers(1, 3), r=rounds, s=seconds)
    def edits_and_applies(self, model: str, kind: str, step: int, r: int | None, s: float) -> None:
        self.edits(model, kind, step)
        self.world.ask("apply")
        self.world.step(s, r)

    @lives
    @rule(model=models, r=rounds, s=seconds)
    def removes_and_applies(self, model: str, r: int | None, s: float) -> None:
        self.removes(model)
        self.world.ask("apply")
        self.world.step(s, r)

    @lives
    @rule(r=rounds)
    def goes_down(self, r: int | None) -> None:
        self.world.ask("down")
        self.world.step(1.0, r)

    # -- what befalls the daemon ---------------------------------------------------------------

    @lives
    @rule(r=rounds)
    def daemon_is_killed(self, r: int | None) -> None:
        self.world.step(5.0, r)
        if self.world.daemon is not None:
            self.world.kill()

    @lives
    @rule()
    def daemon_is_terminated(self) -> None:
        self.world.terminate()

    @dead
    @rule()
    def daemon_comes(self) -> None:
        self.world.up()

    @rule(s=seconds)
    def time_passes(self, s: float) -> None:
        self.world.step(s)

    @rule(hours=st.sampled_from((-30, -1, 1, 30)))
    def wall_clock_jumps(self, hours: int) -> None:
        self.world.machine.wall_jump += hours * 3600

    # -- what befalls workers --------------------------------------------------------------------

    @rule(number=trees, rc=st.sampled_from((0, 1, -9, -11)))
    def main_process_ends(self, number: int, rc: int) -> None:
        if tree := self._tree(number):
            self.world.machine.main_ends(tree, rc)

    @rule(number=trees)
    def engine_process_dies(self, number: int) -> None:
        if tree := self._tree(number):
            self.world.machine.engine_dies(tree)

    @rule(number=trees, whole=st.booleans())
    def engine_hangs(self, number: int, whole: bool) -> None:
        if tree := self._tree(number):
            tree.frozen = True
            tree.hung = whole

    @rule(number=trees, works=st.booleans())
    def sleep_mode_fails_or_works(self, number: int, works: bool) -> None:
        if tree := self._tree(number):
            tree.rest.works = works

    @rule(number=trees)
    def shim_is_lost(self, number: int) -> None:
        if tree := self._tree(number):
            self.world.machine.loses_shim(tree)

    @rule(
        ends=st.sampled_from(("", "oom", "exit0", "killed", "never")),
        boot_s=st.sampled_from((0.6, 1.5, 6.0)),
        stubborn=st.booleans(),
    )
    def next_start_is(self, ends: str, boot_s: float, stubborn: bool) -> None:
        self.world.machine.next_start = Start(boot_s, ends, stubborn)

    @rule(cause=st.sampled_from(Cause))
    def next_launch_is_refused(self, cause: Cause) -> None:
        self.world.launcher.refusals.append(Failure(cause, f"{cause}", "do not", "2026-01-01"))

    @rule(ahead=st.integers(0, 3))
    def stranger_takes_a_port(self, ahead: int) -> None:
        machine = self.world.machine
        machine.ports.setdefault(18000 + ahead, machine.spawn(ours=False))

    @rule(count=st.integers(1, 6))
    def strangers_come(self, count: int) -> None:
        for _ in range(count):
            self.world.machine.spawn(ours=False)

    # -- what befalls the machine ----------------------------------------------------------------

    @rule(gpu=st.integers(0, GPUS - 1))
    def gpu_is_lost(self, gpu: int) -> None:
        self.world.machine.lost_gpus.add(gpu)

    @rule()
    def gpus_come_back(self) -> None:
        self.world.machine.lost_gpus.clear()

    @rule()
    def driver_falls_silent(self) -> None:
        self.world.machine.driver_silent = True

    @rule()
    def driver_answers(self) -> None:
        self.world.machine.answers()

    @rule(s=st.sampled_from((0.0, 3.0, 100.0)))
    def memory_is_held(self, s: float) -> None:
        self.world.machine.holds_memory_s = s

    @rule()
    def machine_reboots(self) -> None:
        if self.world.daemon is not None:
            self.world.kill()
        self.world.machine.reboots()

    @invariant()
    def all_is_well(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        try:
            self.world.settle()
            self.world.down()
        finally:
            self.world.close()


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(
    max_examples=SEQUENCES or 60,
    stateful_step_count=30,
    deadline=None,
    derandomize=not SEQUENCES,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
