"""What a row of the table of faults is, and how its injections are counted."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import table
from vllm_console.errors import ConsoleError

FAILURES_MOST = 3
"""A row whose injections fail this often is not gone on with."""


class NotMet(Exception):
    """A promise was not kept; the text says which, in one line."""


@dataclass(frozen=True)
class Outcome:
    """One row: a fault, how often it was put in, and what it cost."""

    fault: str
    engine: str
    """"fake" or "vLLM"."""
    injections: int
    survived: int
    """Injections after which every promise of the row held."""
    lost: int | None = None
    """Requests that got no complete answer; `None` where none were sent."""
    sent: int | None = None
    recovery_s: tuple[float, ...] = ()
    """Seconds from each fault to the fleet being whole again."""
    note: str = ""


Row = Callable[[Path], Outcome]
"""Runs one row in an empty directory of its own, and leaves nothing running."""


class Scale:
    """How much is done, and from which seed chance is drawn."""

    factor = 1.0
    """Of the injections of a row."""
    seed = 0


def times(full: int) -> int:
    """The number of injections of a row that has `full` of them at scale 1; at least one."""
    return max(1, round(full * Scale.factor))


class Trials:
    """Counts the injections of one row; iterating gives the numbers of those to carry out.

    trials = Trials(50)
    for number in trials:
        with trials.injection():
            …  # raises NotMet or ConsoleError where a promise is broken
            trials.recovered(seconds)
    """

    def __init__(self, full: int, *, at_once: int = 1) -> None:
        """`at_once` faults are put in with each number."""
        self.rounds = times(max(1, full // at_once))
        self.at_once = at_once
        self.injections = 0
        self.survived = 0
        self.recovery_s: list[float] = []
        self.broken: list[str] = []

    def __iter__(self) -> Iterator[int]:
        for number in range(self.rounds):
            if len(self.broken) >= FAILURES_MOST:
                return
            yield number

    @contextmanager
    def injection(self) -> Iterator[None]:
        """One injection; a promise broken inside is counted and noted, not raised."""
        self.injections += self.at_once
        try:
            yield
        except (NotMet, ConsoleError) as error:
            self.broken.append(str(error))
        else:
            self.survived += self.at_once

    def recovered(self, seconds: float) -> None:
        """Note how long the fleet took to be whole again."""
        self.recovery_s.append(seconds)

    def outcome(
        self,
        fault: str,
        engine: str,
        note: str = "",
        *,
        lost: int | None = None,
        sent: int | None = None,
    ) -> Outcome:
        """The row; the promises that were broken follow the note."""
        text = "; ".join(part for part in (note, *dict.fromkeys(self.broken)) if part)
        recovery = tuple(self.recovery_s)
        return Outcome(fault, engine, self.injections, self.survived, lost, sent, recovery, text)


def until(
    condition: Callable[[], bool], within_s: float, what: str, every_s: float = 0.01
) -> float:
    """Wait until the condition holds; the seconds it took. Raises `NotMet` after `within_s`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > within_s:
            raise NotMet(f"not within {within_s:g} s: {what}")
        time.sleep(every_s)
    return time.monotonic() - began


def require(holds: bool, promise: str) -> None:
    """Raises `NotMet` with the promise where it does not hold."""
    if not holds:
        raise NotMet(promise)


def spread(values: Sequence[float], unit: str = "s") -> str:
    """The median and the largest of some measured values, for a note."""
    if not values:
        return "never"
    middle, most = statistics.median(values), max(values)
    digits = 1 if unit == "s" else 0
    return f"{middle:.{digits}f} {unit}, at most {most:.{digits}f}"


def survived(outcome: Outcome) -> bool:
    """Whether every injection of a row was survived, and there was one."""
    return outcome.injections > 0 and outcome.survived == outcome.injections


def show(outcomes: Sequence[Outcome]) -> None:
    """Prints the table."""
    header = (
        "fault",
        "engine",
        "injections",
        "survived",
        "requests lost/sent",
        "recovery median (s)",
        "max (s)",
        "note",
    )
    table([_cells(outcome) for outcome in outcomes], header)


def _cells(outcome: Outcome) -> list[object]:
    times_s = outcome.recovery_s
    return [
        outcome.fault,
        outcome.engine,
        outcome.injections,
        outcome.survived,
        None if outcome.sent is None else f"{outcome.lost}/{outcome.sent}",
        statistics.median(times_s) if times_s else None,
        max(times_s) if times_s else None,
        outcome.note,
    ]
