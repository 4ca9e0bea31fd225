"""Which revision each model serves by what has been told, so that another one is told too.

An apply says which revision serves. A fleet that comes up with an older fleet.toml, or a restart
that takes up what was written meanwhile, says so here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from math import inf

from vllm_console.control.served import ServedModel
from vllm_console.history.database import Database
from vllm_console.history.happenings import Happening, reigns, served_by
from vllm_console.history.records import Revision, read_events_like, read_revisions
from vllm_console.history.when import iso, seconds_of
from vllm_console.snapshot import Event

_OF_A_REVISION = ("*revision [0-9]*",)


class Reigning:
    """The revision of each model that the record has as serving. Lives in one event loop."""

    def __init__(self, tell: Callable[[str, str, str], None]) -> None:
        """`tell` records an event: its level, its subject, its text."""
        self._tell = tell
        self._serves: dict[str, int] = {}

    def recall(self, database: Database, now: float) -> None:
        """Read what earlier daemons recorded by `now`, in seconds since the epoch; may block."""
        try:
            with database.reading() as connection:
                events = read_events_like(connection, iso(now), _OF_A_REVISION)
                self._serves = _newest(read_revisions(connection), events, now)
        except (OSError, sqlite3.Error, ValueError):
            return  # no file yet, or one that cannot be read: nothing is known to be otherwise

    def heard(self, subject: str, text: str) -> None:
        """Hear of an event."""
        if (number := served_by(text)) is not None:
            self._serves[subject] = number

    def look(self, model: ServedModel) -> None:
        """Tell which revision serves, where all workers that do are of another than was told."""
        found = {w.spec.revision for w in model.own if w.serves and w.spec is not None}
        if len(found) != 1:
            return
        (number,) = found
        if number and number != self._serves.setdefault(model.name, number):
            self._tell("info", model.name, f"revision {number} serves")


def _newest(
    revisions: Mapping[str, Sequence[Revision]], events: Sequence[Event], now: float
) -> dict[str, int]:
    told: dict[str, list[Happening]] = {}
    for event in events:
        try:
            at = seconds_of(event.at)
        except ValueError:
            continue  # taken in from an older version's file, where it was no time either
        happening = Happening(at, event.level, event.subject, event.text)
        told.setdefault(event.subject, []).append(happening)
    spans = {
        model: reigns(told.get(model, ()), kept, model, now, inf)
        for model, kept in revisions.items()
    }
    return {model: found[-1].revision for model, found in spans.items() if found}
