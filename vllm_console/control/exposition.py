"""The fleet in Prometheus text: what the daemon's own /metrics answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from vllm_console.snapshot import Gpu, Model, Snapshot, Worker
from vllm_console.telemetry.names import MARKS, METRICS, Kind, Metric
from vllm_console.telemetry.sample import Histogram, Sample
from vllm_console.workers.states import State

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "vllm_console_"
_ENDINGS = {"s": "seconds", "ratio": "ratio", "tokens": "tokens", "bytes": "bytes"}
"""How a metric's name ends for a unit of the vocabulary; other units add nothing."""

Labels = Mapping[str, str]
Value = tuple[Labels, float | None]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with its values; those that are `None` are left out, never shown as 0."""

    name: str
    kind: str
    help: str
    values: tuple[Value, ...] = ()
    histograms: tuple[tuple[Labels, Histogram], ...] = ()


def exposition(
    snapshot: Snapshot, totals: Mapping[str, Sample], *, started_at: float | None = None
) -> bytes:
    """All of the fleet as Prometheus text, version 0.0.4.

    `totals` are each model's cumulative samples, reset-corrected: their counters go on over the
    restarts of workers. `started_at` is when the daemon started, seconds since the epoch.
    """
    families = (
        *_daemon(snapshot, started_at),
        *_models(snapshot.models),
        *_workers(snapshot.models),
        *_requests(totals),
        *_gpus(snapshot.gpus),
    )
    lines: list[str] = []
    for family in families:
        if family.values or family.histograms:
            lines += _text(family)
    return ("\n".join(lines) + "\n").encode()


def wire_name(metric: Metric) -> str:
    """The name under which a metric of the vocabulary is exported for a model."""
    name = metric.name.removesuffix("_s") if metric.unit == "s" else metric.name
    ending = _ENDINGS.get(metric.unit, "")
    if ending and ending not in name.split("_"):
        name = f"{name}_{ending}"
    if metric.kind is Kind.COUNTER:
        name = name.removesuffix("_total") + "_total"
    return f"{_PREFIX}model_{name}"


def _daemon(snapshot: Snapshot, started_at: float | None) -> Iterator[Family]:
    version = {"version": snapshot.daemon.version or "", "fleet": snapshot.fleet}
    yield Family(
        _PREFIX + "build_info", "gauge", "The daemon that answers; always 1.", ((version, 1.0),)
    )
    yield Family(
        _PREFIX + "start_time_seconds",
        "gauge",
        "When the daemon started, in seconds since the epoch.",
        (({}, started_at),),
    )
    levels = [alert.level for alert in snapshot.alerts]
    yield Family(
        _PREFIX + "alerts",
        "gauge",
        "Alerts of the console that stand now, by level.",
        tuple(({"level": level}, float(levels.count(level))) for level in ("warn", "crit")),
    )


def _models(models: Iterable[Model]) -> Iterator[Family]:
    shown = [({"model": model.name}, model) for model in models]
    for field, name, text in (
        ("wanted", "workers_wanted", "Workers the model shall have."),
        ("ready", "workers_ready", "Workers of the model that take requests."),
        ("revision", "revision", "The revision of the model's configuration."),
    ):
        values = tuple((labels, _number(model, field)) for labels, model in shown)
        yield Family(f"{_PREFIX}model_{name}", "gauge", text, values)


def _workers(models: Iterable[Model]) -> Iterator[Family]:
    shown = [
        ({"model": model.name, "worker": worker.id}, worker)
        for model in models
        for worker in model.workers
    ]
    yield Family(
        _PREFIX + "worker_state",
        "gauge",
        "1 for the state a worker is in, 0 for every other.",
        tuple(
            ({**labels, "state": state.value}, float(worker.state == state))
            for labels, worker in shown
            for state in State
        ),
    )

    def family(name: str, kind: str, text: str, pick: str) -> Family:
        values = tuple((labels, _number(worker, pick)) for labels, worker in shown)
        return Family(f"{_PREFIX}worker_{name}", kind, text, values)

    yield family("restarts_total", "counter", "Restarts of a worker since it was made.", "restarts")
    yield family("stale_seconds", "gauge", "Age of a worker's newest sample.", "stale_s")
    yield family(
        "resident_memory_bytes", "gauge", "Memory of a worker's process tree.", "rss_bytes"
    )
    yield family("cpu_cores", "gauge", "Cores that a worker's process tree uses.", "cpu")


def _number(of: Model | Worker | Gpu, field: str) -> float | None:
    value = getattr(of, field)
    return None if value is None else float(value)


def _requests(totals: Mapping[str, Sample]) -> Iterator[Family]:
    for metric in METRICS:
        name = wire_name(metric)
        match metric.kind:
            case Kind.COUNTER:
                parts = (_split(metric, model, s.counters) for model, s in totals.items())
                values = tuple(chain.from_iterable(parts))
                yield Family(name, "counter", metric.meaning, values)
            case Kind.GAUGE if metric.name not in MARKS:
                parts = (_split(metric, model, s.gauges) for model, s in totals.items())
                values = tuple(chain.from_iterable(parts))
                yield Family(name, "gauge", metric.meaning, values)
            case Kind.HISTOGRAM:
                histograms = tuple(
                    ({"model": model}, sample.histograms[metric.name])
                    for model, sample in totals.items()
                    if metric.name in sample.histograms
                )
                yield Family(name, "histogram", metric.meaning, histograms=histograms)


def _split(metric: Metric, model: str, known: Mapping[str, float]) -> Iterator[Value]:
    """A metric's values by its label, or its total where it has none."""
    if metric.split is not None:
        parts = {
            name.removeprefix(f"{metric.name}:"): value
            for name, value in known.items()
            if name.startswith(f"{metric.name}:")
        }
        if parts:
            for part, value in parts.items():
                yield {"model": model, metric.split: part}, value
            return
    if metric.name in known:
        yield {"model": model}, known[metric.name]


