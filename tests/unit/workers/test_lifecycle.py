"""The life of a worker as scripted histories, and what no history may ever lead to."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_console.snapshot import Failure
from vllm_console.workers import life as lc
from vllm_console.workers.life import Action, Life, Rest, Tree
from vllm_console.workers.lifecycle import backoff_s, step
from vllm_console.workers.states import ENDED, RUNNING, Cause, State

DIED = Failure(Cause.ENGINE_DIED, "EngineDeadError", "see the log", "")
BROKEN = Failure(Cause.BAD_OPTION, "unrecognized arguments", "take it out", "")
SILENT = Failure(Cause.DRIVER_SILENT, "the driver does not answer", "reboot", "")
LAUNCHED = lc.Launched(timeout_s=100.0, grace_s=40.0)
Event = lc.Event
History = list[tuple[float, Event, State, tuple[Action, ...]]]

S, A = State, Action

STARTED: History = [
    (0, lc.Load(), S.QUEUED, (A.QUEUE,)),
    (1, lc.TurnCame(), S.STARTING, (A.LAUNCH,)),
    (2, LAUNCHED, S.STARTING, (A.WATCH,)),
]
SERVES: History = [*STARTED, (30, lc.BecameReady(), S.READY, (A.UNQUEUE,))]

FALLS: History = [
    *SERVES,
    (40, lc.Sleep(), S.DRAINING, (A.DRAIN,)),
    (41, lc.Drained(), S.DRAINING, (A.SLEEP,)),
]
SLEEPS: History = [*FALLS, (42, lc.FellAsleep(), S.ASLEEP, ())]

HISTORIES: dict[str, History] = {
    "an unload drains, stops, and ends when nothing is left": [
        *SERVES,
        (40, lc.Unload(), S.DRAINING, (A.DRAIN,)),
        (41, lc.Drained(), S.STOPPING, (A.STOP,)),
        (42, lc.MainDied(), S.STOPPING, ()),
        (43, lc.Gone(DIED, asked=True), S.STOPPED, (A.UNQUEUE,)),
    ],
    "what does not stop is killed, and again": [
        *SERVES,
        (40, lc.Unload(), S.DRAINING, (A.DRAIN,)),
        (41, lc.Drained(), S.STOPPING, (A.STOP,)),
        (85.9, lc.Tick(), S.STOPPING, ()),
        (86, lc.Tick(), S.STOPPING, (A.KILL,)),
        (91, lc.Tick(), S.STOPPING, (A.KILL,)),
        (92, lc.Gone(DIED, asked=True), S.STOPPED, (A.UNQUEUE,)),
    ],
    "an unload while the engine boots is killed after two seconds": [
        *STARTED,
        (10, lc.Unload(), S.STOPPING, (A.STOP,)),
        (12, lc.Tick(), S.STOPPING, (A.KILL,)),
        (13, lc.BecameReady(), S.STOPPING, ()),
        (14, lc.Gone(DIED, asked=True), S.STOPPED, (A.UNQUEUE,)),
    ],
    "an unload while it is launched kills what comes of the launch": [
        *STARTED[:2],
        (2, lc.Unload(), S.STOPPING, ()),
        (3, LAUNCHED, S.STOPPING, (A.WATCH, A.KILL)),
        (4, lc.Gone(DIED, asked=True), S.STOPPED, (A.UNQUEUE,)),
    ],
    "a launch can be called off": [
        *STARTED[:2],
        (2, lc.Unload(), S.STOPPING, ()),
        (3, lc.Abandoned(), S.STOPPED, (A.UNQUEUE,)),
    ],
    "a queued worker leaves the queue": [
        STARTED[0],
        (1, lc.Unload(), S.STOPPED, (A.UNQUEUE,)),
        (2, lc.TurnCame(), S.STOPPED, ()),
    ],
    "an unasked end backs off and starts again": [
        *SERVES,
        (50, lc.MainDied(), S.STOPPING, ()),
        (51, lc.Gone(DIED, asked=False), S.BACKOFF, (A.UNQUEUE,)),
        (51.9, lc.Tick(), S.BACKOFF, ()),
        (52, lc.Tick(), S.QUEUED, (A.QUEUE,)),
    ],
    "exit code 0 or not, an end asked for from outside is an end": [
        *SERVES,
        (50, lc.Gone(DIED, asked=True), S.STOPPED, (A.UNQUEUE,)),
    ],
    "a configuration error is not tried again, until a person says so": [
        *STARTED,
        (20, lc.Gone(BROKEN, asked=False), S.FAILED, (A.UNQUEUE,)),
        (9999, lc.Tick(), S.FAILED, ()),
        (10000, lc.Load(), S.QUEUED, (A.QUEUE,)),
    ],
    "a program that is not there fails": [
        *STARTED[:2],
        (
            2,
            lc.LaunchFailed(Failure(Cause.ENGINE_MISSING, "", "", "")),
            S.FAILED,
            (A.UNQUEUE,),
        ),
    ],
    "a driver that does not answer is waited for, however often, and never a crash loop": [
        *STARTED[:2],
        (32, lc.LaunchFailed(SILENT), S.BACKOFF, (A.UNQUEUE,)),
        (33, lc.Tick(), S.QUEUED, (A.QUEUE,)),
        (33, lc.TurnCame(), S.STARTING, (A.LAUNCH,)),
        (63, lc.LaunchFailed(SILENT), S.BACKOFF, (A.UNQUEUE,)),
        (64.9, lc.Tick(), S.BACKOFF, ()),
        (65, lc.Tick(), S.QUEUED, (A.QUEUE,)),
        (65, lc.TurnCame(), S.STARTING, (A.LAUNCH,)),
        (95, lc.LaunchFailed(SILENT), S.BACKOFF, (A.UNQUEUE,)),
        (99, lc.Tick(), S.QUEUED, (A.QUEUE,)),
        (99, lc.TurnCame(), S.STARTING, (A.LAUNCH,)),
        (100, LAUNCHED, S.STARTING, (A.WATCH,)),
        (120, lc.BecameReady(), S.READY, (A.UNQUEUE,)),
    ],
    "what passes by itself is looked at every ten seconds at least": [
        *STARTED[:2],
        (1, lc.LaunchFailed(SILENT), S.BACKOFF, (A.UNQUEUE,)),
        *(
            step
            for at in (2, 4, 8, 16, 26, 36)
            for step in (
                (at, lc.Tick(), S.QUEUED, (A.QUEUE,)),
                (at, lc.TurnCame(), S.STARTING, (A.LAUNCH,)),
                (at, lc.LaunchFailed(SILENT), S.BACKOFF, (A.UNQUEUE,)),
            )
        ),
    ],
    "three starts that never served are a crash loop": [
        *STARTED,
        (10, lc.Gone(DIED, asked=False), S.BACKOFF, (A.UNQUEUE,)),
        (11, lc.Tick(), S.QUEUED, (A.QUEUE,)),
        (11, lc.TurnCame(), S.STARTING, (A.LAUNCH,)),
        (12, LAUNCHED, S.STARTING, (A.WATCH,)),
        (20, lc.Gone(DIED, asked=False), S.BACKOFF, (A.UNQUEUE,)),
        (21.9, lc.Tick(), S.BACKOFF, ()),
        (22, lc.Tick(), S.QUEUED, (A.QUEUE,)),
        (22, lc.TurnCame(), S.STARTING, (A.LAUNCH,)),
        (23, LAUNCHED, S.STARTING, (A.WATCH,)),
        (30, lc.Gone(DIED, asked=False), S.CRASH_LOOP, (A.UNQUEUE,)),
        (31, lc.Load(), S.QUEUED, (A.QUEUE,)),
    ],
    "a start that takes too long is killed and counts as a failure": [
        *STARTED,
        (101.9, lc.Tick(), S.STARTING, ()),
        (102, lc.Tick(), S.STOPPING, (A.KILL,)),
        (103, lc.Gone(DIED, asked=True), S.BACKOFF, (A.UNQUEUE,)),
    ],
    "a restart drains the old process and queues for a new one": [
        *SERVES,
        (40, lc.Restart(), S.DRAINING, (A.DRAIN,)),
        (41, lc.Drained(), S.STOPPING, (A.STOP,)),
        (42, lc.Gone(DIED, asked=True), S.QUEUED, (A.UNQUEUE, A.QUEUE)),
    ],
    "loading what is being stopped starts it anew": [
        *SERVES,
        (40, lc.Unload(), S.DRAINING, (A.DRAIN,)),
        (41, lc.Load(), S.DRAINING, ()),
        (42, lc.Drained(), S.STOPPING, (A.STOP,)),
        (43, lc.Gone(DIED, asked=True), S.QUEUED, (A.UNQUEUE, A.QUEUE)),
    ],
    "a found tree is watched, not launched": [
        (0, lc.Launched(100, 40, ago_s=500, served_ago_s=400), S.STARTING, (A.WATCH,)),
        (1, lc.BecameReady(), S.READY, (A.UNQUEUE,)),
        (2, lc.Unload(), S.DRAINING, (A.DRAIN,)),
    ],
    "a found tree that was told to end stays down": [
        (0, lc.Launched(100, 40, asked=True), S.STOPPING, (A.WATCH,)),
        (45, lc.Tick(), S.STOPPING, (A.KILL,)),
        (46, lc.Gone(DIED, asked=True), S.STOPPED, (A.UNQUEUE,)),
    ],
    "a found tree that was told to end is started again if that is wanted": [
        (0, lc.Launched(100, 40, asked=True), S.STOPPING, (A.WATCH,)),
        (1, lc.Load(), S.STOPPING, ()),
        (2, lc.Gone(DIED, asked=True), S.QUEUED, (A.UNQUEUE, A.QUEUE)),
    ],
    "a found tree without its main process is waited for, then started again": [
        (0, lc.Launched(100, 40, dying=True), S.STOPPING, (A.WATCH,)),
        (1, lc.Gone(DIED, asked=False), S.BACKOFF, (A.UNQUEUE,)),
    ],
    "an unload of what is cleaning up stops it for good": [
        *SERVES,
        (50, lc.MainDied(), S.STOPPING, ()),
        (51, lc.Unload(), S.STOPPING, (A.STOP,)),
        (52, lc.Gone(DIED, asked=False), S.STOPPED, (A.UNQUEUE,)),
    ],
    "stalled lies beside ready": [
        *SERVES,
        (40, lc.Stalled("no iteration for 30 s"), S.STALLED, ()),
        (41, lc.Sleep(), S.STALLED, ()),
        (42, lc.Resumed(), S.READY, ()),
        (44, lc.Stalled("no iteration for 30 s"), S.STALLED, ()),
        (45, lc.Unload(), S.DRAINING, (A.DRAIN,)),
    ],
    "who goes to sleep lets requests finish, and wakes when called": [
        *SLEEPS,
        (50, lc.Stalled("no iteration for 30 s"), S.ASLEEP, ()),
        (51, lc.Sleep(), S.ASLEEP, ()),
        (60, lc.Wake(), S.STARTING, (A.WAKE,)),
        (61, lc.Wake(), S.STARTING, ()),
        (62, lc.WokeUp(), S.READY, ()),
        (999, lc.Tick(), S.READY, ()),
    ],
    "loading what sleeps wakes it": [
        *SLEEPS,
        (60, lc.Load(), S.STARTING, (A.WAKE,)),
        (62, lc.WokeUp(), S.READY, ()),
    ],
    "who is called while requests finish does not sleep at all": [
        *SERVES,
        (40, lc.Sleep(), S.DRAINING, (A.DRAIN,)),
        (41, lc.Wake(), S.READY, ()),
        (42, lc.Drained(), S.READY, ()),
        (43, lc.Sleep(), S.DRAINING, (A.DRAIN,)),
        (44, lc.Drained(), S.DRAINING, (A.SLEEP,)),
        (45, lc.Drained(), S.DRAINING, ()),
    ],
    "who is called while it falls asleep wakes after that": [
        *FALLS,
        (42, lc.Wake(), S.DRAINING, ()),
        (43, lc.FellAsleep(), S.STARTING, (A.WAKE,)),
        (44, lc.WokeUp(), S.READY, ()),
    ],
    "who is called back and sent to sleep again sleeps": [
        *FALLS,
        (42, lc.Wake(), S.DRAINING, ()),
        (43, lc.Sleep(), S.DRAINING, ()),
        (44, lc.FellAsleep(), S.ASLEEP, ()),
    ],
    "an engine that does not go to sleep serves on": [
        *FALLS,
        (42, lc.StayedAwake("/sleep says HTTP 500"), S.READY, ()),
    ],
    "who is put to sleep by somebody else sleeps, and wakes as any": [
        *SERVES,
        (40, lc.FellAsleep(), S.ASLEEP, ()),
        (50, lc.Wake(), S.STARTING, (A.WAKE,)),
        (51, lc.WokeUp(), S.READY, ()),
    ],
    "an engine that cannot be woken sleeps on, and says why for ten seconds": [
        *SLEEPS,
        (60, lc.Wake(), S.STARTING, (A.WAKE,)),
        (61, lc.SleptOn("GPU 0 has 3 GB free"), S.ASLEEP, ()),
        (70.9, lc.Tick(), S.ASLEEP, ()),
        (71, lc.Tick(), S.ASLEEP, ()),
        (72, lc.Wake(), S.STARTING, (A.WAKE,)),
    ],
    "an engine that does not wake in time is killed and starts anew": [
        *SLEEPS,
        (60, lc.Wake(), S.STARTING, (A.WAKE,)),
        (159.9, lc.Tick(), S.STARTING, ()),
        (160, lc.Tick(), S.STOPPING, (A.KILL,)),
        (161, lc.Gone(DIED, asked=True), S.BACKOFF, (A.UNQUEUE,)),
    ],
    "what sleeps can be unloaded": [
        *SLEEPS,
        (50, lc.Unload(), S.DRAINING, (A.DRAIN,)),
        (50, lc.Drained(), S.STOPPING, (A.STOP,)),
        (52, lc.Gone(DIED, asked=True), S.STOPPED, (A.UNQUEUE,)),
    ],
    "what goes to sleep can be unloaded": [
        *SERVES,
        (40, lc.Sleep(), S.DRAINING, (A.DRAIN,)),
        (41, lc.Unload(), S.DRAINING, ()),
        (42, lc.Drained(), S.STOPPING, (A.STOP,)),
    ],
    "what falls asleep is unloaded once it has": [
        *FALLS,
        (42, lc.Unload(), S.DRAINING, ()),
        (43, lc.Wake(), S.DRAINING, ()),
        (44, lc.FellAsleep(), S.STOPPING, (A.STOP,)),
    ],
    "what does not fall asleep is unloaded all the same": [
        *FALLS,
        (42, lc.Restart(), S.DRAINING, ()),
        (43, lc.StayedAwake("no answer"), S.STOPPING, (A.STOP,)),
        (44, lc.Gone(DIED, asked=True), S.QUEUED, (A.UNQUEUE, A.QUEUE)),
    ],
    "what wakes can be unloaded, with the patience of one that serves": [
        *SLEEPS,
        (60, lc.Wake(), S.STARTING, (A.WAKE,)),
        (61, lc.Unload(), S.STOPPING, (A.STOP,)),
        (62, lc.WokeUp(), S.STOPPING, ()),
        (105.9, lc.Tick(), S.STOPPING, ()),
        (106, lc.Tick(), S.STOPPING, (A.KILL,)),
    ],
    "what dies in its sleep stays down: its GPU may be another's by now": [
        *SLEEPS,
        (50, lc.MainDied(), S.STOPPING, ()),
        (51, lc.Gone(DIED, asked=False), S.STOPPED, (A.UNQUEUE,)),
        (52, lc.Load(), S.QUEUED, (A.QUEUE,)),
    ],
    "what dies in its sleep and is loaded before it has gone starts anew": [
        *SLEEPS,
        (50, lc.MainDied(), S.STOPPING, ()),
        (50.5, lc.Load(), S.STOPPING, ()),
        (51, lc.Gone(DIED, asked=False), S.BACKOFF, (A.UNQUEUE,)),
        (52, lc.Tick(), S.QUEUED, (A.QUEUE,)),
    ],
    "what is asked for while it is looked at wakes if it turns out to sleep": [
        (0, lc.Launched(100, 40, ago_s=500, served_ago_s=400), S.STARTING, (A.WATCH,)),
        (0.5, lc.Load(), S.STARTING, ()),
        (1, lc.FellAsleep(), S.STARTING, (A.UNQUEUE, A.WAKE)),
        (2, lc.WokeUp(), S.READY, ()),
        (3, lc.Sleep(), S.DRAINING, (A.DRAIN,)),
        (4, lc.Drained(), S.DRAINING, (A.SLEEP,)),
        (5, lc.FellAsleep(), S.ASLEEP, ()),
    ],
    "what dies while it wakes starts anew": [
        *SLEEPS,
        (60, lc.Wake(), S.STARTING, (A.WAKE,)),
        (61, lc.MainDied(), S.STOPPING, ()),
        (62, lc.Gone(DIED, asked=False), S.BACKOFF, (A.UNQUEUE,)),
    ],
    "a tree that is found asleep sleeps on": [
        (0, lc.Launched(100, 40, ago_s=500, served_ago_s=400), S.STARTING, (A.WATCH,)),
        (1, lc.FellAsleep(), S.ASLEEP, (A.UNQUEUE,)),
        (2, lc.Wake(), S.STARTING, (A.WAKE,)),
        (3, lc.WokeUp(), S.READY, ()),
    ],
    "a restart of a stalled worker does not wait for requests that cannot finish": [
        *SERVES,
        (40, lc.Stalled("no iteration for 30 s"), S.STALLED, ()),
        (41, lc.Restart(), S.STOPPING, (A.STOP,)),
        (42.9, lc.Tick(), S.STOPPING, ()),
        (43, lc.Tick(), S.STOPPING, (A.KILL,)),
        (44, lc.Gone(DIED, asked=True), S.QUEUED, (A.UNQUEUE, A.QUEUE)),
    ],
}


@pytest.mark.parametrize("name", HISTORIES)
def test_history(name: str) -> None:
    life = Life()
    for at, event, state, actions in HISTORIES[name]:
        life, did = step(life, event, at)
        assert (life.state, did) == (state, actions), f"at {at}: {event}"


def test_the_failure_stays_on_show_until_the_worker_serves() -> None:
    life = Life()
    for at, event, _, _ in HISTORIES["an unasked end backs off and starts again"]:
        life, _ = step(life, event, at)
    assert life.failure == DIED
    assert life.restarts == 1


def test_back_off_doubles_from_one_second_to_five_minutes() -> None:
    assert [backoff_s(n) for n in range(1, 11)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert backoff_s(10_000) == 300


def test_ten_healthy_minutes_forget_earlier_failures() -> None:
    def fails(life: Life, at: float, served_s: float) -> tuple[Life, float]:
        for event in (lc.TurnCame(), LAUNCHED, lc.BecameReady()):
            life, _ = step(life, event, at)
        life, _ = step(life, lc.Gone(DIED, asked=False), at + served_s)
        assert life.alarm is not None
        back = life.alarm - at - served_s
        life, _ = step(life, lc.Tick(), life.alarm)
        return life, back

    life, _ = step(Life(), lc.Load(), 0)
    life, first = fails(life, 0, 10)
    life, second = fails(life, 1000, 599)
    life, third = fails(life, 2000, 600)
    assert (first, second, third) == (1, 2, 1)


@dataclass
class World:
    """What a correct launcher and gate would do with the actions; refuses impossible ones."""

    life: Life = field(default_factory=Life)
    now: float = 0.0
    gate: str = "free"
    tree: bool = False
    main: bool = False
    launching: bool = False
    draining: bool = False
    signalled: bool = False
    told: str | None = None
    """What the engine was told and has not answered to."""

    def happens(self, event: Event) -> None:
        if isinstance(event, lc.TurnCame):
            self.gate = "held"
        elif isinstance(event, lc.Launched):
            self.launching, self.tree, self.main = False, True, not event.dying
            self.signalled = self.draining = False
        elif isinstance(event, lc.LaunchFailed | lc.Abandoned):
            self.launching = False
        elif isinstance(event, lc.MainDied):
            self.main = False
        elif isinstance(event, lc.Gone):
            self.tree = self.main = self.draining = False
            self.told = None
        elif isinstance(event, lc.Drained):
            self.draining = False
        elif isinstance(event, lc.FellAsleep | lc.StayedAwake | lc.WokeUp | lc.SleptOn):
            self.told = None
        self.life, actions = step(self.life, event, self.now)
        for action in actions:
            self.does(action)
        self.holds()

    def does(self, action: Action) -> None:
        match action:
            case Action.QUEUE:
                assert self.gate == "free", "two places in the queue"
                self.gate = "queued"
            case Action.UNQUEUE:
                self.gate = "free"
            case Action.LAUNCH:
                assert not self.tree, "a second tree"
                assert not self.launching, "a second launch"
                assert self.gate == "held"
                self.launching = True
            case Action.WATCH | Action.STOP | Action.KILL:
                assert self.tree, f"{action} without a tree of ours"
                self.signalled |= action is not Action.WATCH
            case Action.DRAIN:
                assert self.tree
                self.draining = True
            case Action.SLEEP | Action.WAKE:
                assert self.tree
                assert self.told is None, "told two things at once"
                self.told = action.name

    def holds(self) -> None:
        life = self.life
        assert (life.tree is Tree.NONE) == (not self.tree and not self.launching)
        assert (life.state in RUNNING) == (life.tree is not Tree.NONE), "an unowned tree"
        assert (life.state is State.ASLEEP) == (
            life.rest is Rest.ASLEEP and life.state not in (State.STOPPING, State.STOPPED)
        )
        assert not life.asked or life.state in (State.DRAINING, State.STOPPING)
        assert (self.gate == "queued") == (life.state is State.QUEUED)
        if life.state in ENDED:
            assert self.gate == "free"
            assert not life.wanted
        if life.state is State.BACKOFF or (life.state is State.STARTING and self.tree):
            assert life.alarm is not None
        if life.state is State.STOPPING and life.asked and self.tree and self.main:
            assert life.alarm is not None, "stopping without a deadline"

    def possible(self) -> list[Event]:
        life = self.life
        events: list[Event] = [lc.Load(), lc.Unload(), lc.Restart(), lc.Tick()]
        events += [lc.Stalled("x"), lc.Resumed(), lc.Sleep(), lc.Wake(), lc.Blocked("x")]
        if life.state is State.READY:
            events.append(lc.FellAsleep())
        if self.told == "SLEEP":
            events += [lc.FellAsleep(), lc.StayedAwake("x")]
        if self.told == "WAKE":
            events += [lc.WokeUp(), lc.SleptOn("x")]
        if self.gate == "queued":
            events.append(lc.TurnCame())
        if self.launching:
            events += [LAUNCHED, lc.LaunchFailed(BROKEN), lc.LaunchFailed(DIED)]
            if life.asked:
                events.append(lc.Abandoned())
        if self.draining:
            events.append(lc.Drained())
        if self.tree and self.main:
            events += [lc.BecameReady(), lc.MainDied()]
        if self.tree and not self.main:
            events += [lc.Gone(DIED, asked=self.signalled), lc.Gone(BROKEN, asked=self.signalled)]
        if not self.tree and not self.launching and life.state is State.STOPPED:
            events += [lc.Launched(100, 40, 5), lc.Launched(100, 40, 5, dying=True)]
        return events


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_history_signals_a_stranger_or_makes_two_trees(data: st.DataObject) -> None:
    world = World()
    for _ in range(data.draw(st.integers(0, 40))):
        world.now += data.draw(st.sampled_from([0.0, 0.5, 3.0, 50.0, 700.0]))
        world.happens(data.draw(st.sampled_from(world.possible())))
    world.happens(lc.Unload())
    for _ in range(20):
        if world.life.state is State.STOPPED:
            break
        if world.launching:
            world.happens(LAUNCHED)
        elif world.draining:
            world.happens(lc.Drained())
        elif world.told == "SLEEP":
            world.happens(lc.FellAsleep())
        elif world.main and world.signalled:
            world.happens(lc.MainDied())
        elif world.tree and not world.main:
            world.happens(lc.Gone(DIED, asked=world.signalled))
        else:
            assert world.life.alarm is not None, f"stuck in {world.life.state}"
            world.now = world.life.alarm
            world.happens(lc.Tick())
    assert world.life.state is State.STOPPED
    assert (world.tree, world.launching, world.gate) == (False, False, "free")
