"""From one tick's samples to what is written: rows journalled, chunks packed, old ones dropped."""

from __future__ import annotations

import logging
import sqlite3
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from vllm_console.history import chunks
from vllm_console.history.chunks import Statement
from vllm_console.history.codec import NotAChunk
from vllm_console.history.layout import Layout
from vllm_console.history.line import Entry, Line, Origin, Packed, Row, moved
from vllm_console.history.tiers import TIERS
from vllm_console.telemetry.sample import Sample

_JUMP_S = 60.0
_QUIET_MS = 60_000
"""A subject silent for this long, and twice the step of a tier, gives up the step under way."""
_DISTRUST_S = 3600.0
"""How long nothing is dropped after the wall clock jumped ahead: it may jump back."""

_log = logging.getLogger(__name__)


class Taken(NamedTuple):
    """One sample of a subject; `joins` are the totals that did not count what is new in it.

    One that is `opening` is for a subject of which nothing is known, and is dropped for any other.
    """

    subject: str
    sample: Sample
    joins: tuple[str, ...] = ()
    opening: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """All samples since the tick before."""

    at: float
    """Seconds, the clock of the samples."""
    wall: float
    """Seconds since the epoch, at the same moment."""
    samples: Sequence[Taken]


@dataclass(slots=True)
class Work:
    """What is to be written in one transaction."""

    statements: list[Statement] = field(default_factory=list)
    lines: set[Line] = field(default_factory=set)
    """Lines with chunks among it."""

    def done(self) -> None:
        """It is written."""
        for line in self.lines:
            line.packed()


