"""A worker's life as a pure state machine: `step(life, event, now)` -> (life, actions).

    stopped ─ queued ─ starting ─ ready ─ draining ─ stopping ─ stopped
                 ▲         │        │ ╲ stalled                    │
                 │         └────────┴──▶ stopping (cleaning up) ───┤ unasked
                 └── backoff ◀── failed · crash-loop ◀─────────────┘

    ready ─ draining (to sleep) ─ asleep ─ starting (wakes up) ─ ready

No clock, no process, no file: whoever runs it carries out the actions and reports what happened as
events. *Asked or not* decides what an end means; the exit code never does (vLLM exits 0 when its
engine dies). Times are seconds of one monotonic clock.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vllm_console.snapshot import Failure
from vllm_console.workers.life import (
    Abandoned,
    Action,
    BecameReady,
    Blocked,
    Drained,
    Event,
    FellAsleep,
    Gone,
    Launched,
    LaunchFailed,
    Life,
    Load,
    MainDied,
    Rest,
    Restart,
    Resumed,
    Sleep,
    SleptOn,
    Stalled,
    StayedAwake,
    Tick,
    Tree,
    TurnCame,
    Unload,
    Wake,
    WokeUp,
)
from vllm_console.workers.states import PASSING, PERMANENT, Cause, State

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
WAKE_AGAIN_S = 10.0
"""Why a worker could not be woken is told, and no request tries it again, for this long."""

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
            asleep = Rest.ASLEEP if life.rest is Rest.ASLEEP else Rest.NONE
            reason = "ends what its main process left"
            return _to(life, State.STOPPING, now, reason=reason, rest=asleep), ()
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
        case Resumed():
            if life.state is not State.STALLED:
                return life, ()
            return _to(life, State.READY, now), ()
        case Sleep():
            return _sleep(life, now)
        case Wake():
            return _wake(life, now)
        case FellAsleep():
            return _fell_asleep(life, now)
        case StayedAwake(reason):
            if life.rest not in (Rest.FALLS_ASLEEP, Rest.CALLED_BACK):
                return life, ()
            if life.asked:
                return _stop(life, life.grace_s + KILL_SLACK_S, now)
            return _to(life, State.READY, now, reason=reason), ()
        case WokeUp():
            if life.rest is not Rest.WAKES:
                return life, ()
            return _to(life, State.READY, now), ()
        case SleptOn(reason):
            if life.rest is not Rest.WAKES:
                return life, ()
            again = now + WAKE_AGAIN_S
            return _to(life, State.ASLEEP, now, reason=reason, alarm=again, rest=Rest.ASLEEP), ()
        case Drained():
            if life.state is not State.DRAINING:
                return life, ()
            if life.asked:
                return _stop(life, life.grace_s + KILL_SLACK_S, now)
            if life.rest is not Rest.LETS_FINISH:
                return life, ()
            return replace(life, rest=Rest.FALLS_ASLEEP, reason="falls asleep"), (Action.SLEEP,)


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
    rest: Rest = Rest.NONE,
    **changes: Any,
) -> Life:
    new = replace(life, state=state, since=now, reason=reason, alarm=alarm, rest=rest, called=False)
    return replace(new, **changes)


def _queue(life: Life, now: float, **changes: Any) -> Step:
    queued = _to(life, State.QUEUED, now, reason="waits for its turn to start", **changes)
    return queued, (Action.QUEUE,)


def _load(life: Life, now: float) -> Step:
    life = replace(life, wanted=True)
    match life.state:
        case State.STOPPED | State.FAILED | State.CRASH_LOOP | State.BACKOFF:
            return _queue(life, now, failure=None, attempts=0, unserved=0, restarts=0)
        case State.STOPPING if life.rest is Rest.ASLEEP:  # it ends in its sleep: it starts again
            return replace(life, rest=Rest.NONE), ()
        case _:
            return _wake(life, now)


def _unload(life: Life, now: float) -> Step:
    match life.state:
        case State.STOPPING if life.tree is Tree.ALIVE and not life.asked:
            return _stop(life, life.grace_s + KILL_SLACK_S, now)
        case State.DRAINING if not life.asked:
            return replace(life, asked=True, reason=None), ()
        case State.STOPPED | State.STOPPING | State.DRAINING:
            return life, ()
        case State.QUEUED:
            return _to(life, State.STOPPED, now), (Action.UNQUEUE,)
        case State.FAILED | State.CRASH_LOOP | State.BACKOFF:
            return _to(life, State.STOPPED, now, failure=None), ()
        case State.STARTING:
            if life.tree is Tree.LAUNCHING:
                return _to(life, State.STOPPING, now, asked=True, reason="calls off its start"), ()
            grace_s = life.grace_s + KILL_SLACK_S if life.rest is Rest.WAKES else BOOT_GRACE_S
            return _stop(life, grace_s, now)
        case _:
            return _to(life, State.DRAINING, now, asked=True), (Action.DRAIN,)


def _sleep(life: Life, now: float) -> Step:
    if life.state is State.READY:
        reason = "goes to sleep"
        tired = _to(life, State.DRAINING, now, reason=reason, rest=Rest.LETS_FINISH)
        return tired, (Action.DRAIN,)
    if life.rest is Rest.CALLED_BACK and not life.asked:
        return replace(life, rest=Rest.FALLS_ASLEEP, reason="falls asleep"), ()
    return life, ()


def _wake(life: Life, now: float) -> Step:
    if life.asked:
        return life, ()
    match life.rest:
        case Rest.LETS_FINISH:
            return _to(life, State.READY, now), ()
        case Rest.FALLS_ASLEEP:
            return replace(life, rest=Rest.CALLED_BACK, reason="falls asleep, then wakes"), ()
        case Rest.ASLEEP if life.state is State.ASLEEP:
            due = now + life.timeout_s
            waking = _to(life, State.STARTING, now, reason="wakes up", alarm=due, rest=Rest.WAKES)
            return waking, (Action.WAKE,)
        case Rest.NONE if life.state is State.STARTING and life.tree is Tree.ALIVE:
            return replace(life, called=True), ()
        case _:
            return life, ()


def _fell_asleep(life: Life, now: float) -> Step:
    """It was told to; or it was found running, and asleep; or somebody else has told it."""
    unasked = life.tree is Tree.ALIVE and life.rest is Rest.NONE
    found = unasked and life.state is State.STARTING
    if not (found or (unasked and life.state is State.READY)) and life.rest not in (
        Rest.FALLS_ASLEEP,
        Rest.CALLED_BACK,
    ):
        return life, ()
    if life.asked:
        return _stop(life, life.grace_s + KILL_SLACK_S, now)
    served = life.ready if life.ready is not None else now
    asleep = _to(life, State.ASLEEP, now, rest=Rest.ASLEEP, ready=served, unserved=0, failure=None)
    free = (Action.UNQUEUE,) if found else ()
    if life.rest is Rest.CALLED_BACK or life.called:
        waking, actions = _wake(asleep, now)
        return waking, (*free, *actions)
    return asleep, free


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
            what = "awake" if life.rest is Rest.WAKES else "ready"
            failure = Failure(
                cause=Cause.TIMED_OUT,
                line=f"not {what} within {life.timeout_s:.0f} s",
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
        case State.ASLEEP:
            return replace(life, alarm=None, reason=None), ()
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
    if life.rest is Rest.ASLEEP:  # what it had on the GPU may be another's by now
        reason = f"ended while it slept: {failure.line}"
        down = _to(life, State.STOPPED, now, reason=reason, wanted=False, rest=Rest.ASLEEP)
        return replace(down, failure=failure), free
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
