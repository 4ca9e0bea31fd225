"""Questions to the stored past: any window of any subject, charts, and what gauges were."""

from __future__ import annotations

import sqlite3
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vllm_console.history import chunks
from vllm_console.history.chunks import Found
from vllm_console.history.codec import ABSENT, Chunk
from vllm_console.history.ingest import Ingest
from vllm_console.history.layout import OBSERVED, Layout, to_sample
from vllm_console.history.line import Line, Row
from vllm_console.history.tiers import DAY_S, TIERS
from vllm_console.telemetry.sample import Sample
from vllm_console.telemetry.window import Window

CACHE_BYTES = 16 << 20
"""Opened chunks kept at most, by the memory that they take."""
_DAY_MS = DAY_S * 1000


class Gauge(NamedTuple):
    """What a gauge was over a span, in its own unit."""

    mean: float
    max: float


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one row lies: in memory, or in an opened chunk."""

    at: int
    tier: int
    layout: Layout
    source: Row | Chunk
    index: int = 0
    many: bool = False

    def read(self, part: int) -> Sequence[int]:
        """The numbers of one of the layout's slices."""
        if isinstance(self.source, Row):
            return self.source.numbers[self.layout.slices[part]]
        section = self.source.section(part + 1)
        return section.one_of_many(self.index) if self.many else section.row(self.index)


def covered(window: Window, since: float, until: float) -> float:
    """The share, 0..1, of a span in which a window's subject was observed."""
    seconds = window.delta(OBSERVED) or 0.0
    return min(1.0, seconds / (until - since)) if until > since else 0.0


