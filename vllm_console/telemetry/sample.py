"""What one scrape of one worker gave, and how samples of several workers add up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


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
    """Labels of vllm:cache_config_info."""


@dataclass(frozen=True, slots=True)
class Miss:
    """One scrape that gave no sample: a gap, never a zero."""

    at: float
    reason: str
    """One line: "timed out after 0.8 s", "HTTP 500", "not Prometheus text: '<html>'", …"""


def merge(samples: Iterable[Sample]) -> Sample | None:
    """One sample of several workers: counters, gauges and equal-bound histograms add up.

    `kv_cache_usage` is averaged. Histograms of one name whose bounds differ are left out of the
    merge except the bounds that most workers share. `None` for no sample at all.
    """
    raise NotImplementedError  # written with the room
