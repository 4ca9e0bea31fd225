"""GET /metrics: the gateway's counts in Prometheus text, version 0.0.4."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from vllm_console.gateway.admission import CLASSES
from vllm_console.gateway.histogram import Histogram
from vllm_console.gateway.measures import Measures
from vllm_console.gateway.stats import Gateway, Stats
from vllm_console.telemetry.grid import GRID

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "vllm_console_gateway_"
BOUNDS = tuple(GRID[index] for index in range(232, 871, 29))
"""Bounds of the buckets that are exported: four a decade, 1 ms to 316 s."""
_TIMES = {
    "queue_s": ("queue_seconds", "Seconds from arrival until a request was admitted."),
    "ttft_s": ("time_to_first_token_seconds", "Seconds to the first token, of streams."),
    "tpot_s": (
        "time_per_output_token_seconds",
        "Seconds per token after the first, of streams: one value a request, its mean.",
    ),
    "e2e_s": ("request_seconds", "Seconds from arrival to the last byte of the answer."),
}

Labels = tuple[tuple[str, str], ...]


def exposition(gateway: Gateway, stats: Stats, now: float) -> bytes:
    """All that is counted; `now` is `time.monotonic()`.

    Of what was refused before it reached a model, `model` and `key` are empty. Counts of a model
    that is gone from the fleet stay; its gauges go.
    """
    lines: list[str] = []
    for part in (_process(gateway, stats, now), _requests(gateway.measures), _live(gateway)):
        lines += part
    lines += _latencies(gateway.measures)
    return ("\n".join(lines) + "\n").encode()


def _process(gateway: Gateway, stats: Stats, now: float) -> Iterator[str]:
    info = (("version", stats.version), ("fleet", gateway.table.fleet))
    for name, text, labels, value in (
        ("build_info", "The gateway that answers; always 1.", info, 1.0),
        ("start_time_seconds", "When it started, since the epoch.", (), stats.started_at),
        ("table_version", "Number of the routing table.", (), float(gateway.table.version)),
        ("table_age_seconds", "Since the table changed.", (), stats.table_age_s(now)),
        ("link_up", "1 while a daemon is connected.", (), float(stats.link_up)),
    ):
        yield from _family(name, "gauge", text, [(labels, value)])


def _requests(measures: Measures) -> Iterator[str]:
    requests: list[str] = []
    tokens: list[str] = []
    seconds: list[str] = []
    cost: list[str] = []
    retries: defaultdict[str, int] = defaultdict(int)
    names = {name: _escaped(name) for place in measures.rows for name in place[:2]}
    for (model, key), row in measures.by_pair().items():
        of = f'{{model="{names[model]}",key="{names[key]}"'
        for code, count in row.codes.items():
            requests.append(f'{_PREFIX}requests_total{of},code="{code}"}} {count}')
        tokens += (
            f'{_PREFIX}tokens_total{of},kind="prompt"}} {row.prompt}',
            f'{_PREFIX}tokens_total{of},kind="cached"}} {row.cached}',
            f'{_PREFIX}tokens_total{of},kind="generated"}} {row.generated}',
        )
        seconds.append(f"{_PREFIX}gpu_seconds_total{of}}} {row.gpu_s!r}")
        cost.append(f"{_PREFIX}cost_total{of}}} {row.cost!r}")
        retries[model] += row.retries
    again = [f'{_PREFIX}retries_total{{model="{names[m]}"}} {n}' for m, n in retries.items()]
    for name, text, lines in (
        ("requests_total", "Requests that are over, by status; 499: the client left.", requests),
        ("tokens_total", "Tokens by kind; cached ones are among those of prompts.", tokens),
        ("gpu_seconds_total", "Shares of the workers' GPU time.", seconds),
        ("cost_total", "What that costs by gpu_hour_cost, in its currency.", cost),
        ("retries_total", "Attempts at another worker after one failed.", again),
    ):
        if lines:
            yield from _head(name, "counter", text)
            yield from lines


def _live(gateway: Gateway) -> Iterator[str]:
    models: list[tuple[Labels, float]] = []
    capacity: list[tuple[Labels, float]] = []
    waiting: list[tuple[Labels, float]] = []
    refused: list[tuple[Labels, float]] = []
    workers: list[tuple[Labels, float]] = []
    ejected: list[tuple[Labels, float]] = []
    for name, live in gateway.models.items():
        model: Labels = (("model", name),)
        models.append((model, live.queue.in_flight))
        capacity.append((model, live.queue.capacity))
        for cls, count in zip(CLASSES, live.queue.waiting, strict=True):
            waiting.append(((*model, ("class", cls)), count))
        for reason, total in live.queue.refused.items():
            refused.append(((*model, ("reason", reason)), total))
        for slot in live.balance.slots.values():
            worker: Labels = (*model, ("worker", slot.id))
            workers.append((worker, slot.in_flight))
            ejected.append((worker, float(slot.ejected)))
    for metric, kind, text, values in (
        ("in_flight", "gauge", "Requests admitted and not over.", models),
        ("capacity", "gauge", "Requests that may be in flight.", capacity),
        ("waiting", "gauge", "Requests that wait, by class.", waiting),
        ("refused_total", "counter", "Requests that the queue refused, by reason.", refused),
        ("worker_in_flight", "gauge", "Requests that a worker has from here.", workers),
        ("worker_ejected", "gauge", "1 for a worker left out because it fails.", ejected),
    ):
        yield from _family(metric, kind, text, values)


def _latencies(measures: Measures) -> Iterator[str]:
    for metric, (name, text) in _TIMES.items():
        found = [
            ((("model", model),), histogram)
            for model, latencies in measures.models.items()
            for known, histogram in latencies.named()
            if known == metric and histogram.counts
        ]
        if found:
            yield from _head(name, "histogram", text)
        for labels, histogram in found:
            yield from _buckets(_PREFIX + name, labels, histogram)


def _buckets(name: str, labels: Labels, histogram: Histogram) -> Iterator[str]:
    for bound, count in zip(BOUNDS, histogram.below(BOUNDS), strict=True):
        yield f"{name}_bucket{_text((*labels, ('le', f'{bound:.4g}')))} {count}"
    total = histogram.count
    yield f"{name}_bucket{_text((*labels, ('le', '+Inf')))} {total}"
    yield f"{name}_sum{_text(labels)} {histogram.sum:.17g}"
    yield f"{name}_count{_text(labels)} {total}"


def _family(
    name: str, kind: str, text: str, values: Iterable[tuple[Labels, float]]
) -> Iterator[str]:
    """A metric with its values; nothing where it has none."""
    lines = [f"{_PREFIX}{name}{_text(labels)} {value:.17g}" for labels, value in values]
    if lines:
        yield from _head(name, kind, text)
        yield from lines


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {_PREFIX}{name} {text}"
    yield f"# TYPE {_PREFIX}{name} {kind}"


def _text(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(text: str) -> str:
    """As the text format wants labels: backslash, line feed and quote."""
    return text.translate(_ESCAPES)


_ESCAPES: Mapping[int, str] = {ord("\\"): r"\\", ord("\n"): r"\n", ord('"'): r"\""}
