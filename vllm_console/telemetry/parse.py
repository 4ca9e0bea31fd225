"""Prometheus text of one worker to a `Sample`: a selective parser that resolves each line once.

The lines of a vLLM process keep their order for its whole life. The first text is resolved line by
line: which series, which place in our vocabulary. Of every later text only the lines whose bytes
changed are looked at, and of those only the number. Any other change (a new label set, a restart
into another version, garbage) resolves the whole text again, so a text always means the same,
whatever came before it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import compress
from operator import le, ne

from vllm_console.telemetry.names import METRICS, Kind, Metric, wire_names
from vllm_console.telemetry.sample import Histogram, Sample

_NUMBER = rb"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[iI]nf|[nN]a[nN])"
_LABEL = rb'[a-zA-Z_]\w*="[^"\\]*+(?:\\.[^"\\]*+)*+"'
_LINE = re.compile(
    rb"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:" + _LABEL + rb"(?:,[ \t]*|(?=\})))*)\})?[ \t]+"
    rb"(" + _NUMBER + rb")(?:[ \t]+-?\d+)?[ \t]*"
)
_LABELS = re.compile(rb'([a-zA-Z_]\w*)="([^"\\]*+(?:\\.[^"\\]*+)*+)"')
_ESCAPE = re.compile(r'\\[\\n"]')
_ESCAPED = {r"\\": "\\", r"\n": "\n", r"\"": '"'}
_PLAIN_NUMBER = b"0123456789.eE+-"
_HASH = ord("#")

_WIRE: dict[bytes, tuple[Metric, int]] = {
    name.encode(): (metric, rank)
    for metric in METRICS
    for rank, source in enumerate(metric.sources)
    for name in wire_names(metric, source)
}
"""Sample names that are read, with their metric and the rank of that source in it."""


class ParseError(Exception):
    """The text cannot be trusted. `str(error)` says why, in one line."""


@dataclass(frozen=True, slots=True)
class _Series:
    """One wanted line of the text."""

    wire: str
    labels: dict[str, str]
    line: int
    value: float


@dataclass(frozen=True, slots=True)
class _Scalar:
    """A counter or gauge, and the cells (one an engine) that it is made of."""

    metric: Metric
    name: str
    wire: str
    cells: tuple[int, ...]

    def value(self, cells: list[float]) -> float:
        values = [cells[i] for i in self.cells]
        for value in values:
            if not 0 <= value < math.inf:
                raise ParseError(f"{self.wire} is {value:g} where a count or ratio is needed")
        total = math.fsum(values)
        return total / len(values) if self.metric.averaged else total


@dataclass(frozen=True, slots=True)
class _Buckets:
    """A histogram, and where each engine's run of cells (buckets, then sum) begins."""

    name: str
    wire: str
    bounds: tuple[float, ...]
    starts: tuple[int, ...]

    def value(self, cells: list[float]) -> Histogram:
        size = len(self.bounds) + 1
        rows = [cells[start : start + size] for start in self.starts]
        for row in rows:
            if not (row[0] >= 0 and row[-1] < math.inf and all(map(le, row, row[1:]))):
                raise ParseError(f"{self.wire} has buckets that do not add up")
        sums = [cells[start + size] for start in self.starts]
        for value in sums:
            if not 0 <= value < math.inf:
                raise ParseError(f"{self.wire}_sum is {value:g} where a number is needed")
        if len(rows) == 1:
            return Histogram(self.bounds, tuple(rows[0]), sums[0])
        counts = tuple(map(math.fsum, zip(*rows, strict=True)))
        return Histogram(self.bounds, counts, math.fsum(sums))


