"""Questions to the past and their answers: what `history` prints and the control API sends.

The wire form is `snapshot.to_json`: schema `vllm-console/history/1`, additive changes only. Unknown
is `None` (JSON `null`), never 0 or NaN. Stdlib only, as the client of the control API imports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SCHEMA = "vllm-console/history/1"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, with times as seconds since the epoch."""

    subject: str
    """A model, an alias, a worker, "fleet", a GPU, "gateway" or "gateway/" and a model or key, as a
    person writes it."""
    metrics: tuple[str, ...]
    since: float
    until: float
    quantiles: tuple[float, ...] = (50.0, 95.0, 99.0)
    """In percent."""
    step: float | None = None
    """Seconds; also tell each step of the span."""
    by: str | None = None
    """Also tell each "worker", "revision", "model" (of fleet or gateway) or "key" (of gateway)."""
    compare: bool = False
    """Also tell the span of the same length before."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What one metric was in one window."""

    values: Mapping[str, float | None]
    """By what they are: "p95" of latencies and sizes, "per_s" and "count" of what is counted,
    "mean" and "max" of gauges, "share" and "missed" of targets, "available" and "workers"."""
    count: int | None = None
    """Events behind the values; `None` where they are not of events."""
    between: Mapping[str, tuple[float, float | None]] | None = None
    """Where a value surely lies, when its bucket is too wide for a point; the upper end is `None`
    beyond the last bucket."""
    thin: tuple[str, ...] = ()
    """Percentiles with fewer than three events beyond them: mostly noise."""
    coverage: float = 0.0
    """Share of the window, 0..1, in which the subject was observed."""


@dataclass(frozen=True, slots=True)
class Change:
    """By how much a value differs from that of the span before."""

    absolute: float
    percent: float | None
    """`None` where it was 0."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One metric of a subject, or of one part of it."""

    metric: str
    unit: str
    form: str
    """How the values are to be read: "distribution", "counter", "parts", "gauge", "ratio", "slo"
    or "availability"."""
    part: str | None
    """The worker, model, revision or key; `None` for the whole subject."""
    figure: Figure
    before: Figure | None = None
    """The same of the span before, when that was asked for."""
    change: Mapping[str, Change] | None = None
    """From `before` to now, by value."""
    target: float | None = None
    """Of an slo the target, in `unit`."""
    steps: tuple[Figure, ...] = ()
    """One a step, as `Answer.starts` has them."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened in the span and may explain its numbers."""

    at: str
    kind: str
    """"start", "stop", "revision", "fault" or "daemon"."""
    level: str
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the past says."""

    subject: str
    """"model/NAME", "worker/ID", "fleet", "gpu/UUID", "gateway", "gateway/model/NAME" or
    "gateway/key/NAME"."""
    since: str
    until: str
    step_s: float | None
    starts: tuple[str, ...]
    """When each step begins; the last one ends with the span."""
    measured: tuple[Measured, ...]
    marks: tuple[Mark, ...]
    """Oldest first."""
    marks_left_out: int = 0
    """Older ones, beyond the number that one answer holds."""
    schema: str = SCHEMA
