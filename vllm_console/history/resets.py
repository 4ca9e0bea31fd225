"""Makes one worker's cumulative samples grow for ever, whatever restarts in between."""

from __future__ import annotations

from dataclasses import replace

from vllm_console.telemetry.sample import Histogram, Sample, engines_changed, restarted


class Unbroken:
    """Feeds on the samples of one worker and gives them back reset-corrected.

    At a restart everything counted so far becomes an offset that is added from then on, so no
    counter and no bucket ever falls. Where engines came or went, the sums go on from where they
    were: what the new ones counted before is not growth. A histogram whose bounds changed cannot
    be continued and begins anew.
    """

    __slots__ = ("_counters", "_fixed", "_histograms", "_raw")

    def __init__(self) -> None:
        self._raw: Sample | None = None
        self._fixed: Sample | None = None
        self._counters: dict[str, float] = {}
        self._histograms: dict[str, Histogram] = {}

    def add(self, sample: Sample) -> Sample:
        """The corrected form of the worker's next sample; the sample itself before any restart."""
        if self._raw is not None and self._fixed is not None:
            if restarted(self._raw, sample):
                self._counters |= self._fixed.counters
                self._histograms |= self._fixed.histograms
                self._raw = None
            elif engines_changed(self._raw, sample):
                self._go_on(self._fixed, sample)
                self._raw = None
        fixed = self._corrected(sample) if self._counters or self._histograms else sample
        self._raw, self._fixed = sample, fixed
        return fixed

    def _go_on(self, fixed: Sample, sample: Sample) -> None:
        """Chooses offsets with which `sample` counts exactly as much as `fixed` did."""
        for name, value in sample.counters.items():
            self._counters[name] = fixed.counters.get(name, value) - value
        for name, histogram in sample.histograms.items():
            before = fixed.histograms.get(name)
            if before is not None and before.bounds == histogram.bounds:
                counts = tuple(a - b for a, b in zip(before.counts, histogram.counts, strict=True))
                rest = Histogram(histogram.bounds, counts, before.sum - histogram.sum)
                self._histograms[name] = rest

    def _corrected(self, sample: Sample) -> Sample:
        counters = {n: v + self._counters.get(n, 0.0) for n, v in sample.counters.items()}
        histograms = {n: self._continued(n, h) for n, h in sample.histograms.items()}
        return replace(sample, counters=counters, histograms=histograms)

    def _continued(self, name: str, histogram: Histogram) -> Histogram:
        raw, fixed = self._raw, self._fixed
        if raw is not None and fixed is not None and raw.histograms.get(name) is histogram:
            return fixed.histograms[name]
        before = self._histograms.get(name)
        return histogram if before is None else plus(before, histogram)


def plus(one: Histogram, other: Histogram) -> Histogram:
    """Both added up; `other` alone where their bounds differ."""
    if one.bounds != other.bounds:
        return other
    counts = tuple(a + b for a, b in zip(one.counts, other.counts, strict=True))
    return Histogram(other.bounds, counts, one.sum + other.sum)