class Reader:
    """Answers out of the file and, for what is not packed yet, out of memory. For one thread.

    Times are seconds since the epoch. Raises `sqlite3.Error` or `NotAChunk` where the file cannot
    be read.
    """

    def __init__(
        self, ingest: Ingest, connection: sqlite3.Connection, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.connection = connection
        self._ingest = ingest
        self._cache = _Cache(cache_bytes)

    def subjects(self) -> list[str]:
        """All there is something of: "worker/ID", "model/NAME", "fleet", "gpu/UUID", …"""
        return sorted(self._ingest.lives)

    def begin(self) -> float | None:
        """When the oldest subject was first seen; `None` when nothing was recorded."""
        born = [lives[0].born for lives in self._ingest.lives.values() if lives]
        return min(born) / 1e3 if born else None

    def end(self, before: float) -> float | None:
        """When the newest sample before a moment was taken; `None` when there is none."""
        places = (self._before(subject, _ms(before)) for subject in self._ingest.lives)
        return max((place.at / 1e3 for place in places if place is not None), default=None)

    def names(self) -> set[str]:
        """Every counter, gauge and histogram that any subject ever had."""
        layouts = list(self._ingest.layout_of.values())
        scalars = {name for each in layouts for name, _ in (*each.counters, *each.gauges)}
        return scalars | {name for each in layouts for name in each.histograms_at}

    def samples(
        self, subject: str, since: float, until: float, step: float = 1.0
    ) -> Iterator[Sample]:
        """The rows of a span in order, of each `step` seconds the last; `at` is the epoch's.

        Of gauges a row of a coarser tier has the mean. What is not looked at is not unpacked.
        """
        tier, last = _tier(_ms(step), 0), None
        for begin in range(_ms(since), _ms(until), _DAY_MS):
            for place in self._places(subject, tier, begin, min(begin + _DAY_MS, _ms(until)) - 1):
                if place.at < begin:
                    continue
                if last is not None and (last.at - 1) // _ms(step) != (place.at - 1) // _ms(step):
                    yield to_sample(last.at / 1e3, last.layout, last.read)
                last = place
        if last is not None:
            yield to_sample(last.at / 1e3, last.layout, last.read)

    def window(self, subject: str, since: float, until: float) -> Window | None:
        """What happened in a span, as well as the finest rows that are left can tell.

        It begins with the newest row at `since`, or, where nothing was observed then, with the
        first after it. `None` when there are not two rows. `covered` tells how much of the span
        was observed.
        """
        new = self._before(subject, _ms(until))
        if new is None or new.at <= _ms(since):
            return None
        return _window(self._start(subject, _ms(since), self._before(subject, _ms(since))), new)

    def steps(
        self,
        subject: str,
        since: float,
        until: float,
        step: float,
        span: float | None = None,
        *,
        exact: bool = False,
    ) -> list[Window | None]:
        """A window for each `step` seconds of a span; `None` where nothing was observed.

        With `span` each is that of so many seconds up to the end of its step. Where steps end
        between coarse rows those are near enough for a chart; `exact` takes finer ones.
        """
        size = max(1, round((until - since) / step))
        ends = [_ms(since + step * (index + 1)) for index in range(size)]
        starts = [end - _ms(step if span is None else span) for end in ends]
        tier = _tier(_ms(step), starts[0], exact=exact)
        places = self._places(subject, tier, starts[0], ends[-1])
        times = [place.at for place in places]

        def before(at: int) -> _Place | None:
            index = bisect_right(times, at)
            return places[index - 1] if index else None

        windows: list[Window | None] = []
        made: dict[int, tuple[_Place, Sample]] = {}
        for start, end in zip(starts, ends, strict=True):
            old, new = before(start), before(end)
            if new is not None and new.at > start:
                old = self._start(subject, start, old)
            windows.append(_window(old, new, made))
        return windows

    def gauges(
        self, subject: str, name: str, since: float, until: float, step: float
    ) -> list[Gauge | None]:
        """Mean and largest value of a gauge in each `step` seconds of a span."""
        size = max(1, round((until - since) / step))
        begin, width = _ms(since), _ms(step)
        tier = _tier(width if size > 1 else width // 40, begin)
        total, weight = [0.0] * size, [0] * size
        peak: list[float] = [0.0] * size
        for place in self._places(subject, tier, begin, begin + width * size):
            index = (place.at - begin - 1) // width
            if not 0 <= index < size:
                continue
            mean, most = _gauge(place, name)
            if mean is None or most is None:
                continue
            share = max(1000, TIERS[place.tier].step_ms)
            peak[index] = max(peak[index], most) if weight[index] else most
            total[index] += mean * share
            weight[index] += share
        return [Gauge(t / w, p) if w else None for t, w, p in zip(total, weight, peak, strict=True)]

    # -- rows ------------------------------------------------------------------------------

    def _start(self, subject: str, since: int, old: _Place | None) -> _Place | None:
        if old is None or since - old.at > TIERS[old.tier].close_ms:
            return self._after(subject, since)
        return old

    def _before(self, subject: str, at: int) -> _Place | None:
        """The newest row at or before a moment."""
        for line in reversed(self._ingest.lives.get(subject, ())):
            if line.born <= at:
                for tier in range(len(TIERS)):
                    place = self._newest(line, tier, at)
                    if place is not None:
                        return place
        return None

    def _newest(self, line: Line, tier: int, at: int) -> _Place | None:
        """The newest row of one tier at or before a moment."""
        tail = line.tails[tier]
        rows = [*tail.packing, *tail.waiting] if tail.packing else tail.waiting
        index = bisect_right(rows, at, key=_at)
        if index:
            return _waiting(tier, rows[index - 1])
        while (found := chunks.find_chunk(self.connection, tier, line.number, at)) is not None:
            chunk = self._cache.opened(found)
            times = chunk.section(0).column(0)
            index = bisect_right(times, at)
            if index:
                return _Place(times[index - 1], tier, self._layout(found), chunk, index - 1)
            at = times[0] - 64  # a key is true to 64 ms
        return None

    def _after(self, subject: str, at: int) -> _Place | None:
        """The oldest row after a moment."""
        lives = self._ingest.lives.get(subject, ())
        first = max((i for i, line in enumerate(lives) if line.born <= at), default=0)
        for line in lives[first:]:
            found = [p for t in range(len(TIERS)) if (p := self._oldest(line, t, at)) is not None]
            if found:
                return min(found, key=lambda place: (place.at, place.tier))
        return None

    def _oldest(self, line: Line, tier: int, at: int) -> _Place | None:
        """The oldest row of one tier after a moment."""
        for find in (chunks.find_chunk, chunks.next_chunk):
            found = find(self.connection, tier, line.number, at)
            if found is not None:
                chunk = self._cache.opened(found)
                times = chunk.section(0).column(0)
                index = bisect_right(times, at)
                if index < len(times):
                    return _Place(times[index], tier, self._layout(found), chunk, index)
        tail = line.tails[tier]
        rows = [*tail.packing, *tail.waiting]
        index = bisect_right(rows, at, key=_at)
        return _waiting(tier, rows[index]) if index < len(rows) else None

    def _places(self, subject: str, tier: int, since: int, until: int) -> list[_Place]:
        """The rows of a span and the one before it, in order.

        They are of one tier; what that has not yet, of finer ones; what it has no more, of coarser.
        """
        lives = self._ingest.lives.get(subject, ())
        before = self._before(subject, since - 1)
        places = [] if before is None else [before]
        for index, line in enumerate(lives):
            begin = max(since, line.born)
            end = until if index + 1 == len(lives) else min(until, lives[index + 1].born - 1)
            if begin > end:
                continue
            rows = self._rows(line, tier, begin, end)
            for finer in range(tier - 1, -1, -1):
                rows += self._rows(line, finer, rows[-1].at + 1 if rows else begin, end)
            for coarser in range(tier + 1, len(TIERS)):
                first = rows[0].at if rows else end + 1
                if first - begin > TIERS[coarser - 1].close_ms:
                    rows = [*self._rows(line, coarser, begin, first - 1), *rows]
            places += rows
        return places

    def _rows(self, line: Line, tier: int, since: int, until: int) -> list[_Place]:
        """The rows of one tier of a line in a span."""
        tail = line.tails[tier]
        waiting = [*tail.packing, *tail.waiting]
        found: list[_Place] = []
        if until < since:
            return found
        if not waiting or since < waiting[0].at:
            for stored in chunks.chunks_between(self.connection, tier, line.number, since, until):
                chunk, layout = self._cache.opened(stored), self._layout(stored)
                times = chunk.section(0).column(0)
                rows = range(bisect_left(times, since), bisect_right(times, until))
                found += [_Place(times[i], tier, layout, chunk, i, many=True) for i in rows]
        newest = found[-1].at + 1 if found else since
        first = bisect_left(waiting, newest, key=_at)
        last = bisect_right(waiting, until, key=_at)
        return found + [_waiting(tier, row) for row in waiting[first:last]]

    def _layout(self, found: Found) -> Layout:
        layout = self._ingest.layout_of.get(found[1])
        if layout is None:  # it came after this reader's knowledge was taken
            query = "SELECT columns FROM layout WHERE id = ?"
            text = self.connection.execute(query, (found[1],)).fetchone()[0]
            layout = Layout.from_json(text)
        return layout


class _Cache:
    """Opened chunks, those asked for last."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[int, tuple[Chunk, int]] = OrderedDict()

    def opened(self, found: Found) -> Chunk:
        """The chunk of a row of the file."""
        number, _, blob = found
        chunk, counted = self._kept.pop(number, (None, 0))
        if chunk is None or chunk.blob != blob:
            chunk = Chunk(blob)
        size = chunk.size
        self._kept[number] = (chunk, size)
        self._bytes += size - counted
        while self._bytes > self._most and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1][1]
        return chunk


def _waiting(tier: int, row: Row) -> _Place:
    return _Place(row.at, tier, row.layout, row)


def _window(
    old: _Place | None, new: _Place | None, made: dict[int, tuple[_Place, Sample]] | None = None
) -> Window | None:
    """`made` are the samples of places that are there already: a step begins where one ends."""
    if old is None or new is None or old.at >= new.at:
        return None
    if made is None or old.layout is not new.layout:
        begin = to_sample(old.at / 1e3, old.layout, old.read, like=new.layout)
        return Window(begin, to_sample(new.at / 1e3, new.layout, new.read))
    for place in (old, new):
        if id(place) not in made:
            made[id(place)] = place, to_sample(place.at / 1e3, place.layout, place.read)
    return Window(made[id(old)][1], made[id(new)][1])


def _gauge(place: _Place, name: str) -> tuple[float | None, float | None]:
    layout = place.layout
    for column, (known, scale) in enumerate(layout.gauges):
        if known == name:
            mean = _number(place, 1, column)
            peak = mean if place.tier == 0 else _number(place, len(layout.slices) - 1, column)
            if mean == ABSENT or peak == ABSENT:
                break
            return mean / scale, peak / scale
    return None, None


def _number(place: _Place, part: int, column: int) -> int:
    if isinstance(place.source, Row):
        return place.source.numbers[place.layout.slices[part]][column]
    return place.source.section(part + 1).column(column)[place.index]


def _tier(step: int, begin: int, *, exact: bool = False) -> int:
    """The coarsest tier that has a row wherever a step ends, or is far finer than the steps."""
    return max(
        tier
        for tier, kept in enumerate(TIERS)
        if step % kept.step_ms == begin % kept.step_ms == 0
        or (kept.step_ms * 6 <= step and not exact)
    )


def _at(row: Row) -> int:
    return row.at


def _ms(seconds: float) -> int:
    return round(seconds * 1e3)
