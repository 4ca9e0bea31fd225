"""Whole samples of one subject in time order, packed into arrays and thinned with age."""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

from vllm_console.telemetry.sample import Histogram, Sample


@dataclass(frozen=True, slots=True)
class Shape:
    """Which number stands where in a packed sample."""

    counters: tuple[str, ...]
    gauges: tuple[str, ...]
    histograms: tuple[tuple[str, tuple[float, ...]], ...]

    @classmethod
    def of(cls, sample: Sample) -> Shape:
        """The shape that `sample` packs into."""
        histograms = tuple((name, h.bounds) for name, h in sample.histograms.items())
        return cls(tuple(sample.counters), tuple(sample.gauges), histograms)

    def unpack(self, at: float, numbers: array[float], info: Mapping[str, str]) -> Sample:
        """The sample that `pack` made `numbers` of."""
        here = len(self.counters)
        counters = dict(zip(self.counters, numbers, strict=False))
        gauges = dict(zip(self.gauges, numbers[here : here + len(self.gauges)], strict=True))
        here += len(self.gauges)
        histograms = {}
        for name, bounds in self.histograms:
            end = here + len(bounds) + 1
            histograms[name] = Histogram(bounds, tuple(numbers[here:end]), numbers[end])
            here = end + 1
        return Sample(at, counters, gauges, histograms, info)


def pack(sample: Sample) -> array[float]:
    """All numbers of a sample in one array, in the order of its shape."""
    values = sample.histograms.values()
    return array(
        "d",
        chain(
            sample.counters.values(),
            sample.gauges.values(),
            chain.from_iterable((*h.counts, h.sum) for h in values),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Row:
    shape: Shape
    info: Mapping[str, str]
    numbers: array[float] | bytes
    """Compressed, once a row has left the first tier."""


class _Tier:
    """Rows up to a certain age, at least a certain time apart."""

    __slots__ = ("apart_s", "ats", "keep_s", "rows")

    def __init__(self, keep_s: float, apart_s: float) -> None:
        self.keep_s = keep_s
        self.apart_s = apart_s
        self.ats: list[float] = []
        self.rows: list[_Row] = []


class Rows:
    """The samples of one subject: all of the first tier's age, fewer of those older.

    `tiers` are (age up to which rows stay, seconds between two rows), youngest tier first.
    """

    def __init__(self, tiers: tuple[tuple[float, float], ...]) -> None:
        self._tiers = [_Tier(keep_s, apart_s) for keep_s, apart_s in tiers]
        self._shape: Shape | None = None

    def add(self, sample: Sample) -> None:
        """Appends a sample that is younger than all others."""
        shape = Shape.of(sample)
        if shape == self._shape:
            shape = self._shape
        self._shape = shape
        young = self._tiers[0]
        young.ats.append(sample.at)
        young.rows.append(_Row(shape, sample.info, pack(sample)))
        for tier, older in zip(self._tiers, (*self._tiers[1:], None), strict=True):
            gone = bisect_right(tier.ats, sample.at - tier.keep_s)
            if not gone:
                break
            if older is not None:
                for at, row in zip(tier.ats[:gone], tier.rows[:gone], strict=True):
                    if not older.ats or at - older.ats[-1] >= older.apart_s:
                        older.ats.append(at)
                        older.rows.append(_compressed(row))
            del tier.ats[:gone], tier.rows[:gone]

    def before(self, at: float) -> Sample | None:
        """The newest sample not younger than `at`."""
        for tier in self._tiers:
            index = bisect_right(tier.ats, at)
            if index:
                return _sample(tier, index - 1)
        return None

    def after(self, at: float) -> Sample | None:
        """The oldest sample younger than `at`."""
        for tier in reversed(self._tiers):
            index = bisect_right(tier.ats, at)
            if index < len(tier.ats):
                return _sample(tier, index)
        return None


def _compressed(row: _Row) -> _Row:
    if isinstance(row.numbers, bytes):
        return row
    return _Row(row.shape, row.info, zlib.compress(row.numbers.tobytes(), 1))


def _sample(tier: _Tier, index: int) -> Sample:
    row = tier.rows[index]
    numbers = row.numbers
    if isinstance(numbers, bytes):
        packed = numbers
        numbers = array("d")
        numbers.frombytes(zlib.decompress(packed))
    return row.shape.unpack(tier.ats[index], numbers, row.info)
