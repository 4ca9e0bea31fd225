"""What is remembered of a worker's life, what may happen to it, and what is to be done then."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from vllm_console.snapshot import Failure
from vllm_console.workers.states import State


class Tree(Enum):
    """What exists of the process tree."""

    NONE = auto()
    LAUNCHING = auto()
    """The launcher was asked; nobody knows yet."""
    ALIVE = auto()


class Rest(Enum):
    """How far a tree is from serving though it lives: vLLM's sleep mode."""

    NONE = auto()
    """Awake."""
    LETS_FINISH = auto()
    """It is to sleep once no request is in flight."""
    FALLS_ASLEEP = auto()
    """Its engine was told to sleep and has not said that it does."""
    ASLEEP = auto()
    """Its weights are off the GPU; of a worker that is stopped, they were when it ended."""
    CALLED_BACK = auto()
    """As `FALLS_ASLEEP`, and it is wanted awake again."""
    WAKES = auto()
    """Its engine was told to wake up and has not said that it did."""


@dataclass(frozen=True, slots=True)
class Life:
    """Everything the machine remembers of one worker."""

    state: State = State.STOPPED
    tree: Tree = Tree.NONE
    rest: Rest = Rest.NONE
    called: bool = False
    """It was found running, and is wanted awake if it turns out to sleep."""
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
    """Iterations finish again."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Somebody wants its weights off the GPU."""


@dataclass(frozen=True, slots=True)
class Wake:
    """Somebody wants it to serve again."""


@dataclass(frozen=True, slots=True)
class FellAsleep:
    """vLLM's sleep mode took the weights off the GPU."""


@dataclass(frozen=True, slots=True)
class StayedAwake:
    """The engine did not go to sleep."""

    reason: str


@dataclass(frozen=True, slots=True)
class WokeUp:
    """The weights are back."""


@dataclass(frozen=True, slots=True)
class SleptOn:
    """The engine was not woken, or could not be."""

    reason: str


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
    | Sleep
    | Wake
    | FellAsleep
    | StayedAwake
    | WokeUp
    | SleptOn
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
    """Let requests in flight finish; report `Drained`. Another may be under way already."""
    SLEEP = auto()
    """Tell the engine to sleep; report `FellAsleep` or `StayedAwake`."""
    WAKE = auto()
    """Tell the engine to wake up; report `WokeUp` or `SleptOn`."""
    STOP = auto()
    """SIGTERM through the launcher."""
    KILL = auto()
    """SIGKILL to the whole tree through the launcher."""
