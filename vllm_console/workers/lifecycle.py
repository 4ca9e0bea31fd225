"""A worker's life as a pure state machine: `step(life, event, now)` -> (life, actions).

    stopped ─ queued ─ starting ─ ready ─ draining ─ stopping ─ stopped
                 ▲         │        │ ╲ stalled, asleep            │
                 │         └────────┴──▶ stopping (cleaning up) ───┤ unasked
                 └── backoff ◀── failed · crash-loop ◀─────────────┘

No clock, no process, no file: whoever runs it carries out the actions and reports what happened as
events. *Asked or not* decides what an end means; the exit code never does (vLLM exits 0 when its
engine dies). Times are seconds of one monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

from vllm_console.snapshot import Failure
from vllm_console.workers.states import PASSING, PERMANENT, SERVING, Cause, State

BACKOFF_FIRST_S = 1.0
BACKOFF_MOST_S = 300.0
HEALTHY_S = 600.0
"""Serving this long forgets earlier failures."""
PASSING_MOST_S = 10.0
"""Longest wait between two looks for what passes by itself."""
UNSERVED_MOST = 3
"""Starts in a row that never served before the worker is left alone."""
BOOT_GRACE_S = 2.0
"""vLLM swallows SIGTERM while its engine boots: after this long it is killed."""
STALLED_GRACE_S = 2.0
"""What a stalled engine works on will not finish: its restart waits this long, not for a drain."""
KILL_SLACK_S = 5.0
"""Past the shim's own grace before it is told to kill."""
KILL_AGAIN_S = 5.0


class Tree(Enum):
    """What exists of the process tree."""

    NONE = auto()
    LAUNCHING = auto()
    """The launcher was asked; nobody knows yet."""
    ALIVE = auto()


@dataclass(frozen=True, slots=True)
class Life:
    """Everything the machine remembers of one worker."""

    state: State = State.STOPPED
    tree: Tree = Tree.NONE
    wanted: bool = False
    asked: bool = False
    """We asked the present tree to end."""
    reason: str | None = None
    failure: Failure | None = None
    """Why the last tree ended, while that still matters."""
    verdict: Failure | None = None
    """Why we end the present tree ourselves though nobody asked: it took too long to start."""
    since: float = 0.0
    """When `state` began."""
    started: float | None = None
    """When the present tree was launched."""
    ready: float | None = None
    """When the present tree became ready; `None` if it never was."""
    alarm: float | None = None
    """When the next `Tick` is due."""
    timeout_s: float = 1800.0
    """Time a start may take."""
    grace_s: float = 40.0
    """Time the launcher gives a tree between SIGTERM and SIGKILL."""
    attempts: int = 0
    """Unasked ends since the last healthy stretch: the exponent of the back-off."""
    unserved: int = 0
    """Starts in a row that never became ready."""
    restarts: int = 0
    """Starts after an unasked end, since the worker was loaded."""


# --- what happens ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """Somebody wants the worker to run."""


@dataclass(frozen=True, slots=True)
class Unload:
    """Somebody wants it gone."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Somebody wants a new process."""


@dataclass(frozen=True, slots=True)
class TurnCame:
    """It is this worker's turn to start."""


@dataclass(frozen=True, slots=True)
class Launched:
    """The tree exists."""

    timeout_s: float
    grace_s: float
    ago_s: float = 0.0
    """How long ago it was launched, for one that was found running."""
    served_ago_s: float | None = None
    """How long ago it became ready, if it did."""
    dying: bool = False
    """Found running, but its main process has ended already."""
    asked: bool = False
    """Found running, but it has been told to end."""


@dataclass(frozen=True, slots=True)
class LaunchFailed:
    """There is no tree: it could not be prepared or started."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The launch was called off before there was a tree."""


@dataclass(frozen=True, slots=True)
class BecameReady:
    """Health, model list and socket all say so."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """Something outside keeps a start from becoming ready, or (`None`) no longer does."""

    reason: str | None


@dataclass(frozen=True, slots=True)
class Stalled:
    """Requests run and no iteration finishes."""

    reason: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """Iterations finish again, or the engine woke up."""


@dataclass(frozen=True, slots=True)
class FellAsleep:
    """vLLM's sleep mode took the weights off the GPU."""


@dataclass(frozen=True, slots=True)
class Drained:
    """No request is in flight."""


@dataclass(frozen=True, slots=True)
class MainDied:
    """The main process ended; the rest of the tree may still be there."""


@dataclass(frozen=True, slots=True)
class Gone:
    """Nothing of the tree is left."""

    failure: Failure
    """What its exit and its log say, should nobody have asked for it."""
    asked: bool
    """The shim was told to stop it, be it by us or by somebody else."""


