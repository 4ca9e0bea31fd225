"""The console's way through stored time: where it is, where it goes, and the look-up between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from vllm_console.errors import ConsoleError
from vllm_console.snapshot import Snapshot
from vllm_console.ui.format import NONE, date_and_clock
from vllm_console.ui.source import Connect, Series
from vllm_console.ui.trends import KEPT, METRICS, Trends, subjects_of

_MANY_SUBJECTS = 16
_FEWER = 240
"""Values of each trend asked for when there are many subjects: a screen's width of them."""
IN_THE_PAST = "this is the past: nothing can be changed in it · esc returns to now"
RECORDED = "this is a recording: nothing can be changed"


@dataclass(frozen=True, slots=True)
class Past:
    """The fleet at a moment, and the graphs that end there."""

    snapshot: Snapshot
    trends: Trends


@dataclass(frozen=True, slots=True)
class Found:
    """What a look-up brought: a past, or one line that says why there is none."""

    asked: str
    past: Past | None = None
    reason: str = ""
    last: bool = True
    """Nothing more comes of this look-up."""


class Travel:
    """Which moment is wanted; at most one look-up is under way, for the newest wish."""

    def __init__(self) -> None:
        self.wanted: str | None = None
        """The time that is looked up, as it was asked for; `None` while none is."""
        self.looking = False
        """Whether a look-up is under way."""

    def wish(self, moment: str) -> bool:
        """Want a moment; whether a look-up has to begin."""
        self.wanted = moment
        begin, self.looking = not self.looking, True
        return begin

    def drop(self) -> None:
        """Want none; what still comes is passed over."""
        self.wanted = None

    def take(self, found: Found) -> str | None:
        """Note that a look-up has ended; the moment to look up next, when it was not the newest."""
        self.looking = not found.last
        if self.looking or self.wanted is None or self.wanted == found.asked:
            return None
        self.looking = True
        return self.wanted


def look_up(connect: Connect, moment: str, first: Sequence[str] = ()) -> Iterator[Found]:
    """Ask for the fleet as it was; for a thread.

    The picture comes with the graphs of the subjects in `first`; where there are more, it comes
    again with all of them.
    """
    try:
        client = connect()
        try:
            snapshot = client.snapshot_at(moment)
            subjects = subjects_of(snapshot)
            values = KEPT if len(subjects) <= _MANY_SUBJECTS else _FEWER
            step, until = snapshot.interval_s, seconds_of(snapshot.at)
            near = [subject for subject in subjects if subject in first]
            series = client.series(near, METRICS, values * step, step, until) if near else {}
            far = [subject for subject in subjects if subject not in first]
            yield Found(moment, _past(snapshot, series), last=not far)
            if far:
                series |= client.series(far, METRICS, values * step, step, until)
                yield Found(moment, _past(snapshot, series))
        finally:
            client.close()
    except (ConsoleError, OSError, ValueError) as error:
        yield Found(moment, reason=str(error))


def _past(snapshot: Snapshot, series: Series) -> Past:
    trends = Trends()
    trends.recall(series)
    return Past(snapshot, trends)


def seconds_of(at: str) -> float:
    """Seconds since the epoch of a snapshot's time; raises `ValueError`."""
    return datetime.fromisoformat(at).timestamp()


def written_for_people(moment: str, zone: tzinfo | None = None) -> str:
    """A moment as it was asked for, or, where that was ISO 8601 of ours, as a day and a time."""
    shown = date_and_clock(moment, zone) if "+00:00" in moment else NONE
    return moment if shown == NONE else shown


def written(at: float) -> str:
    """Seconds since the epoch as ISO 8601 UTC to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
