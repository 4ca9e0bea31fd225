"""The stored past as a long table, a number a row: what CSV and Parquet are written from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vllm_console.history.reading import Reader


class Point(NamedTuple):
    """One number of one subject at one moment."""

    at: float
    """Seconds since the epoch."""
    subject: str
    metric: str
    """A name of the vocabulary; of a histogram's sum with "_sum" behind it."""
    le: float | None
    """Of a histogram's bucket its upper bound, +inf the last; the value then counts all below."""
    value: float


def points(
    reader: Reader, subjects: Sequence[str], since: float, until: float, step: float
) -> Iterator[Point]:
    """Every number of a span, one subject after the other, in order of time.

    Counters and buckets grow over restarts; a window is the difference of two rows.
    """
    for subject in subjects:
        for sample in reader.samples(subject, since, until, step):
            at = sample.at
            for scalars in (sample.counters, sample.gauges):
                for name, value in scalars.items():
                    yield Point(at, subject, name, None, value)
            for name, histogram in sample.histograms.items():
                for bound, count in zip(
                    (*histogram.bounds, math.inf), histogram.counts, strict=True
                ):
                    yield Point(at, subject, name, bound, count)
                yield Point(at, subject, f"{name}_sum", None, histogram.sum)