@dataclass(frozen=True, slots=True)
class Tick:
    """The alarm went off."""


Event = (
    Load
    | Unload
    | Restart
    | TurnCame
    | Launched
    | LaunchFailed
    | Abandoned
    | BecameReady
    | Blocked
    | Stalled
    | Resumed
    | FellAsleep
    | Drained
    | MainDied
    | Gone
    | Tick
)


class Action(Enum):
    """What to do about it, in this order."""

    QUEUE = auto()
    """Wait for this worker's turn to start, then report `TurnCame`."""
    UNQUEUE = auto()
    """Give up the turn, or the wait for it."""
    LAUNCH = auto()
    """Prepare and launch; report `Launched`, `LaunchFailed` or `Abandoned`."""
    WATCH = auto()
    """Follow the log, probe for readiness, wait for the end."""
    DRAIN = auto()
    """Let requests in flight finish; report `Drained`."""
    STOP = auto()
    """SIGTERM through the launcher."""
    KILL = auto()
    """SIGKILL to the whole tree through the launcher."""


Step = tuple[Life, tuple[Action, ...]]


def step(life: Life, event: Event, now: float) -> Step:
    """What the worker becomes, and what is to be done. An event that changes nothing is fine."""
    match event:
        case Load():
            return _load(life, now)
        case Unload():
            return _unload(replace(life, wanted=False), now)
        case Restart():
            return _restart(life, now)
        case TurnCame():
            return _turn_came(life, now)
        case Launched():
            return _launched(life, event, now)
        case LaunchFailed(failure):
            if life.tree is not Tree.LAUNCHING:
                return life, ()
            return _ended(life, failure, now)
        case Abandoned():
            if life.tree is not Tree.LAUNCHING:
                return life, ()
            return _ended(life, None, now)
        case Gone(failure, asked):
            if life.tree is not Tree.ALIVE:
                return life, ()
            if life.verdict is not None:
                return _ended(life, life.verdict, now)
            return _ended(life, None if asked else failure, now)
        case MainDied():
            if life.tree is not Tree.ALIVE or life.state is State.STOPPING:
                return life, ()
            return _to(life, State.STOPPING, now, reason="ends what its main process left"), ()
        case Tick():
            return _tick(life, now)
        case BecameReady():
            if life.state is not State.STARTING or life.tree is not Tree.ALIVE:
                return life, ()
            served = life.ready if life.ready is not None else now
            ready = _to(life, State.READY, now, ready=served, unserved=0, failure=None)
            return ready, (Action.UNQUEUE,)
        case Blocked(reason):
            if life.state is not State.STARTING:
                return life, ()
            return replace(life, reason=reason), ()
        case Stalled(reason):
            if life.state is not State.READY:
                return life, ()
            return _to(life, State.STALLED, now, reason=reason), ()
        case FellAsleep():
            if life.state not in SERVING:
                return life, ()
            return _to(life, State.ASLEEP, now), ()
        case Resumed():
            if life.state not in (State.STALLED, State.ASLEEP):
                return life, ()
            return _to(life, State.READY, now), ()
        case Drained():
            if life.state is not State.DRAINING:
                return life, ()
            return _stop(life, life.grace_s + KILL_SLACK_S, now)


def backoff_s(attempts: int) -> float:
    """Seconds to wait after the `attempts`-th unasked end in a row: 1, 2, 4 … 300."""
    return min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2.0 ** min(attempts - 1, 30))


def _to(
    life: Life,
    state: State,
    now: float,
    *,
    reason: str | None = None,
    alarm: float | None = None,
    **changes: Any,
) -> Life:
    return replace(life, state=state, since=now, reason=reason, alarm=alarm, **changes)


def _queue(life: Life, now: float, **changes: Any) -> Step:
    queued = _to(life, State.QUEUED, now, reason="waits for its turn to start", **changes)
    return queued, (Action.QUEUE,)


def _load(life: Life, now: float) -> Step:
    life = replace(life, wanted=True)
    match life.state:
        case State.STOPPED | State.FAILED | State.CRASH_LOOP | State.BACKOFF:
            return _queue(life, now, failure=None, attempts=0, unserved=0, restarts=0)
        case _:
            return life, ()


def _unload(life: Life, now: float) -> Step:
    match life.state:
        case State.STOPPING if life.tree is Tree.ALIVE and not life.asked:
            return _stop(life, life.grace_s + KILL_SLACK_S, now)
        case State.STOPPED | State.STOPPING | State.DRAINING:
            return life, ()
        case State.QUEUED:
            return _to(life, State.STOPPED, now), (Action.UNQUEUE,)
        case State.FAILED | State.CRASH_LOOP | State.BACKOFF:
            return _to(life, State.STOPPED, now, failure=None), ()
        case State.STARTING:
            if life.tree is Tree.LAUNCHING:
                return _to(life, State.STOPPING, now, asked=True, reason="calls off its start"), ()
            return _stop(life, BOOT_GRACE_S, now)
        case _:
            return _to(life, State.DRAINING, now, asked=True), (Action.DRAIN,)