class Ingest:
    """Every subject's line. For the writer's thread; readers may look at `lines` meanwhile."""

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}
        """The line of each subject that samples go to."""
        self.lives: dict[str, tuple[Line, ...]] = {}
        """All lines of each subject, oldest first: each time the clock turns back there is a new
        one. Only the last one has rows in memory."""
        self.layouts: dict[Layout, int] = {}
        self.layout_of: dict[int, Layout] = {}
        self._line_count = 0
        self._heads = 0
        self._now = 0.0
        self._journal: list[deque[tuple[int, float]]] = [deque() for _ in TIERS]
        """By tier the number of each journal entry, and when it was written."""
        self._second: int | None = None
        self._sweep = 0
        self._ahead: float | None = None
        self._trusted_at = float("-inf")
        self._saved: dict[int, tuple[Origin, Layout]] = {}

    # -- from the file ------------------------------------------------------------------------

    def load(self, connection: sqlite3.Connection, at: float) -> None:
        """Take up what the file has; rows that are journalled and not packed go on waiting."""
        for number, text in connection.execute("SELECT id, columns FROM layout"):
            self._know(number, Layout.from_json(text))
        by_number = {}
        query = "SELECT id, subject, born, layout, origin FROM line ORDER BY id"
        for number, subject, born, layout, origin in connection.execute(query):
            line = Line(number, subject, self.layout_of[layout], born)
            line.origin = Origin.from_json(origin)
            self._add(line)
            self._saved[number] = (line.origin, line.layout)
            by_number[number] = line
            self._line_count = max(self._line_count, number)
        self._resume(connection, by_number, at)

    def _resume(
        self, connection: sqlite3.Connection, by_number: dict[int, Line], at: float
    ) -> None:
        rows: dict[tuple[int, int], list[Row]] = {}
        for k, blob in connection.execute("SELECT k, rows FROM head ORDER BY k"):
            tier, number = k >> 56, k & (1 << 56) - 1
            self._heads = max(self._heads, number)
            self._journal[tier].append((number, at))
            try:
                journalled = chunks.from_head(blob)
            except NotAChunk as error:
                _log.error("an entry of the journal is lost", exc_info=error)
                continue
            for stored in journalled:
                layout = self.layout_of[stored.layout]
                if by_number[stored.line].layout is layout:  # rows of an older one are packed
                    row = Row(stored.at, stored.numbers, layout)
                    rows.setdefault((stored.line, tier), []).append(row)
        for number in {line for line, _ in rows}:
            self._restore(connection, by_number[number], rows)

    def _restore(
        self, connection: sqlite3.Connection, line: Line, rows: dict[tuple[int, int], list[Row]]
    ) -> None:
        for tier in range(len(TIERS)):
            newest = chunks.last_at(connection, tier, line.number)
            for row in rows.get((line.number, tier), ()):
                if row.at > newest:
                    line.restore(tier, row)
                    newest = row.at
            if tier:
                for row in rows.get((line.number, tier - 1), ()):
                    if row.at > newest:
                        line.resume(tier, row)
        self._remember(connection, line)

    def _remember(self, connection: sqlite3.Connection, line: Line) -> None:
        """Find the newest row of a line, the finest tier first."""
        for tier in range(len(TIERS)):
            if line.last is not None:
                return
            if line.tails[tier].waiting:
                at, numbers, layout = line.tails[tier].waiting[-1]
            elif (packed := chunks.last_row(connection, tier, line.number)) is not None:
                at, numbers, layout = packed.at, packed.numbers, self.layout_of[packed.layout]
            else:
                continue
            line.last = Row(at, moved(numbers, layout, line.layout), line.layout)

    def seed(self, connection: sqlite3.Connection) -> None:
        """Give a file that was begun anew all that is known and not packed."""
        for layout, number in self.layouts.items():
            connection.execute(*chunks.put_layout(number, layout))
        for lives in self.lives.values():
            for line in lives:
                connection.execute(*self._put_line(line))
        for tier in range(len(TIERS)):
            waiting = [
                Entry(line, tier, row)
                for line in self.lines.values()
                for row in line.tails[tier].waiting
            ]
            if waiting:
                connection.execute(*self._journalled(tier, waiting))

    # -- ticks -------------------------------------------------------------------------------

    def take(self, tick: Tick, connection: sqlite3.Connection) -> Work:
        """Make rows of a tick's samples; what comes of it is known to readers at once."""
        work = Work()
        ahead = tick.wall - tick.at
        if self._ahead is not None and ahead - self._ahead > _JUMP_S:
            self._trusted_at = tick.at + _DISTRUST_S
        self._ahead, self._now = ahead, tick.at
        entries: list[Entry] = []
        for taken in tick.samples:
            at = round((taken.sample.at + ahead) * 1e3)
            entries += self._sampled(taken, at, connection, work)
        entries += self._seal_due(tick, work)
        for tier in range(len(TIERS)):
            due = [entry for entry in entries if entry.tier == tier]
            if due:
                work.statements.append(self._journalled(tier, due))
        self._drop_old(tick, work)
        return work

    def _sampled(
        self, taken: Taken, at: int, connection: sqlite3.Connection, work: Work
    ) -> list[Entry]:
        subject, sample, joins, opening = taken
        line = self.lines.get(subject)
        if opening and line is not None:
            return []
        if line is None:
            line = self._new(subject, Layout().with_names_of(sample), at)
        elif line.last is None:
            self._remember(connection, line)
        if line.last is not None and at <= line.last.at:
            if at == line.last.at:
                return []
            self._packed(line, line.seal_all(), work)
            self._line_count += 1
            line = line.reborn(self._line_count, at)
            self._add(line)
        layout = line.layout.with_names_of(sample)
        if layout is not line.layout:
            known = self.layout_of.get(self.layouts.get(layout, -1), layout)
            self._packed(line, line.change_layout(known), work)
        if line.layout not in self.layouts:
            number = max(self.layout_of, default=0) + 1
            self._know(number, line.layout)
            work.statements.append(chunks.put_layout(number, line.layout))
        before = line.counted
        entries = line.take(sample, at)
        if joins and before is not None:
            growth = line.growth(before)
            for parent in joins:
                self._grow(parent, growth, connection, work)
        self._save(line, work)
        return entries

    def _grow(
        self,
        subject: str,
        growth: dict[object, list[int]],
        connection: sqlite3.Connection,
        work: Work,
    ) -> None:
        line = self.lines.get(subject)
        if line is not None and growth:
            self._remember(connection, line)
            line.grow(growth)
            self._save(line, work)

    def _seal_due(self, tick: Tick, work: Work) -> list[Entry]:
        """Pack what has waited its time; each second some of the lines have their turn."""
        now, second = round(tick.wall * 1e3), int(tick.at)
        every = TIERS[0].period_ms // 1000
        before = second - 1 if self._second is None else self._second
        turns = {s % every for s in range(max(before + 1, second - every + 1), second + 1)}
        self._second = second
        finished: list[Entry] = []
        for line in self.lines.values():
            if line.number % every not in turns:
                continue
            for tier, kept in enumerate(TIERS):
                slot = line.slots[tier]
                if slot is not None and now - slot.last.at > 2 * kept.step_ms + _QUIET_MS:
                    finished += line.finish(tier)
                waiting = line.tails[tier].waiting
                if waiting and (not tier or now - waiting[0].at >= kept.period_ms):
                    self._packed(line, line.seal(tier), work)
        return finished

    def _drop_old(self, tick: Tick, work: Work) -> None:
        for tier, journal in enumerate(self._journal):
            upto = None
            old = tick.at - TIERS[tier].period_ms / 1e3 - 2 * TIERS[0].period_ms / 1e3
            while journal and journal[0][1] < old:
                upto = journal.popleft()[0]
            if upto is not None:
                work.statements.append(chunks.drop_heads(tier, upto))
        if tick.at < self._trusted_at or not self._line_count:
            return
        self._sweep = self._sweep % self._line_count + 1
        for tier, kept in enumerate(TIERS):
            if kept.keep_s is not None:
                before = round((tick.wall - kept.keep_s) * 1e3) - kept.period_ms
                work.statements.append(chunks.drop_chunks(tier, self._sweep, before))

    # -- the books ---------------------------------------------------------------------------

    def _new(self, subject: str, layout: Layout, at: int) -> Line:
        self._line_count += 1
        known = self.layout_of.get(self.layouts.get(layout, -1), layout)
        line = Line(self._line_count, subject, known, at)
        self._add(line)
        return line

    def _add(self, line: Line) -> None:
        self.lives[line.subject] = (*self.lives.get(line.subject, ()), line)
        self.lines[line.subject] = line

    def _know(self, number: int, layout: Layout) -> None:
        self.layouts[layout] = number
        self.layout_of[number] = layout

    def _journalled(self, tier: int, entries: Sequence[Entry]) -> Statement:
        self._heads += 1
        self._journal[tier].append((self._heads, self._now))
        return chunks.put_head(tier, self._heads, chunks.to_head(entries, self.layouts))

    def _packed(self, line: Line, packed: Iterable[Packed], work: Work) -> None:
        for p in packed:
            work.lines.add(line)
            layout = self.layouts[p.layout]
            work.statements.append(chunks.put_chunk(p.tier, p.line, p.at, layout, p.blob))

    def _save(self, line: Line, work: Work) -> None:
        if self._saved.get(line.number) != (now := (line.origin, line.layout)):
            self._saved[line.number] = now
            work.statements.append(self._put_line(line))

    def _put_line(self, line: Line) -> Statement:
        layout, origin = self.layouts[line.layout], line.origin.to_json()
        return chunks.put_line(line.number, line.subject, line.born, layout, origin)
