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
from itertools import chain, compress
from operator import le, ne

from vllm_console.telemetry.metric import Kind, Metric, wire_names
from vllm_console.telemetry.names import METRICS
from vllm_console.telemetry.sample import Histogram, Sample

_NUMBER = rb"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[iI]nf|[nN]a[nN])"
_LABEL = rb'[a-zA-Z_]\w*[ \t]*=[ \t]*"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_LINE = re.compile(
    rb"[ \t]*([a-zA-Z_:][a-zA-Z0-9_:]*)"
    rb"(?:[ \t]*\{[ \t]*((?:" + _LABEL + rb"[ \t]*(?:,[ \t]*|(?=\})))*)\}[ \t]*|[ \t]+)"
    rb"(" + _NUMBER + rb")(?:[ \t]+-?\d+)?[ \t]*"
)
_LABELS = re.compile(rb'([a-zA-Z_]\w*)[ \t]*=[ \t]*"([^"\\]*+(?:\\.[^"\\]*+)*+)"')
_COMMENT = re.compile(rb"[ \t]*(?:#.*)?")
_ESCAPE = re.compile(r'\\[\\n"]')
_ESCAPED = {r"\\": "\\", r"\n": "\n", r"\"": '"'}
_PLAIN_NUMBER = b"0123456789.eE+-"
_HASH = ord("#")
_NONE = b"\n"
"""No line begins with this."""

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
    engine: str | None = None
    """The one engine it is of; `None` where it is of all."""

    def value(self, cells: list[float]) -> float:
        if len(self.cells) == 1:
            value = cells[self.cells[0]]
            if 0 <= value < math.inf:
                return value
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
        parts = [self._part(cells, start) for start in self.starts]
        if len(parts) == 1:
            return parts[0]
        counts = tuple(map(math.fsum, zip(*(part.counts for part in parts), strict=True)))
        return Histogram(self.bounds, counts, math.fsum(part.sum for part in parts))

    def _part(self, cells: list[float], start: int) -> Histogram:
        """One engine's histogram."""
        end = start + len(self.bounds) + 1
        row, total = tuple(cells[start:end]), cells[end]
        if not (row[0] >= 0 and row[-1] < math.inf and all(map(le, row, row[1:]))):
            raise ParseError(f"{self.wire} has buckets that do not add up")
        if not 0 <= total < math.inf:
            raise ParseError(f"{self.wire}_sum is {total:g} where a number is needed")
        return Histogram(self.bounds, row, total)


@dataclass(frozen=True, slots=True)
class _Stamped:
    """Series whose labels held at the time that is their value."""

    cells: tuple[int, ...]
    labels: tuple[dict[str, str], ...]

    def value(self, cells: list[float]) -> dict[str, str]:
        """The labels that hold now: the newest ones."""
        newest = max(range(len(self.cells)), key=lambda i: _stamp(cells[self.cells[i]]))
        return self.labels[newest]


