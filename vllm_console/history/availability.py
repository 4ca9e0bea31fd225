"""How much of a span a model was there: its workers' states, as the events tell them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from vllm_console.answer import Figure
from vllm_console.history.happenings import UP, Happening
from vllm_console.workers.states import State

_STATES = UP | {state.value for state in State} | {"ended"}
_NOT_WANTED = (State.STOPPED.value, State.ASLEEP.value)
_UNSEEN = re.compile(r"(ended while no daemon ran|was gone when the daemon started)")
_REBOOTED = re.compile(r"the machine was rebooted, lost (.+)")


class Spell(NamedTuple):
    """The time of a worker in one state, in seconds since the epoch."""

    worker: str
    since: float
    until: float
    ready: bool
    wanted: bool


def spells(
    found: Iterable[Happening],
    workers: re.Pattern[str],
    until: float,
    last_seen: Callable[[str, float], float],
) -> list[Spell]:
    """The states that the workers that match have been in, up to a moment.

    Where nobody saw a worker end, it ended when it was last seen: `last_seen` says when that was,
    of a worker before a moment.
    """
    now: dict[str, tuple[float, bool, bool]] = {}
    told: list[Spell] = []

    def becomes(worker: str, at: float, ready: bool, wanted: bool, seen: bool) -> None:
        if worker in now:
            since, was_ready, was_wanted = now[worker]
            end = at if seen or not was_ready else min(at, max(since, last_seen(worker, at)))
            told.append(Spell(worker, since, end, was_ready, was_wanted))
            if end < at:
                told.append(Spell(worker, end, at, False, True))
        now[worker] = (at, ready, wanted)

    for happening in found:
        if workers.fullmatch(happening.subject) and happening.word in _STATES | {"was"}:
            if happening.word == "was" and not _UNSEEN.match(happening.text):
                continue
            becomes(
                happening.subject,
                happening.at,
                happening.word in UP,
                happening.word not in _NOT_WANTED,
                not _UNSEEN.match(happening.text),
            )
        elif lost := _REBOOTED.match(happening.text):
            for worker in lost.group(1).split(", "):
                if worker in now:
                    becomes(worker, happening.at, False, True, False)
    for worker, (since, ready, wanted) in now.items():
        told.append(Spell(worker, since, until, ready, wanted))
    return told


def availability(
    told: Sequence[Spell], since: float, until: float, known: tuple[float, float]
) -> Figure:
    """The share of a span in which at least one worker was ready, and of the workers wanted.

    `known` is from when to when events tell; the rest of the span is left out of the shares.
    """
    begin, end = max(since, known[0]), min(until, known[1])
    if begin >= end:
        return Figure({"available": None, "workers": None})
    clipped = [
        spell._replace(since=max(begin, spell.since), until=min(end, spell.until))
        for spell in told
        if spell.since < end and spell.until > begin
    ]
    ready = sorted((s.since, s.until) for s in clipped if s.ready)
    served, reached = 0.0, begin
    for first, last in ready:
        served += max(0.0, last - max(first, reached))
        reached = max(reached, last)
    wanted = sum(s.until - s.since for s in clipped if s.wanted)
    of_wanted = sum(last - first for first, last in ready) / wanted if wanted else None
    return Figure(
        {"available": served / (end - begin), "workers": of_wanted},
        coverage=(end - begin) / (until - since),
    )
