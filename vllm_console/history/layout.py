"""Which whole number of a stored row means what: samples to rows and rows to samples."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from operator import add, sub
from typing import Any

from vllm_console.history.codec import ABSENT
from vllm_console.telemetry.grid import joined, widened
from vllm_console.telemetry.names import MARKS, METRICS, Kind
from vllm_console.telemetry.sample import Histogram, Sample

OBSERVED = "observed_s"
"""A counter of ours in every subject: seconds between samples that follow each other closely."""
_LARGEST = (1 << 62) - 1
_KNOWN = {metric.name: metric for metric in METRICS}
_UNITS = {"s": 1e6, "ratio": 1e6, "FLOP": 1e-9, "": 1e3}
_SUFFIXES = {"_s": 1e6, "_w": 10.0, "_c": 10.0, "utilization": 1e6, "_usage": 1e6}


def scale_of(name: str) -> float:
    """How many stored units one unit of a metric is: µs, millionths, 0.1 W, tokens, …

    A gauge of whole things is stored in hundredths, for its means.
    """
    if name == OBSERVED:
        return 1e3
    metric = _KNOWN.get(name.partition(":")[0])
    if metric is None:
        return next((s for end, s in _SUFFIXES.items() if name.endswith(end)), 1.0)
    if metric.unit == "bytes" and metric.kind is Kind.COUNTER:
        return 1e-6
    return _UNITS.get(metric.unit, 100.0 if metric.kind is Kind.GAUGE else 1.0)


@dataclass(frozen=True, slots=True)
class Buckets:
    """One histogram of a layout; `era` grows when a subject's bounds change, counts begin anew.

    Bounds of the grid go on as wider ones in the same era: what came in between them was empty.
    """

    name: str
    bounds: tuple[float, ...]
    scale: float
    era: int = 0

    @property
    def width(self) -> int:
        """Columns it takes: its buckets, +Inf among them, and its sum."""
        return len(self.bounds) + 2

    def continues(self, before: Buckets) -> bool:
        """Whether counts by `before` go on in these."""
        return self == before or (
            (self.name, self.scale, self.era) == (before.name, before.scale, before.era)
            and joined(before.bounds, self.bounds) == self.bounds
        )


@dataclass(frozen=True)
class Layout:
    """The columns of a row: counters, gauges, histograms; a row may end in a peak a gauge.

    Buckets are stored each for itself, not cumulative over bounds as on the wire.
    """

    counters: tuple[tuple[str, float], ...] = ((OBSERVED, 1e3),)
    gauges: tuple[tuple[str, float], ...] = ()
    histograms: tuple[Buckets, ...] = ()

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.counters, self.gauges, self.histograms))

    @cached_property
    def gauges_at(self) -> slice:
        """Where in a row the gauges stand."""
        return slice(len(self.counters), len(self.counters) + len(self.gauges))

    @cached_property
    def width(self) -> int:
        """Columns of a row without peaks."""
        scalars = len(self.counters) + len(self.gauges)
        return scalars + sum(buckets.width for buckets in self.histograms)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Where in a row each section of a chunk stands: counters, gauges, histograms, peaks."""
        starts = [0, len(self.counters), self.gauges_at.stop]
        starts = [*starts[:2], *accumulate((b.width for b in self.histograms), initial=starts[2])]
        ends = [*starts[1:], self.width + len(self.gauges)]
        return tuple(map(slice, starts, ends))

    @cached_property
    def histograms_at(self) -> dict[str, tuple[Buckets, int]]:
        """Each histogram by name, and which of `slices` is its."""
        return {b.name: (b, index) for index, b in enumerate(self.histograms, start=2)}

    @cached_property
    def index(self) -> dict[object, slice]:
        """Where in a row each cumulative part stands: by counter name, by `Buckets`."""
        found: dict[object, slice] = {
            name: slice(column, column + 1) for column, (name, _) in enumerate(self.counters)
        }
        found.update(zip(self.histograms, self.slices[2:], strict=False))
        return found

    def with_names_of(self, sample: Sample) -> Layout:
        """This layout, or one that has all it has and what is new in `sample`."""
        known = self._known
        fresh_counters = sample.counters.keys() - known[0]
        fresh_gauges = sample.gauges.keys() - known[1]
        histograms = self._histograms(sample)
        if not (fresh_counters or fresh_gauges or histograms):
            return self
        counters = [(name, scale_of(name)) for name in sorted(fresh_counters)]
        gauges = [(name, scale_of(name)) for name in sorted(fresh_gauges)]
        return Layout(
            (*self.counters, *counters), (*self.gauges, *gauges), histograms or self.histograms
        )

    @cached_property
    def _known(self) -> tuple[frozenset[str], frozenset[str]]:
        gauges = {name for name, _ in self.gauges} | MARKS
        return frozenset(name for name, _ in self.counters), frozenset(gauges)

    def _histograms(self, sample: Sample) -> tuple[Buckets, ...] | None:
        """The histograms with which a sample's fit; `None` when those there are do."""
        found, changed = [], False
        for buckets in self.histograms:
            now = sample.histograms.get(buckets.name)
            if now is None or now.bounds == buckets.bounds:
                found.append(buckets)
            elif (both := joined(buckets.bounds, now.bounds)) is not None:
                changed = changed or both != buckets.bounds
                found.append(replace(buckets, bounds=both))
            else:
                changed = True
                found.append(Buckets(buckets.name, now.bounds, buckets.scale, buckets.era + 1))
        known = {buckets.name for buckets in found}
        for name in sorted(sample.histograms.keys() - known):
            changed = True
            found.append(Buckets(name, sample.histograms[name].bounds, scale_of(name)))
        return tuple(found) if changed else None

    def to_json(self) -> str:
        """As it is stored."""
        histograms = [[b.name, b.era, b.scale, b.bounds] for b in self.histograms]
        plain = {"counters": self.counters, "gauges": self.gauges, "histograms": histograms}
        return json.dumps(plain, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """What `to_json` made."""
        plain: dict[str, list[Any]] = json.loads(text)
        return cls(
            tuple((str(n), float(s)) for n, s in plain["counters"]),
            tuple((str(n), float(s)) for n, s in plain["gauges"]),
            tuple(Buckets(n, tuple(b), s, e) for n, e, s, b in plain["histograms"]),
        )


class Quantiser:
    """Turns the samples of one subject into rows; what did not change is not worked out again."""

    __slots__ = ("_last", "layout")

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._last: dict[str, tuple[Histogram, array[int]]] = {}

    def row(self, sample: Sample) -> array[int]:
        """The sample as whole numbers by the layout, `ABSENT` for what it lacks."""
        row = array("q")
        counters, gauges = sample.counters, sample.gauges
        row.extend([_whole(counters.get(name), scale) for name, scale in self.layout.counters])
        row.extend([_whole(gauges.get(name), scale) for name, scale in self.layout.gauges])
        for buckets in self.layout.histograms:
            row.extend(self._buckets(buckets, sample.histograms.get(buckets.name)))
        return row

    def _buckets(self, buckets: Buckets, histogram: Histogram | None) -> array[int]:
        if histogram is None:
            return array("q", (ABSENT,)) * buckets.width
        last = self._last.get(buckets.name)
        if last is not None and last[0] is histogram:
            return last[1]
        known = widened(histogram.counts, histogram.bounds, buckets.bounds)
        if known is None:
            return array("q", (ABSENT,)) * buckets.width
        counts = list(map(int, known))
        row = array("q", counts[:1])
        row.extend(map(sub, counts[1:], counts))
        row.append(_whole(histogram.sum, buckets.scale))
        self._last[buckets.name] = (histogram, row)
        return row


def added(row: array[int], offsets: Sequence[int]) -> array[int]:
    """A row with offsets added where it has a number."""
    if ABSENT in row:
        pairs = zip(row, offsets, strict=True)
        return array("q", (v if v == ABSENT else v + offset for v, offset in pairs))
    return array("q", map(add, row, offsets))


def to_sample(
    at: float,
    layout: Layout,
    read: Callable[[int], Sequence[int]],
    like: Layout | None = None,
) -> Sample:
    """A sample of one row; `at` is in seconds.

    `read` gives the numbers of one of `Layout.slices` and is asked for those that are used. With
    `like` the histograms are left out that do not count on from or to those of that layout.
    """
    where = layout.histograms_at
    if like is not None and like is not layout:
        on = {buckets.name: buckets for buckets in like.histograms}
        where = {n: (b, i) for n, (b, i) in where.items() if n in on and on[n].continues(b)}
    return Sample(
        at,
        Numbers(layout.counters, lambda: read(0)),
        Numbers(layout.gauges, lambda: read(1)),
        Histograms(where, read),
    )


class Numbers(Mapping[str, float]):
    """Counters or gauges by name, read when one of them is asked for."""

    __slots__ = ("_columns", "_found", "_read")

    def __init__(
        self, columns: Sequence[tuple[str, float]], read: Callable[[], Sequence[int]]
    ) -> None:
        self._columns = columns
        self._read = read
        self._found: dict[str, float] | None = None

    def _numbers(self) -> dict[str, float]:
        if self._found is None:
            pairs = zip(self._columns, self._read(), strict=True)
            self._found = {name: v / scale for (name, scale), v in pairs if v != ABSENT}
        return self._found

    def __getitem__(self, name: str) -> float:
        return self._numbers()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers())

    def __len__(self) -> int:
        return len(self._numbers())


class Histograms(Mapping[str, Histogram]):
    """Histograms by name, each read when it is asked for; one that was not there is absent."""

    __slots__ = ("_found", "_read", "_where")

    def __init__(
        self, where: Mapping[str, tuple[Buckets, int]], read: Callable[[int], Sequence[int]]
    ) -> None:
        self._where = where
        self._read = read
        self._found: dict[str, Histogram | None] = {}

    def __getitem__(self, name: str) -> Histogram:
        if name not in self._found:
            buckets, section = self._where[name]
            self._found[name] = _histogram(buckets, self._read(section))
        found = self._found[name]
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._where if name in self)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _histogram(buckets: Buckets, numbers: Sequence[int]) -> Histogram | None:
    *counts, total = numbers
    if counts[0] == ABSENT:
        return None
    return Histogram(buckets.bounds, tuple(accumulate(map(float, counts))), total / buckets.scale)


def _whole(value: float | None, scale: float) -> int:
    if value is None or not math.isfinite(value):
        return ABSENT
    return max(-_LARGEST, min(_LARGEST, round(value * scale)))
