"""What the events of a fleet explain about its numbers: marks, and when which revision served."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vllm_console.answer import Mark
from vllm_console.history.records import Revision
from vllm_console.history.schema import version_of
from vllm_console.history.when import iso, seconds_of
from vllm_console.workers.states import State

MARKS_MAX = 500
"""Marks of one answer; of more the newest."""
_SERVES = re.compile(r"revision (\d+) serves$")
_FAILED = re.compile(r"revision (\d+) did not become ready")
_TRIED = re.compile(r"canary: revision (\d+) starts")
_AT_ONCE_S = 5.0
"""A canary's revision that is new is written down just before its start is told."""
_FIRST_WORD = re.compile(r"[a-z-]+")
UP = frozenset({State.READY.value, State.STALLED.value, "adopted"})
"""First words of the events of a worker that takes requests from then on."""


class Happening(NamedTuple):
    """One event; `at` is in seconds since the epoch."""

    at: float
    level: str
    subject: str
    text: str

    @property
    def word(self) -> str:
        """What its text begins with: of a worker, mostly its new state."""
        found = _FIRST_WORD.match(self.text)
        return found.group() if found else ""


class Reign(NamedTuple):
    """The time in which a revision served, in seconds since the epoch."""

    revision: int
    since: float
    until: float


def happenings(connection: sqlite3.Connection, until: float, since: float = 0.0) -> list[Happening]:
    """Every event of a span, oldest first; its ends, in seconds since the epoch, belong to it."""
    if version_of(connection) == 0:
        return []
    found = []
    for at, level, subject, text in connection.execute(
        "SELECT at, level, subject, text FROM events WHERE at >= ? AND at <= ? ORDER BY seq",
        (iso(since), iso(until)),
    ):
        try:
            found.append(Happening(seconds_of(at), level, subject, text))
        except ValueError:
            continue  # taken in from an older version's file, where it was no time either
    return found


def served_by(text: str) -> int | None:
    """The revision that an event of this text says serves from then on."""
    found = _SERVES.search(text)
    return int(found.group(1)) if found else None


def marks(
    found: Iterable[Happening], concerned: re.Pattern[str], since: float, until: float
) -> list[Mark]:
    """What started, stopped, changed or broke in a span, of the subjects that match.

    That a daemon came or went concerns every subject.
    """
    told = []
    for happening in found:
        kind = _kind(happening) if since <= happening.at <= until else None
        if kind == "daemon" or (kind is not None and concerned.fullmatch(happening.subject)):
            told.append(Mark(iso(happening.at), kind, *happening[1:]))
    return told


def reigns(
    found: Iterable[Happening],
    revisions: Sequence[Revision],
    model: str,
    since: float,
    until: float,
) -> list[Reign]:
    """Which revision of a model served when, in a span.

    A revision serves from the event that says so, or, where none does, from when it was first seen;
    one that was first seen as a canary, from such an event alone.
    """
    served: list[tuple[float, int]] = []
    told: set[int] = set()
    seen = {revision.number: seconds_of(revision.at) for revision in revisions}
    for happening in found:
        if happening.subject == model:
            if (tried := _TRIED.match(happening.text)) and (number := int(tried.group(1))) in seen:
                told.update({number} if happening.at - seen[number] < _AT_ONCE_S else ())
            told.update(int(number) for number in _FAILED.findall(happening.text))
            if (serves := served_by(happening.text)) is not None:
                told.add(serves)
                served.append((happening.at, serves))
    served += [(seconds_of(r.at), r.number) for r in revisions if r.number not in told]
    if (first := min(revisions, key=lambda r: r.number, default=None)) and first.number in told:
        served.append((seconds_of(first.at), first.number))
    served.sort()
    ends = [*(at for at, _ in served[1:]), until][: len(served)]
    spans = [
        Reign(number, max(since, at), min(until, end))
        for (at, number), end in zip(served, ends, strict=True)
    ]
    return [reign for reign in spans if reign.since < reign.until]


def _kind(happening: Happening) -> str | None:
    """Which kind of mark an event is; `None` for one that explains no number."""
    if happening.subject in ("fleet", "daemon", "history"):
        notable = happening.level in ("warn", "crit") or happening.word in ("daemon", "down")
        return "daemon" if notable else None
    if served_by(happening.text) is not None:
        return "revision"
    if happening.level in ("warn", "crit"):
        return "fault"
    return "start" if happening.word in UP else "stop" if happening.word == "stopped" else None