def _gpus(gpus: Iterable[Gpu]) -> Iterator[Family]:
    shown = [
        ({"node": gpu.node, "gpu": str(gpu.index), "uuid": gpu.uuid, "name": gpu.name}, gpu)
        for gpu in gpus
    ]
    for name, text, field in (
        ("utilization_ratio", "Share of time in which a kernel ran, 0..1.", "utilization"),
        ("memory_used_bytes", "Memory in use.", "memory_used_bytes"),
        ("memory_total_bytes", "Memory there is.", "memory_total_bytes"),
        ("temperature_celsius", "Temperature of the GPU.", "temperature_c"),
        ("power_watts", "Power drawn.", "power_w"),
        ("power_limit_watts", "Power it may draw.", "power_limit_w"),
    ):
        values = tuple((labels, _number(gpu, field)) for labels, gpu in shown)
        yield Family(f"{_PREFIX}gpu_{name}", "gauge", text, values)
    yield Family(
        _PREFIX + "gpu_faulty",
        "gauge",
        "1 for a GPU that does not answer.",
        tuple((labels, float(gpu.fault is not None)) for labels, gpu in shown),
    )


def _text(family: Family) -> Iterator[str]:
    yield f"# HELP {family.name} {_escaped(family.help)}"
    yield f"# TYPE {family.name} {family.kind}"
    for labels, value in family.values:
        if value is not None:
            yield f"{family.name}{_labels(labels)} {value:.17g}"
    for labels, histogram in family.histograms:
        for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
            yield f"{family.name}_bucket{_labels({**labels, 'le': _bound(bound)})} {count:.17g}"
        yield f"{family.name}_bucket{_labels({**labels, 'le': '+Inf'})} {histogram.count:.17g}"
        yield f"{family.name}_sum{_labels(labels)} {histogram.sum:.17g}"
        yield f"{family.name}_count{_labels(labels)} {histogram.count:.17g}"


def _bound(bound: float) -> str:
    """The shortest text that reads back as this bound, so that no two of them become one."""
    return f"{bound:g}" if float(f"{bound:g}") == bound else repr(bound)


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    inside = ",".join(f'{name}="{_escaped(value, quote=True)}"' for name, value in labels.items())
    return f"{{{inside}}}"


def _escaped(text: str, *, quote: bool = False) -> str:
    """As the text format wants it: backslash and line feed, and in labels the quote."""
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quote else text
