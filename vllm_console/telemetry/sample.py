"""What one scrape of one worker gave, and how samples of several workers add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vllm_console.telemetry.names import AVERAGED, COUNTING_SINCE, MARKS, PROCESS_START


@dataclass(frozen=True, slots=True)
class Histogram:
    """A cumulative Prometheus histogram.

    `bounds` are the finite upper bounds in ascending order; `counts` has one entry more (the
    +Inf bucket) and is cumulative over buckets, as on the wire.
    """

    bounds: tuple[float, ...]
    counts: tuple[float, ...]
    sum: float

    @property
    def count(self) -> float:
        """Observations in total."""
        return self.counts[-1]


@dataclass(frozen=True, slots=True)
class Sample:
    """One successful scrape: cumulative counters, gauges and histograms by our names.

    Names are those of `vllm_console.telemetry.names`. A name that this vLLM does not export is
    absent, never zero.
    """

    at: float
    """Seconds, monotonic clock of the scraping process."""
    counters: Mapping[str, float] = field(default_factory=dict)
    gauges: Mapping[str, float] = field(default_factory=dict)
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    info: Mapping[str, str] = field(default_factory=dict)
    """Labels of vllm:cache_config_info, and those of vllm:lora_requests_info that hold now."""
    engines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Of several data parallel engines, by their label, what is of interest of each (`by_engine`
    in the vocabulary); empty where there is one, for then the sample is that engine's."""


@dataclass(frozen=True, slots=True)
class Miss:
    """One scrape that gave no sample: a gap, never a zero."""

    at: float
    reason: str
    """One line: "timed out after 0.8 s", "HTTP 500", "not Prometheus text: '<html>'", …"""


def restarted(old: Sample, new: Sample) -> bool:
    """Whether another process answered: a mark of its start differs, or something counted fell.

    One series that fell is enough to call all of them reset, since they live in one process. With
    other engines than before a sum may fall without any restart; then only the start time tells.
    """
    if _differs(old, new, PROCESS_START):
        return True
    if engines_changed(old, new):
        return False
    if _differs(old, new, COUNTING_SINCE):
        return True
    was = old.counters
    if any(was.get(name, 0.0) > value for name, value in new.counters.items()):
        return True
    for name, histogram in new.histograms.items():
        before = old.histograms.get(name)
        if before is None or before is histogram or before.bounds != histogram.bounds:
            continue  # totals of workers whose bounds differ may turn to those of others
        if before.count > histogram.count:
            return True
    return False


def engines_changed(old: Sample, new: Sample) -> bool:
    """Whether data parallel engines came or went: their sums then jump, and mean no growth."""
    return old.engines is not new.engines and old.engines.keys() != new.engines.keys()


def _differs(old: Sample, new: Sample, mark: str) -> bool:
    was, now = old.gauges.get(mark), new.gauges.get(mark)
    return was is not None and now is not None and was != now


def merge(samples: Iterable[Sample]) -> Sample | None:
    """One sample of several workers: counters, gauges and equal-bound histograms add up.

    `kv_cache_usage` is averaged. Of histograms of one name whose bounds differ, those with the
    bounds that most workers share (the first such on a tie) are merged and the rest left out.
    Marks of one process (`MARKS`) and engines are left out; info labels remain where all agree;
    `at` is the newest. One sample is its own merge; `None` for none at all.
    """
    parts = list(samples)
    if len(parts) < 2:
        return parts[0] if parts else None
    info = dict(parts[0].info)
    for part in parts[1:]:
        info = {k: v for k, v in info.items() if part.info.get(k) == v}
    return Sample(
        at=max(part.at for part in parts),
        counters=_add(part.counters for part in parts),
        gauges=merge_gauges(part.gauges for part in parts),
        histograms=merge_histograms(part.histograms for part in parts),
        info=info,
    )


def merge_gauges(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Gauges of several workers by the rule of `merge`."""
    values: dict[str, list[float]] = {}
    for part in parts:
        for name, value in part.items():
            if name not in MARKS:
                values.setdefault(name, []).append(value)
    return {n: sum(v) / len(v) if n in AVERAGED else sum(v) for n, v in values.items()}


def merge_histograms(parts: Iterable[Mapping[str, Histogram]]) -> dict[str, Histogram]:
    """Histograms of several workers by the rule of `merge`."""
    by_name: dict[str, list[Histogram]] = {}
    for part in parts:
        for name, histogram in part.items():
            by_name.setdefault(name, []).append(histogram)
    merged = {}
    for name, histograms in by_name.items():
        bounds = Counter(h.bounds for h in histograms).most_common(1)[0][0]
        alike = [h for h in histograms if h.bounds == bounds]
        merged[name] = Histogram(
            bounds=bounds,
            counts=tuple(map(sum, zip(*(h.counts for h in alike), strict=True))),
            sum=sum(h.sum for h in alike),
        )
    return merged


def _add(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total
