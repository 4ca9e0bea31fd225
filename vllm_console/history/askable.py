"""What can be asked of the past: metrics by the names people use, with unit and meaning."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import StrEnum

from vllm_console.errors import InvalidInput
from vllm_console.fleet.duration import format_duration, parse_duration
from vllm_console.telemetry.names import DERIVED, MARKS, METRICS, Kind, Metric


class Form(StrEnum):
    """Of what kind the answer is."""

    DISTRIBUTION = "distribution"
    """Percentiles, of a histogram."""
    COUNTER = "counter"
    """A rate and a count, of a counter."""
    PARTS = "parts"
    """Counts by what a counter is split by."""
    GAUGE = "gauge"
    """Mean and largest value."""
    RATIO = "ratio"
    """Growth of one counter as a share of another's."""
    SLO = "slo"
    """Share of requests within a target."""
    AVAILABILITY = "availability"
    """Share of the time in which a worker was ready."""


@dataclass(frozen=True, slots=True)
class Askable:
    """One metric that can be asked for."""

    name: str
    form: Form
    unit: str
    meaning: str
    source: tuple[str, ...] = ()
    """Its names in samples: one, or part and whole of a ratio."""
    of_gpus: bool = False
    target: float | None = None
    """Of an slo: the target that was named, in seconds."""


_SHORT = {"requests_finished": "requests"}
_MORE = (
    Askable(
        "errors",
        Form.COUNTER,
        "requests",
        "Requests that ended in an error.",
        ("requests_finished:error",),
    ),
    Askable(
        "aborts",
        Form.COUNTER,
        "requests",
        "Requests whose client went away.",
        ("requests_finished:abort",),
    ),
    Askable(
        "finish_reasons",
        Form.PARTS,
        "requests",
        "Requests finished by reason: stop, length, abort, error, …",
        ("requests_finished",),
    ),
    Askable(
        "prefix_cache_hit_rate",
        Form.RATIO,
        "ratio",
        "Share of prompt tokens found in the prefix cache, 0..1.",
        ("prefix_cache_hits", "prefix_cache_queries"),
    ),
    Askable(
        "external_cache_hit_rate",
        Form.RATIO,
        "ratio",
        "Share of prompt tokens found in other instances' caches, 0..1.",
        ("external_cache_hits", "external_cache_queries"),
    ),
    Askable(
        "mm_cache_hit_rate",
        Form.RATIO,
        "ratio",
        "Share of images and other media found in the multi-modal cache, 0..1.",
        ("mm_cache_hits", "mm_cache_queries"),
    ),
    Askable(
        "spec_acceptance_rate",
        Form.RATIO,
        "ratio",
        "Share of drafted tokens that were accepted, 0..1.",
        ("spec_accepted_tokens", "spec_draft_tokens"),
    ),
    Askable(
        "slo",
        Form.SLO,
        "s",
        "Share of requests within the targets of fleet.toml, 0..1; slo:ttft, slo:itl or slo:e2e "
        "is one of them, slo:ttft:300ms within another.",
    ),
    Askable(
        "availability",
        Form.AVAILABILITY,
        "ratio",
        "Share of the time in which a worker was ready, and of the workers that were wanted, 0..1.",
    ),
)
_GPU = (
    Askable(
        "utilization",
        Form.GAUGE,
        "ratio",
        "Share of time in which a kernel ran on the GPU, 0..1.",
        ("utilization",),
        of_gpus=True,
    ),
    Askable(
        "memory",
        Form.GAUGE,
        "bytes",
        "Memory in use on the GPU.",
        ("memory_used_bytes",),
        of_gpus=True,
    ),
    Askable("power", Form.GAUGE, "W", "Power the GPU drew.", ("power_w",), of_gpus=True),
    Askable(
        "temperature",
        Form.GAUGE,
        "°C",
        "Temperature of the GPU.",
        ("temperature_c",),
        of_gpus=True,
    ),
)
TARGETS = ("ttft", "itl", "e2e")
"""Latencies that fleet.toml may set a target for."""