class Parser:
    """Reads the texts of one worker, one after the other."""

    __slots__ = (
        "_cells",
        "_counters",
        "_gauges",
        "_groups",
        "_groups_of",
        "_histograms",
        "_info",
        "_lines",
        "_places",
        "_prefixes",
    )

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._lines: list[bytes] = []
        self._prefixes: list[bytes | None] = []
        """What stands before the number of each line; `None` for comments and blank lines."""
        self._places: list[int] = []
        """The cell of each line, -1 where its number is of no interest."""
        self._cells: list[float] = []
        self._groups: list[_Scalar | _Buckets] = []
        self._groups_of: list[tuple[int, ...]] = []
        """The groups that each cell is part of."""
        self._counters: dict[str, float] = {}
        self._gauges: dict[str, float] = {}
        self._histograms: dict[str, Histogram] = {}
        self._info: dict[str, str] = {}

    def parse(self, body: bytes, at: float) -> Sample:
        """The sample in `body`, taken at `at` (seconds, monotonic).

        Several `engine` labels are summed, `kv_cache_usage` is averaged, `info` is that of the
        first engine. A part that did not change since the last text is the same object as then.
        Raises `ParseError` for anything that is not the whole, consistent text of a vLLM.
        """
        lines = body.split(b"\n")
        try:
            if len(lines) != len(self._lines) or not self._update(lines):
                self._resolve(body, lines)
        except ParseError:
            self._forget()
            raise
        self._lines = lines
        return Sample(at, self._counters, self._gauges, self._histograms, self._info)

    def _update(self, lines: list[bytes]) -> bool:
        """Takes over the numbers that changed; false when more than numbers changed."""
        changed = list(compress(range(len(lines)), map(ne, lines, self._lines)))
        if not changed:
            return True
        texts = []
        for i in changed:
            prefix, line = self._prefixes[i], lines[i]
            if prefix is None or not line.startswith(prefix):
                return False
            texts.append(line[len(prefix) :])
        if b"".join(texts).translate(None, _PLAIN_NUMBER):
            return False
        try:
            numbers = list(map(float, texts))
        except ValueError:
            return False
        dirty: set[int] = set()
        for i, number in zip(changed, numbers, strict=True):
            place = self._places[i]
            if place >= 0:
                self._cells[place] = number
                dirty.update(self._groups_of[place])
        self._read(dirty)
        return True

    def _resolve(self, body: bytes, lines: list[bytes]) -> None:
        """Reads the whole text anew."""
        found = self._scan(body, lines)
        self._places = [-1] * len(lines)
        self._cells, self._groups, self._groups_of, self._info = [], [], [], {}
        self._counters, self._gauges, self._histograms = {}, {}, {}
        for metric in METRICS:
            series = found.get(metric.name)
            if series is None:
                continue
            if metric.kind is Kind.INFO:
                self._info = {k: v for k, v in series[0].labels.items() if k != "engine"}
            elif metric.kind is Kind.HISTOGRAM:
                self._place_histogram(metric, series)
            else:
                self._place_scalar(metric, series)
        self._read(range(len(self._groups)))

    def _scan(self, body: bytes, lines: list[bytes]) -> dict[str, list[_Series]]:
        """The wanted series of the text by metric name, and every line's prefix."""
        _check_frame(body)
        self._prefixes = []
        seen: set[tuple[bytes, bytes | None]] = set()
        found: dict[tuple[str, int], list[_Series]] = {}
        vllm = False
        for i, line in enumerate(lines):
            if not line or line[0] == _HASH:
                self._prefixes.append(None)
                continue
            match = _LINE.fullmatch(line)
            if match is None:
                raise ParseError(f"line {i + 1} is not Prometheus text: {_clip(line)}")
            name, labels, number = match.groups()
            if (name, labels) in seen:
                raise ParseError(f"line {i + 1} repeats a series: {_clip(line)}")
            seen.add((name, labels))
            self._prefixes.append(line[: match.start(3)])
            vllm = vllm or name.startswith(b"vllm:")
            if name in _WIRE:
                metric, rank = _WIRE[name]
                series = _Series(name.decode(), _read_labels(labels, line), i, float(number))
                found.setdefault((metric.name, rank), []).append(series)
        if not vllm:
            raise ParseError(f"no vLLM metric among {len(seen)} series")
        newest: dict[str, list[_Series]] = {}
        for (metric_name, _), all_series in sorted(found.items(), key=lambda item: item[0]):
            newest.setdefault(metric_name, all_series)
        return newest

    def _place_scalar(self, metric: Metric, series: list[_Series]) -> None:
        by_name: dict[str, list[int]] = {metric.name: []}
        for one in _distinct(series):
            self._places[one.line] = len(self._cells)
            by_name[metric.name].append(len(self._cells))
            if metric.split is not None and metric.split in one.labels:
                name = f"{metric.name}:{one.labels[metric.split]}"
                by_name.setdefault(name, []).append(len(self._cells))
            self._cells.append(one.value)
            self._groups_of.append(())
        for name, cells in by_name.items():
            for cell in cells:
                self._groups_of[cell] += (len(self._groups),)
            self._groups.append(_Scalar(metric, name, series[0].wire, tuple(cells)))

    def _place_histogram(self, metric: Metric, series: list[_Series]) -> None:
        wire = series[0].wire.removesuffix("_bucket").removesuffix("_sum")
        buckets: dict[frozenset[tuple[str, str]], list[tuple[float, _Series]]] = {}
        sums: dict[frozenset[tuple[str, str]], _Series] = {}
        for one in _distinct(series):
            labels = dict(one.labels)
            if one.wire.endswith("_bucket"):
                bound = _bound(labels.pop("le", ""), wire)
                buckets.setdefault(frozenset(labels.items()), []).append((bound, one))
            else:
                sums[frozenset(labels.items())] = one
        if buckets.keys() != sums.keys():
            raise ParseError(f"{wire} lacks its buckets or its sum")
        shared: tuple[float, ...] | None = None
        starts = []
        for key, row in buckets.items():
            row.sort(key=lambda pair: pair[0])
            bounds = tuple(bound for bound, _ in row)
            if bounds[-1] != math.inf or len(set(bounds)) != len(bounds):
                raise ParseError(f"{wire} lacks its +Inf bucket or repeats a bound")
            if shared is not None and bounds != shared:
                raise ParseError(f"{wire} has other buckets for another engine")
            shared = bounds
            starts.append(len(self._cells))
            for one in (*(one for _, one in row), sums[key]):
                self._places[one.line] = len(self._cells)
                self._cells.append(one.value)
                self._groups_of.append((len(self._groups),))
        if shared is not None:
            self._groups.append(_Buckets(metric.name, wire, shared[:-1], tuple(starts)))

    def _read(self, dirty: Iterable[int]) -> None:
        """Puts the groups whose cells changed into fresh dictionaries; samples keep theirs."""
        counters, gauges, histograms = {}, {}, {}
        for index in dirty:
            group = self._groups[index]
            if isinstance(group, _Buckets):
                histograms[group.name] = group.value(self._cells)
            elif group.metric.kind is Kind.COUNTER:
                counters[group.name] = group.value(self._cells)
            else:
                gauges[group.name] = group.value(self._cells)
        if counters:
            self._counters = self._counters | counters
        if gauges:
            self._gauges = self._gauges | gauges
        if histograms:
            self._histograms = self._histograms | histograms