def _restart(life: Life, now: float) -> Step:
    if life.tree is Tree.NONE:
        return _load(life, now)
    if life.state is State.STALLED:
        stopping, actions = _stop(life, STALLED_GRACE_S, now)
    else:
        stopping, actions = _unload(life, now)
    return replace(stopping, wanted=True, asked=True), actions


def _stop(life: Life, kill_after_s: float, now: float) -> Step:
    stopping = _to(life, State.STOPPING, now, asked=True, alarm=now + kill_after_s)
    return stopping, (Action.STOP,)


def _turn_came(life: Life, now: float) -> Step:
    if life.state is not State.QUEUED:
        return life, ()
    starting = _to(
        life,
        State.STARTING,
        now,
        tree=Tree.LAUNCHING,
        asked=False,
        failure=None,
        started=now,
        ready=None,
    )
    return starting, (Action.LAUNCH,)


def _launched(life: Life, event: Launched, now: float) -> Step:
    found = life.tree is Tree.NONE and life.state is State.STOPPED
    if not found and life.tree is not Tree.LAUNCHING:
        return life, ()
    life = replace(
        life,
        tree=Tree.ALIVE,
        timeout_s=event.timeout_s,
        grace_s=event.grace_s,
        started=now - event.ago_s,
        ready=None if event.served_ago_s is None else now - event.served_ago_s,
        wanted=life.wanted or found,
        asked=event.asked if found else life.asked,
    )
    if found and life.asked:
        return replace(_stop(life, life.grace_s + KILL_SLACK_S, now)[0], wanted=False), (
            Action.WATCH,
        )
    if event.dying:
        dying = _to(life, State.STOPPING, now, reason="ends what its main process left")
        return dying, (Action.WATCH,)
    if life.asked:
        killed = _to(life, State.STOPPING, now, alarm=now + KILL_AGAIN_S)
        return killed, (Action.WATCH, Action.KILL)
    starting = _to(life, State.STARTING, now, alarm=now + life.timeout_s)
    return starting, (Action.WATCH,)


def _tick(life: Life, now: float) -> Step:
    if life.alarm is None or now < life.alarm:
        return life, ()
    match life.state:
        case State.BACKOFF:
            return _queue(life, now, restarts=life.restarts + 1)
        case State.STARTING:
            failure = Failure(
                cause=Cause.TIMED_OUT,
                line=f"not ready within {life.timeout_s:.0f} s",
                remedy="raise `start_timeout`, or see in the log where it hangs",
                at="",
            )
            late = _to(
                life,
                State.STOPPING,
                now,
                reason="took too long to start",
                alarm=now + KILL_AGAIN_S,
                verdict=failure,
            )
            return late, (Action.KILL,)
        case State.STOPPING:
            again = replace(life, alarm=now + KILL_AGAIN_S, reason="kills what does not end")
            return again, (Action.KILL,)
        case _:
            return replace(life, alarm=None), ()


def _ended(life: Life, failure: Failure | None, now: float) -> Step:
    """No tree is left: stay down, start again, or give up. No failure: somebody asked for it."""
    asked = life.asked
    served = life.ready is not None
    healthy = life.ready is not None and now - life.ready >= HEALTHY_S
    life = replace(life, tree=Tree.NONE, asked=False, started=None, ready=None, verdict=None)
    free = (Action.UNQUEUE,)
    if asked and life.wanted:
        queued, actions = _queue(life, now, failure=None, attempts=0, unserved=0)
        return queued, free + actions
    if asked or failure is None or not life.wanted:
        reason = None if asked or not life.wanted else "was stopped from outside"
        return _to(life, State.STOPPED, now, reason=reason, wanted=False, failure=None), free
    attempts = 1 if healthy else life.attempts + 1
    counts = 0 if failure.cause in PASSING else 1
    unserved = 0 if served else life.unserved + counts
    life = replace(life, failure=failure, attempts=attempts, unserved=unserved)
    if not served and failure.cause in PERMANENT:
        return _to(life, State.FAILED, now, reason=failure.cause, wanted=False), free
    if unserved >= UNSERVED_MOST:
        reason = f"{unserved} starts in a row never served"
        return _to(life, State.CRASH_LOOP, now, reason=reason, wanted=False), free
    pause = backoff_s(attempts)
    if failure.cause in PASSING:
        pause = min(pause, PASSING_MOST_S)
    return _to(life, State.BACKOFF, now, alarm=now + pause), free