class Parser:
    """Reads the texts of one worker, one after the other."""

    __slots__ = (
        "_cells",
        "_counters",
        "_engines",
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
        self._prefixes: list[bytes] = []
        """What stands before the number of each line; `_NONE` for comments and blank lines."""
        self._places: list[int] = []
        """The cell of each line; 0, which nobody reads, where its number is of no interest."""
        self._cells: list[float] = []
        self._groups: list[_Scalar | _Buckets | _Stamped] = []
        self._groups_of: list[tuple[int, ...]] = []
        """The groups that each cell is part of."""
        self._counters: dict[str, float] = {}
        self._gauges: dict[str, float] = {}
        self._histograms: dict[str, Histogram] = {}
        self._info: dict[str, str] = {}
        self._engines: dict[str, dict[str, float]] = {}

    def parse(self, body: bytes, at: float) -> Sample:
        """The sample in `body`, taken at `at` (seconds, monotonic).

        Several `engine` labels are summed, `kv_cache_usage` is averaged, `info` is that of the
        first engine; `engines` keeps apart what is worth it. A part that did not change since the
        last text is the same object as then. Raises `ParseError` for anything that is not the
        whole, consistent text of a vLLM.
        """
        lines = body.split(b"\n")
        try:
            if len(lines) != len(self._lines) or not self._update(lines):
                self._resolve(body, lines)
        except ParseError:
            self._forget()
            raise
        self._lines = lines
        return Sample(at, self._counters, self._gauges, self._histograms, self._info, self._engines)

    def _update(self, lines: list[bytes]) -> bool:
        """Takes over the numbers that changed; false when more than numbers changed."""
        changed = list(map(ne, lines, self._lines))
        prefixes = list(compress(self._prefixes, changed))
        if not prefixes:
            return True
        now = list(compress(lines, changed))
        if not all(map(bytes.startswith, now, prefixes)):
            return False
        texts = list(map(bytes.removeprefix, now, prefixes))
        different = set(texts)  # buckets above the largest value all count the same
        if b"".join(different).translate(None, _PLAIN_NUMBER):
            return False
        try:
            number = {text: float(text) for text in different}
        except ValueError:
            return False
        places = list(compress(self._places, changed))
        for place, text in zip(places, texts, strict=True):
            self._cells[place] = number[text]
        self._read(set(chain.from_iterable(map(self._groups_of.__getitem__, places))))
        return True

    def _resolve(self, body: bytes, lines: list[bytes]) -> None:
        """Reads the whole text anew."""
        found = self._scan(body, lines)
        self._places = [0] * len(lines)
        self._cells, self._groups, self._groups_of = [0.0], [], [()]
        self._counters, self._gauges, self._histograms = {}, {}, {}
        self._info, self._engines = {}, {}
        for metric in METRICS:
            series = found.get(metric.name)
            if series is None:
                continue
            if metric.kind is Kind.INFO:
                self._info = {k: v for k, v in series[0].labels.items() if k != "engine"}
                capacity = _capacity(series)
                if capacity is not None:
                    self._gauges["kv_cache_tokens"] = capacity
            elif metric.kind is Kind.STAMPED:
                self._place_stamped(series)
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
                self._prefixes.append(_NONE)
                continue
            match = _LINE.fullmatch(line)
            if match is None and _COMMENT.fullmatch(line):
                self._prefixes.append(_NONE)
                continue
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
        series = _distinct(series)
        by_name: dict[tuple[str, str | None], list[int]] = {}
        several = metric.by_engine and len({one.labels.get("engine", "") for one in series}) > 1
        for one in series:
            cell = self._cell(one)
            if metric.whole:
                by_name.setdefault((metric.name, None), []).append(cell)
            if metric.split is not None and metric.split in one.labels:
                name = f"{metric.name}:{one.labels[metric.split]}"
                by_name.setdefault((name, None), []).append(cell)
            if several:
                engine = one.labels.get("engine", "")
                by_name.setdefault((metric.name, engine), []).append(cell)
        for (name, of), cells in by_name.items():
            self._group(_Scalar(metric, name, series[0].wire, tuple(cells), of), cells)

    def _place_stamped(self, series: list[_Series]) -> None:
        cells = [self._cell(one) for one in _distinct(series)]
        self._group(_Stamped(tuple(cells), tuple(one.labels for one in series)), cells)

    def _cell(self, one: _Series) -> int:
        """A new cell for one line of the text."""
        cell = self._places[one.line] = len(self._cells)
        self._cells.append(one.value)
        self._groups_of.append(())
        return cell

    def _group(self, group: _Scalar | _Buckets | _Stamped, cells: Iterable[int]) -> None:
        for cell in cells:
            self._groups_of[cell] += (len(self._groups),)
        self._groups.append(group)

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
        starts: list[int] = []
        cells: list[int] = []
        for key, row in buckets.items():
            row.sort(key=lambda pair: pair[0])
            bounds = tuple(bound for bound, _ in row)
            if bounds[-1] != math.inf or len(set(bounds)) != len(bounds):
                raise ParseError(f"{wire} lacks its +Inf bucket or repeats a bound")
            if shared is not None and bounds != shared:
                raise ParseError(f"{wire} has other buckets for another engine")
            shared = bounds
            starts.append(len(self._cells))
            cells.extend(self._cell(one) for one in (*(one for _, one in row), sums[key]))
        if shared is not None:
            self._group(_Buckets(metric.name, wire, shared[:-1], tuple(starts)), cells)

    def _read(self, dirty: Iterable[int]) -> None:
        """Puts the groups whose cells changed into fresh dictionaries; samples keep theirs."""
        counters: dict[str, float] = {}
        gauges: dict[str, float] = {}
        histograms: dict[str, Histogram] = {}
        engines: dict[str, dict[str, float]] = {}
        for index in dirty:
            group = self._groups[index]
            if isinstance(group, _Buckets):
                histograms[group.name] = group.value(self._cells)
            elif isinstance(group, _Stamped):
                labels = group.value(self._cells)
                self._info = self._info | labels
                gauges |= _adapters(labels)
            elif group.engine is not None:
                engines.setdefault(group.engine, {})[group.name] = group.value(self._cells)
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
        if engines:
            told = {name: self._engines.get(name, {}) | new for name, new in engines.items()}
            self._engines = self._engines | told


def parse(body: bytes, at: float = 0.0) -> Sample:
    """The sample in one text that stands for itself; see `Parser.parse`."""
    return Parser().parse(body, at)


def _check_frame(body: bytes) -> None:
    if not body.strip():
        raise ParseError("empty answer")
    if body.lstrip()[:1] == b"<":
        raise ParseError(f"not Prometheus text: {_clip(body)}")
    if body.startswith(b"\x1f\x8b"):
        raise ParseError("not Prometheus text: compressed, which was not asked for")
    if not body.endswith(b"\n"):
        last = body.rsplit(b"\n", 1)[-1]
        raise ParseError(f"cut off: the last line has no end: {_clip(last)}")


def _distinct(series: list[_Series]) -> list[_Series]:
    """The series as given; raises `ParseError` where two have the same labels in other order."""
    keys = {(one.wire, frozenset(one.labels.items())) for one in series}
    if len(keys) != len(series):
        raise ParseError(f"{series[0].wire} repeats a series")
    return series


def _capacity(series: list[_Series]) -> float | None:
    """Tokens the KV caches of all engines hold; `None` where one of them does not say."""
    total = 0
    for one in series:
        tokens, blocks, size = (
            one.labels.get(label, "")
            for label in ("kv_cache_size_tokens", "num_gpu_blocks", "block_size")
        )
        if tokens.isdecimal():
            total += int(tokens)
        elif blocks.isdecimal() and size.isdecimal():
            total += int(blocks) * int(size)
        else:
            return None
    return float(total)


def _adapters(labels: dict[str, str]) -> dict[str, float]:
    """How many LoRA adapters run and wait."""
    counts = {}
    for name in ("running", "waiting"):
        adapters = labels.get(f"{name}_lora_adapters")
        if adapters is not None:
            counts[f"lora_{name}"] = float(len(adapters.split(",")) if adapters else 0)
    return counts


def _stamp(value: float) -> float:
    return -math.inf if math.isnan(value) else value


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
