"""One subject's stored line: reset-corrected rows in every tier, those not yet packed in memory."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from operator import add
from typing import NamedTuple

from vllm_console.history.codec import ABSENT, encode
from vllm_console.history.layout import Buckets, Layout, Quantiser, added
from vllm_console.history.tiers import CLOSE_MS, TIERS
from vllm_console.telemetry.grid import widened
from vllm_console.telemetry.names import MARKS
from vllm_console.telemetry.sample import Sample, engines_changed, restarted


class Row(NamedTuple):
    """One moment of one subject: milliseconds since the epoch, whole numbers by a layout."""

    at: int
    numbers: array[int]
    layout: Layout


class Tail(NamedTuple):
    """The newest rows of a tier, in order: those being packed now, and those that wait for it."""

    packing: list[Row]
    waiting: list[Row]


@dataclass(slots=True)
class Slot:
    """What has come so far of the step of a tier that is not over: the last row speaks, of a gauge
    its mean and its peak."""

    number: int
    last: Row
    count: int = 0
    sums: list[int] = field(default_factory=list)
    known: list[int] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)


class Packed(NamedTuple):
    """A chunk that is to be stored."""

    line: int
    tier: int
    layout: Layout
    at: int
    """Milliseconds since the epoch of its first row."""
    rows: int
    blob: bytes


class Entry(NamedTuple):
    """A row that is to be journalled until it is packed."""

    line: Line
    tier: int
    row: Row


@dataclass(frozen=True, slots=True)
class Origin:
    """What makes a subject's counts go on: which process counts, and what is added to its counts.

    `offsets` are by the columns of the layout; empty for none.
    """

    marks: Mapping[str, float] = field(default_factory=dict)
    offsets: tuple[int, ...] = ()

    def to_json(self) -> str:
        """As it is stored."""
        return json.dumps({"marks": dict(self.marks), "offsets": self.offsets})

    @classmethod
    def from_json(cls, text: str) -> Origin:
        """What `to_json` made."""
        plain = json.loads(text)
        return cls(plain["marks"], tuple(plain["offsets"]))


class Line:
    """The rows of one subject, for as long as the clock does not turn back.

    `take` makes a row of each sample, `seal` packs what waits. Of a worker and the gateway, which
    outlive a daemon, the counts go on when the same process is seen again; any other subject counts
    from zero in each daemon, on top of what was stored last.
    """

    def __init__(self, number: int, subject: str, layout: Layout, born: int) -> None:
        self.number = number
        self.subject = subject
        self.layout = layout
        self.born = born
        """Milliseconds since the epoch of its first row."""
        self.origin = Origin()
        self._of_process = subject.startswith(("worker/", "gateway"))
        self.last: Row | None = None
        """The newest row, also when it is packed; from the file when nothing came yet."""
        self.tails = [Tail([], []) for _ in TIERS]
        self.slots: list[Slot | None] = [None] * len(TIERS)
        self._raw: Sample | None = None
        self._counted: array[int] | None = None
        """The newest row with what it lacks as it was known last."""
        self._quantiser = Quantiser(layout)

    @property
    def counted(self) -> array[int] | None:
        """The newest number of each column that there was; `None` before the first row."""
        if self._counted is None and self.last is not None:
            return self.last.numbers[: self.layout.width]
        return self._counted

    def reborn(self, number: int, born: int) -> Line:
        """The line that goes on where this one ends, at a time that this one has had already."""
        line = Line(number, self.subject, self.layout, born)
        line.origin, line._raw, line._counted = self.origin, self._raw, self.counted
        line.last = self.last
        return line

    def change_layout(self, layout: Layout) -> list[Packed]:
        """Go on with other columns; what waits is packed with the old ones."""
        packed = self.seal_all()
        old, self.layout = self.layout, layout
        self._quantiser = Quantiser(layout)
        if self.last is not None:
            self._counted = moved(self.counted or self.last.numbers, old, layout)
            self.last = Row(self.last.at, moved(self.last.numbers, old, layout), layout)
        if self.origin.offsets:
            offsets = moved(array("q", self.origin.offsets), old, layout, 0)
            self.origin = Origin(self.origin.marks, tuple(offsets))
        return packed

    def take(self, sample: Sample, at: int) -> list[Entry]:
        """The rows that this sample makes, one in the finest tier and those that it completes.

        `at` is later than that of any row before; the layout has all that the sample has.
        """
        row = self._quantiser.row(sample)
        self._go_on(sample, row)
        if self.origin.offsets:
            row = added(row, self.origin.offsets)
        last, counted = self.last, self.counted
        row[0] = 0 if last is None else last.numbers[0]
        if last is not None and 0 < at - last.at <= CLOSE_MS:
            row[0] += at - last.at
        self._raw = sample
        self._counted = row if counted is None else _filled(row, counted)
        self.last = Row(at, row, self.layout)
        return list(self._journal(0, self.last))

    def growth(self, before: array[int]) -> dict[object, list[int]]:
        """By how much each count has grown since it stood there, by name, or name and bounds."""
        if self.last is None:
            return {}
        growth: dict[object, list[int]] = {}
        for part, where in self.layout.index.items():
            pairs = list(zip(before[where], self.last.numbers[where], strict=True))
            grown = [0 if ABSENT in pair else pair[1] - pair[0] for pair in pairs]
            if where.start and any(grown):
                growth[_common(part)] = grown
        return growth

    def grow(self, growth: Mapping[object, Iterable[int]]) -> None:
        """Count also what others counted while nobody looked (`growth`, of theirs)."""
        more = [0] * self.layout.width
        for part, where in self.layout.index.items():
            if _common(part) in growth:
                more[where] = growth[_common(part)]
        if not any(more):
            return
        if self.last is not None:
            self._counted = added(self.counted or self.last.numbers, more)
        offsets = self.origin.offsets or (0,) * len(more)
        self.origin = Origin(self.origin.marks, tuple(map(add, offsets, more)))

    def seal_all(self) -> list[Packed]:
        """Pack all rows of all tiers, those of steps still under way among them."""
        packed = []
        for tier in range(len(TIERS)):
            self.finish(tier)
            packed += self.seal(tier)
        return packed

    def seal(self, tier: int) -> list[Packed]:
        """Pack the rows of a tier that wait."""
        tail = self.tails[tier]
        if not tail.waiting:
            return []
        self.tails[tier] = Tail([*tail.packing, *tail.waiting], [])
        return [pack(self.number, tier, tail.waiting)]

    def finish(self, tier: int) -> list[Entry]:
        """The row of the step under way in a tier, as nothing more comes of it."""
        slot = self.slots[tier]
        if slot is None:
            return []
        self.slots[tier] = None
        return list(self._journal(tier, self._stepped(slot)))

    def packed(self) -> None:
        """What was being packed is in the file."""
        for tier, tail in enumerate(self.tails):
            if tail.packing:
                self.tails[tier] = Tail([], tail.waiting)

    def restore(self, tier: int, row: Row) -> None:
        """Put back a journalled row that is not packed, in order of time."""
        self.tails[tier].waiting.append(row)

    def resume(self, tier: int, row: Row) -> None:
        """Count a row of the tier below towards the step that is under way."""
        self._fill(tier, row)

    def _journal(self, tier: int, row: Row) -> Iterable[Entry]:
        self.tails[tier].waiting.append(row)
        yield Entry(self, tier, row)
        if tier + 1 < len(TIERS):
            full = self._fill(tier + 1, row)
            if full is not None:
                yield from self._journal(tier + 1, full)

    def _fill(self, tier: int, row: Row) -> Row | None:
        """Count a row towards its step; returns that of the step before when it begins one."""
        number = (row.at - 1) // TIERS[tier].step_ms
        slot, full = self.slots[tier], None
        if slot is not None and slot.number != number:
            full = self._stepped(slot)
            slot = None
        gauges = row.numbers[self.layout.gauges_at]
        peaks = row.numbers[self.layout.width :] or gauges
        if slot is None:
            known = [int(value != ABSENT) for value in gauges]
            sums = [value if there else 0 for value, there in zip(gauges, known, strict=True)]
            self.slots[tier] = Slot(number, row, 1, sums, known, peaks.tolist())
            return full
        slot.last = row
        slot.count += 1
        for column, value in enumerate(gauges):
            if value != ABSENT:
                slot.sums[column] += value
                slot.known[column] += 1
                slot.peaks[column] = max(slot.peaks[column], peaks[column])
        return full

    def _stepped(self, slot: Slot) -> Row:
        numbers = slot.last.numbers[: self.layout.width]
        where = self.layout.gauges_at
        pairs = zip(slot.sums, slot.known, strict=True)
        numbers[where] = array("q", (round(s / n) if n else ABSENT for s, n in pairs))
        numbers.extend(slot.peaks)
        return Row(slot.last.at, numbers, self.layout)

    def _go_on(self, sample: Sample, row: array[int]) -> None:
        """Choose what is added to the counts of this sample."""
        marks = {name: sample.gauges[name] for name in MARKS if name in sample.gauges}
        raw, last = self._raw, self.counted
        if last is None:
            if marks != self.origin.marks:
                self.origin = Origin(marks, self.origin.offsets)
            return
        if raw is not None:
            if not self._of_process:
                return  # totals do not fall
            if restarted(raw, sample):
                self._add_up(last, marks)
            elif engines_changed(raw, sample):
                self._add_up(_less(last, row), marks)
            elif marks != self.origin.marks:
                self.origin = Origin(marks, self.origin.offsets)
        elif not self._same_process(marks, row, last):
            self._add_up(last, marks)

    def _same_process(self, marks: dict[str, float], row: array[int], last: array[int]) -> bool:
        if not self._of_process:
            return False
        if any(marks.get(name, mark) != mark for name, mark in self.origin.marks.items()):
            return False
        now = added(row, self.origin.offsets) if self.origin.offsets else row
        counts = [i for part in self.layout.index.values() for i in range(part.start, part.stop)]
        return all(now[i] >= last[i] or now[i] == ABSENT for i in counts if i)

    def _add_up(self, numbers: array[int], marks: Mapping[str, float]) -> None:
        """Add these from now on, where they are counts."""
        old = self.origin.offsets or (0,) * self.layout.width
        offsets = [o if n == ABSENT else n for n, o in zip(numbers, old, strict=False)]
        offsets[0] = 0
        where = self.layout.gauges_at
        offsets[where] = [0] * (where.stop - where.start)
        self.origin = Origin(marks, tuple(offsets))


def pack(number: int, tier: int, rows: list[Row]) -> Packed:
    """A chunk of rows of one layout, in order of time."""
    layout = rows[0].layout
    width = len(rows[0].numbers)
    flat = array("q")
    for row in rows:
        flat.extend(row.numbers)
    columns = [flat[column::width] for column in range(width)]
    times = array("q", (row.at for row in rows))
    sections = [[times], *(columns[where] for where in layout.slices)]
    return Packed(number, tier, layout, rows[0].at, len(rows), encode(sections))


def _common(part: object) -> object:
    """The name of a part of a layout that it has in other lines, too."""
    return (part.name, part.bounds) if isinstance(part, Buckets) else part


def _filled(row: array[int], before: array[int]) -> array[int]:
    """A row, and what was known before where it lacks a number."""
    if ABSENT not in row:
        return row
    pairs = zip(row, before, strict=True)
    return array("q", (old if value == ABSENT else value for value, old in pairs))


def _less(numbers: array[int], row: array[int]) -> array[int]:
    pairs = zip(numbers, row, strict=False)
    return array("q", (ABSENT if ABSENT in (a, b) else a - b for a, b in pairs))


def moved(numbers: array[int], old: Layout, new: Layout, empty: int = ABSENT) -> array[int]:
    """Numbers by one layout as another has them; a histogram begins anew that does not go on."""
    found = array("q", (empty,)) * new.width
    for part, where in old.index.items():
        if part in new.index:
            found[new.index[part]] = numbers[where]
        elif isinstance(part, Buckets):
            for buckets in new.histograms:
                if buckets.continues(part):
                    found[new.index[buckets]] = _spread(numbers[where], part, buckets, empty)
    names = [name for name, _ in new.gauges]
    for column, (name, _) in enumerate(old.gauges):
        there = new.gauges_at.start + names.index(name)
        found[there] = numbers[old.gauges_at.start + column]
    return found


def _spread(numbers: array[int], old: Buckets, new: Buckets, empty: int) -> array[int]:
    """A histogram's numbers by its wider bounds."""
    counts = widened(list(accumulate(numbers[:-1])), old.bounds, new.bounds)
    if ABSENT in numbers or counts is None:
        return array("q", (empty,)) * new.width
    each = [counts[0], *(above - below for below, above in pairwise(counts))]
    return array("q", (*map(int, each), numbers[-1]))
