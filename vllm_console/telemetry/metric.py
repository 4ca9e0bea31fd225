"""What a row of the vocabulary says of a metric, and which samples it has on the wire."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a metric is on the wire, and so where a `Sample` keeps it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"
    """Its labels are the information; its value is always 1."""
    STAMPED = "stamped"
    """Its labels are the information; its value is when that held, so the newest series counts."""


LOGGERS = "vllm/v1/metrics/loggers.py"
"""Where vLLM defines most of its metrics; until V1 that was vllm/engine/metrics.py."""


@dataclass(frozen=True, slots=True)
class Source:
    """A name in vLLM, and the versions that have it, among those looked at (`VERSIONS`).

    The name is that of the metric family: on the wire a counter ends in `_total`, a histogram in
    `_bucket`, `_sum` and `_count`.
    """

    name: str
    first: str
    last: str | None = None
    """`None`: the newest version still has it."""
    file: str = LOGGERS
    """Where the newest vLLM that has it defines it."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A row of the vocabulary. Of several sources in one text the first one listed counts."""

    name: str
    kind: Kind
    unit: str
    meaning: str
    sources: tuple[Source, ...]
    split: str | None = None
    """A label whose values become names of their own: `name:value`."""
    whole: bool = True
    """Whether the sum over the values of `split` is a number, under `name` itself."""
    averaged: bool = False
    """Several engines, and several workers, are averaged instead of summed."""
    by_engine: bool = False
    """Kept apart, too, where there are several engines: `Sample.engines`."""


def wire_names(metric: Metric, source: Source) -> tuple[str, ...]:
    """The sample names that a source has in Prometheus text."""
    match metric.kind:
        case Kind.COUNTER:
            return (source.name + "_total",)
        case Kind.HISTOGRAM:
            return (source.name + "_bucket", source.name + "_sum")
        case _:
            return (source.name,)


def counter(
    name: str,
    unit: str,
    meaning: str,
    *sources: Source,
    split: str | None = None,
    whole: bool = True,
    by_engine: bool = False,
) -> Metric:
    """A row for something that only grows."""
    return Metric(
        name, Kind.COUNTER, unit, meaning, sources, split=split, whole=whole, by_engine=by_engine
    )


def gauge(
    name: str,
    unit: str,
    meaning: str,
    *sources: Source,
    split: str | None = None,
    whole: bool = True,
    averaged: bool = False,
    by_engine: bool = False,
) -> Metric:
    """A row for something that goes up and down."""
    return Metric(name, Kind.GAUGE, unit, meaning, sources, split, whole, averaged, by_engine)


def histogram(name: str, unit: str, meaning: str, *sources: Source) -> Metric:
    """A row for a distribution."""
    return Metric(name, Kind.HISTOGRAM, unit, meaning, sources)