def parse(body: bytes, at: float = 0.0) -> Sample:
    """The sample in one text that stands for itself; see `Parser.parse`."""
    return Parser().parse(body, at)


def _check_frame(body: bytes) -> None:
    if not body.strip():
        raise ParseError("empty answer")
    if body.lstrip()[:1] == b"<":
        raise ParseError(f"not Prometheus text: {_clip(body)}")
    if not body.endswith(b"\n"):
        last = body.rsplit(b"\n", 1)[-1]
        raise ParseError(f"cut off: the last line has no end: {_clip(last)}")


def _distinct(series: list[_Series]) -> list[_Series]:
    """The series as given; raises `ParseError` where two have the same labels in other order."""
    keys = {(one.wire, frozenset(one.labels.items())) for one in series}
    if len(keys) != len(series):
        raise ParseError(f"{series[0].wire} repeats a series")
    return series


def _read_labels(raw: bytes | None, line: bytes) -> dict[str, str]:
    pairs = _LABELS.findall(raw or b"")
    try:
        labels = {
            name.decode(): _ESCAPE.sub(lambda m: _ESCAPED[m[0]], value.decode())
            for name, value in pairs
        }
    except UnicodeDecodeError:
        raise ParseError(f"a label is not UTF-8: {_clip(line)}") from None
    if len(labels) != len(pairs):
        raise ParseError(f"a label stands twice: {_clip(line)}")
    return labels


def _bound(text: str, wire: str) -> float:
    try:
        bound = float(text)
    except ValueError:
        bound = math.nan
    if math.isnan(bound):
        raise ParseError(f"{wire} has a bucket with the bound {text[:20]!r}")
    return bound


def _clip(text: bytes) -> str:
    """The start of `text`, quoted, on one line."""
    short = text.strip()[:40].decode(errors="replace")
    return repr(short + ("…" if len(text.strip()) > 40 else ""))
