"""The stored past as OpenMetrics text with times, as Prometheus takes it in.

promtool tsdb create-blocks-from openmetrics FILE DIRECTORY
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from vllm_console.control.exposition import wire_name
from vllm_console.history.reading import Reader
from vllm_console.history.subjects import model_of
from vllm_console.telemetry.names import DERIVED, METRICS, Kind, Metric
from vllm_console.telemetry.sample import Sample

_MODEL = "_model_"
_GPU = {
    "utilization": ("utilization_ratio", "Share of time in which a kernel ran, 0..1."),
    "memory_used_bytes": ("memory_used_bytes", "Memory in use."),
    "power_w": ("power_watts", "Power drawn."),
    "temperature_c": ("temperature_celsius", "Temperature of the GPU."),
}


def openmetrics(
    reader: Reader, subjects: Sequence[str], since: float, until: float, step: float
) -> Iterator[str]:
    """Lines of the rows of a span, seconds since the epoch, with their line ends.

    The families are named as in the daemon's own /metrics, with worker, fleet, gpu, gateway,
    gateway_model or gateway_key in place of model; each is read in a pass of its own, as its
    samples stand together in this format.
    """
    there = reader.names()
    for kind in dict.fromkeys(_kind(subject) for subject in subjects):
        of_kind = [subject for subject in subjects if _kind(subject) == kind]
        for metric in _metrics(kind):
            names = sorted(
                name
                for name in there
                if name == metric.name or (metric.split and name.startswith(f"{metric.name}:"))
            )
            parts = [name for name in names if ":" in name] or names
            lines = (
                line
                for subject in of_kind
                for name in parts
                for line in _series(
                    reader.samples(subject, since, until, step),
                    _name(metric, kind),
                    metric,
                    name,
                    _labels(subject),
                )
            )
            yield from _family(_name(metric, kind), metric, lines)
    yield "# EOF\n"


def _kind(subject: str) -> str:
    """What a subject is: model, worker, fleet, gpu, gateway, gateway/model or gateway/key."""
    head, _, name = subject.partition("/")
    return f"{head}/{name.partition('/')[0]}" if head == "gateway" and name else head


def _metrics(kind: str) -> list[Metric]:
    if kind == "gpu":
        return [Metric(name, Kind.GAUGE, "", text, ()) for name, (_, text) in _GPU.items()]
    derived = [Metric(name, Kind.GAUGE, "", text, ()) for name, text in DERIVED.items()]
    kinds = (Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM)
    return [metric for metric in METRICS if metric.kind in kinds] + derived


def _name(metric: Metric, kind: str) -> str:
    if kind == "gpu":
        return f"vllm_console_gpu_{_GPU[metric.name][0]}"
    return wire_name(metric).replace(_MODEL, f"_{kind.replace('/', '_')}_", 1)


def _family(name: str, metric: Metric, lines: Iterator[str]) -> Iterator[str]:
    """The samples of a family below its head; nothing where there is no sample."""
    first = next(lines, None)
    if first is None:
        return
    family = name.removesuffix("_total") if metric.kind is Kind.COUNTER else name
    yield f"# TYPE {family} {metric.kind.value}\n"
    yield f"# HELP {family} {_escaped(metric.meaning)}\n"
    yield first
    yield from lines


def _series(
    samples: Iterator[Sample], name: str, metric: Metric, source: str, labels: Mapping[str, str]
) -> Iterator[str]:
    """One subject's values of one name in samples, in order of time."""
    part = source.partition(":")[2]
    inside = _text({**labels, **({metric.split: part} if metric.split and part else {})})
    for sample in samples:
        at = f"{sample.at:.3f}"
        if metric.kind is Kind.HISTOGRAM:
            histogram = sample.histograms.get(source)
            if histogram is None:
                continue
            comma = "," if inside else ""
            for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
                yield f'{name}_bucket{{{inside}{comma}le="{bound!r}"}} {count:.17g} {at}\n'
            yield f'{name}_bucket{{{inside}{comma}le="+Inf"}} {histogram.count:.17g} {at}\n'
            yield f"{name}_count{{{inside}}} {histogram.count:.17g} {at}\n"
            yield f"{name}_sum{{{inside}}} {histogram.sum:.17g} {at}\n"
        else:
            values = sample.counters if metric.kind is Kind.COUNTER else sample.gauges
            if source in values:
                yield f"{name}{{{inside}}} {values[source]:.17g} {at}\n"


def _labels(subject: str) -> dict[str, str]:
    kind, _, name = subject.removeprefix("gateway/").partition("/")
    if kind == "worker":
        return {"model": model_of(subject) or "", "worker": name}
    return {{"gpu": "uuid"}.get(kind, kind): name} if name else {}


def _text(labels: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