def _rows(metric: Metric) -> list[Askable]:
    """What can be asked of a row of the vocabulary."""
    name, unit, meaning = metric.name, metric.unit, metric.meaning
    part = f"{name}:{metric.split.upper()}" if metric.split else ""
    match metric.kind:
        case Kind.HISTOGRAM:
            return [Askable(name.removesuffix("_s"), Form.DISTRIBUTION, unit, meaning, (name,))]
        case Kind.COUNTER if metric.split and not metric.whole:
            return [Askable(name, Form.PARTS, unit, meaning, (name,))]
        case Kind.COUNTER:
            return [Askable(_SHORT.get(name, name), Form.COUNTER, unit, meaning, (name,))]
        case Kind.GAUGE if name not in MARKS:
            shown = part if metric.split and not metric.whole else name
            return [Askable(shown, Form.GAUGE, unit, meaning, (name,))]
    return []


ASKABLE: dict[str, Askable] = {
    row.name: row
    for row in (
        *(row for metric in METRICS for row in _rows(metric)),
        *(
            Askable(name, Form.GAUGE, "tokens" if "tokens" in name else "adapters", text, (name,))
            for name, text in DERIVED.items()
        ),
        *_MORE,
        *_GPU,
    )
}
"""Every metric that can be asked for, by name; "name:PART" stands for names with a part of it."""
_SPLIT = {metric.name: metric for metric in METRICS if metric.split}
_LONG = {short: name for name, short in _SHORT.items()}
_OF_SUBJECT = {
    "gateway": ("requests", "generation_tokens", "queue", "ttft", "tpot", "e2e"),
    "gpu": ("utilization", "memory", "power", "temperature"),
}
_USUAL = ("requests", "generation_tokens", "ttft", "itl", "e2e")


def usual(subject: str) -> tuple[str, ...]:
    """The metrics that are shown of a subject when none is asked for."""
    return _OF_SUBJECT.get(subject.partition("/")[0], _USUAL)


def askable(name: str) -> Askable:
    """The metric of that name; also under its name in samples, and one part of a split one.

    Raises `InvalidInput` with the nearest right spelling.
    """
    head, _, part = name.partition(":")
    if head == "slo" and part:
        return _slo(name, part)
    if part and (metric := _SPLIT.get(head)) and part != str(metric.split).upper():
        form = Form.COUNTER if metric.kind is Kind.COUNTER else Form.GAUGE
        return Askable(name, form, metric.unit, metric.meaning, (name,))
    if part and head in _LONG:
        return askable(f"{_LONG[head]}:{part}")
    found = (None if part else ASKABLE.get(name)) or next(
        (row for row in ASKABLE.values() if row.source == (name,) and ":" not in row.name), None
    )
    if found is None:
        near = [row for row in ASKABLE if row.startswith(f"{head}:")]
        near = near or difflib.get_close_matches(name, ASKABLE, n=1)
        hint = f'did you mean "{near[0]}"? ' if near else ""
        raise InvalidInput(f'no metric "{name}"; {hint}`vllm-console history --list` has them all')
    return found


def _slo(name: str, part: str) -> Askable:
    """ "slo:ttft" or "slo:ttft:300ms"."""
    what, _, target = part.partition(":")
    if what not in TARGETS:
        near = difflib.get_close_matches(what, TARGETS, n=1)
        hint = f'did you mean "slo:{near[0]}"?' if near else f"there are {', '.join(TARGETS)}"
        raise InvalidInput(f'no target "{name}"; {hint}')
    meaning = f"Share of requests whose {what} is within the target."
    try:
        seconds = parse_duration(target) if target else None
    except ValueError as error:
        raise InvalidInput(f"{name}: {error}") from None
    shown = f"slo:{what}" + (f":{format_duration(seconds)}" if seconds is not None else "")
    return Askable(shown, Form.SLO, "s", meaning, (f"{what}_s",), target=seconds)
