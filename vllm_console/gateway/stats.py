"""What the gateway does now and did in the last minute: GET /stats, and what the daemon hears."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol
from zlib import crc32

from vllm_console.gateway.admission import CLASSES, Queue
from vllm_console.gateway.balancing import Balance, Slot
from vllm_console.gateway.histogram import Histogram, quantiles, since
from vllm_console.gateway.measures import Latencies, Measures, Row, together
from vllm_console.gateway.table import Table

SCHEMA = "vllm-console/gateway-stats/1"
RATE_S = 5.0
"""Rates are of a window this long, as everywhere in the console."""
LATENCY_S = 60.0
"""Percentiles are of a window this long, and at most `_COPY_S` longer."""
_COPY_S = 5.0
"""Between two copies of the counts that windows begin with."""
_FRESH_S = 0.2
"""How long a picture is given again, as its making takes a millisecond of everybody's time."""
ROUND = 5
"""Messages in which everything that the history keeps is sent once."""
KEYS = 50
"""Keys of which the history is kept: those that were used the most."""
_QUANTILES = (0.50, 0.95, 0.99)

Json = dict[str, Any]


class LiveModel(Protocol):
    """A model's queue and its workers."""

    @property
    def queue(self) -> Queue:
        """Who waits for it."""

    @property
    def balance(self) -> Balance:
        """Who serves it."""


class Gateway(Protocol):
    """What is looked at."""

    @property
    def table(self) -> Table:
        """The models and what is known of them."""

    @property
    def measures(self) -> Measures:
        """What was counted."""

    @property
    def models(self) -> Mapping[str, LiveModel]:
        """The models of the table by name."""


class Totals(NamedTuple):
    """Counts that rates are made of."""

    requests: int
    generated: int
    refused: int


Times = dict[str, Mapping[int, int]]
"""Copies of a model's counts by metric."""
_NOTHING = Totals(0, 0, 0)
_ALL = "*"
"""Stands for all models together; no model has that name."""


class _Copy(NamedTuple):
    at: float
    times: dict[str, tuple[float, Times]]
    """By model a mark that changes with its counts, and their copies."""


class Stats:
    """Windows over the measures of a gateway; for the thread that counts.

    stats = Stats(gateway, version="1.0", now=time.monotonic())
    message = stats.tick(now)       # once a second: what is sent to the daemon
    stats.picture(now)              # what GET /stats answers
    """

    def __init__(
        self, gateway: Gateway, *, version: str, now: float, started_at: float | None = None
    ) -> None:
        """`started_at` is when the process started, in seconds since the epoch; now by default."""
        self.link_up = False
        """Whether a daemon is connected; set by who knows."""
        self.version = version
        self.started_at = time.time() if started_at is None else started_at
        self._gateway = gateway
        self._started = now
        self._rates: deque[tuple[float, dict[str, Totals]]] = deque([(now, {})])
        self._copies: deque[_Copy] = deque([_Copy(now, {})])
        self._turn = -1
        self._keys: set[str] = set()
        """Whose history is kept, as found at the last first turn."""
        self._latencies: dict[str, Json] = {}
        self._table: tuple[Table, float] = (gateway.table, now)
        self._pictured: tuple[float, Json] = (now - 1.0, {})

    def tick(self, now: float) -> Json:
        """Remember what windows will begin with; gives what the daemon is to hear.

        That is `picture`, with percentiles up to `ROUND` seconds old, and `counted`: cumulative
        counters and fine buckets under the names of `telemetry.names`, of the whole (`total`), of
        models (`models`) and of the `KEYS` most used keys (`keys`). Each of them has its turn in
        one of `ROUND` seconds, so that no second is a long one.
        """
        rows = self._gateway.measures.by_model()
        totals = self._totals(rows)
        self._turn = (self._turn + 1) % ROUND
        message = self._picture(rows, totals, now, self._recent)
        self._rates.append((now, totals))
        while len(self._rates) > 2 and self._rates[1][0] <= now - RATE_S:
            self._rates.popleft()
        if now - self._copies[-1].at >= _COPY_S:
            self._copies.append(_Copy(now, self._copied()))
        while len(self._copies) > 2 and self._copies[1].at <= now - LATENCY_S:
            self._copies.popleft()
        return message | {"counted": self._counted(rows)}

    def table_age_s(self, now: float) -> float:
        """Seconds since the routing table changed."""
        if self._table[0] is not self._gateway.table:
            self._table = (self._gateway.table, now)
        return now - self._table[1]

    def picture(self, now: float) -> Json:
        """The gateway now. Rates are of 5 s, percentiles of 60 s, in seconds; unknown is `None`.

        schema, version, started_at and uptime_s (of the process), fleet, table_version,
        table_age_s, link_up;
        total: in_flight, waiting by class, oldest_s, refused by reason, the counts of `models`
        below, requests_per_s, generation_tokens_per_s, refused_per_s;
        models: name, state, reason, in_flight, capacity, waiting by class, waiting_bytes, oldest_s,
        admitted by class, refused by reason, policy (how requests are spread), requests, failed,
        disconnects, retries,
        prompt_tokens, cached_tokens, generated_tokens, gpu_s, cost, the three rates, latency
        (window_s, and p50, p95, p99, count of queue_s, ttft_s, tpot_s, e2e_s);
        workers: id, model, revision, in_flight, draining, ejected.
        """
        at, picture = self._pictured
        if not at <= now < at + _FRESH_S:
            rows = self._gateway.measures.by_model()
            picture = self._picture(rows, self._totals(rows), now, self._latency)
            self._pictured = now, picture
        return picture

    def _picture(
        self,
        rows: Mapping[str, Row],
        totals: Mapping[str, Totals],
        now: float,
        latency: Callable[[str, float], Json],
    ) -> Json:
        gateway = self._gateway
        models = [
            {"name": model.name, "state": model.state, "reason": model.reason}
            | _queued(live.queue, now)
            | {"policy": live.balance.policy}
            | _sums(rows.get(model.name, Row()))
            | self._per_second(model.name, totals, now)
            | {"latency": latency(model.name, now)}
            for model in gateway.table.models
            if (live := gateway.models.get(model.name)) is not None
        ]
        return {
            "schema": SCHEMA,
            "version": self.version,
            "started_at": self.started_at,
            "uptime_s": now - self._started,
            "fleet": gateway.table.fleet,
            "table_version": gateway.table.version,
            "table_age_s": self.table_age_s(now),
            "link_up": self.link_up,
            "total": _together(models) | _sums(_added(rows)) | self._per_second(_ALL, totals, now),
            "models": models,
            "workers": [
                _worker(name, slot)
                for name, live in gateway.models.items()
                for slot in live.balance.slots.values()
            ],
        }

    def _totals(self, rows: Mapping[str, Row]) -> dict[str, Totals]:
        found: dict[str, Totals] = {}
        for name, row in rows.items():
            live = self._gateway.models.get(name)
            refused = sum(live.queue.refused.values()) if live is not None else 0
            found[name] = Totals(row.requests, row.generated, refused)
        of_all = Totals(*map(sum, zip(*found.values(), strict=True))) if found else _NOTHING
        return found | {_ALL: of_all}

    def _per_second(self, name: str, totals: Mapping[str, Totals], now: float) -> Json:
        at, then = self._rates[0]
        new, old = totals.get(name, _NOTHING), then.get(name, _NOTHING)
        seconds = now - at
        grown = [max(0, a - b) for a, b in zip(new, old, strict=True)]
        names = ("requests_per_s", "generation_tokens_per_s", "refused_per_s")
        return {
            name: round(count / seconds, 3) if seconds > 0 else None
            for name, count in zip(names, grown, strict=True)
        }

    def _latency(self, name: str, now: float) -> Json:
        begin = self._copies[0]
        latencies = self._gateway.measures.models.get(name)
        _, before = begin.times.get(name, (0.0, {}))
        found: Json = {"window_s": round(min(now - begin.at, LATENCY_S + _COPY_S), 1)}
        for metric, histogram in (latencies or Latencies()).named():
            counts = since(histogram.counts, before.get(metric, {}))
            p50, p95, p99 = quantiles(counts, _QUANTILES)
            found[metric] = {"p50": p50, "p95": p95, "p99": p99, "count": sum(counts.values())}
        return found

    def _recent(self, name: str, now: float) -> Json:
        """What `_latency` said when the model last had its turn."""
        known = self._latencies.get(name)
        if known is None or self._has_turn(name):
            known = self._latencies[name] = self._latency(name, now)
        return known

    def _has_turn(self, name: str) -> bool:
        return crc32(name.encode()) % ROUND == self._turn

    def _copied(self) -> dict[str, tuple[float, Times]]:
        """A copy of the counts of each model; that from before where nothing was counted since."""
        before, found = self._copies[-1].times, {}
        for name, latencies in self._gateway.measures.models.items():
            mark = latencies.e2e.sum
            known = before.get(name)
            if known is not None and known[0] == mark:
                found[name] = known
            else:
                found[name] = mark, {m: dict(h.counts) for m, h in latencies.named()}
        return found

    def _counted(self, rows: Mapping[str, Row]) -> Json:
        measures, models = self._gateway.measures, self._gateway.models
        found: Json = {
            "models": {
                name: _cumulative(row, measures.models.get(name))
                | ({"gauges": _gauges(models[name].queue)} if name in models else {})
                for name, row in rows.items()
                if name and self._has_turn(name)
            },
        }
        if self._turn == 0:
            queues = [live.queue for live in models.values()]
            whole = _cumulative(_added(rows), together(measures.models.values()))
            found["total"] = whole | {"gauges": _gauges(*queues)}
            self._keys = measures.most_used(KEYS)
        keys = {name for name in self._keys if name and self._has_turn(name)}
        found["keys"] = {
            name: _cumulative(row, measures.keys.get(name))
            for name, row in measures.by_key(keys).items()
        }
        return found


def _queued(queue: Queue, now: float) -> Json:
    return {
        "in_flight": queue.in_flight,
        "capacity": queue.capacity,
        "waiting": dict(zip(CLASSES, queue.waiting, strict=True)),
        "waiting_bytes": queue.waiting_bytes,
        "oldest_s": queue.oldest_s(now),
        "admitted": dict(zip(CLASSES, queue.admitted, strict=True)),
        "refused": dict(queue.refused),
    }


def _sums(row: Row) -> Json:
    return {
        "requests": row.requests,
        "failed": row.failed,
        "disconnects": row.disconnects,
        "retries": row.retries,
        "prompt_tokens": row.prompt,
        "cached_tokens": row.cached,
        "generated_tokens": row.generated,
        "gpu_s": row.gpu_s,
        "cost": row.cost,
    }


def _added(rows: Mapping[str, Row]) -> Row:
    total = Row()
    for row in rows.values():
        total.add(row)
    return total


def _together(models: list[Json]) -> Json:
    """What is in flight and waits, of all models."""
    oldest = [m["oldest_s"] for m in models if m["oldest_s"] is not None]
    refused: dict[str, int] = {}
    for model in models:
        for reason, count in model["refused"].items():
            refused[reason] = refused.get(reason, 0) + count
    return {
        "in_flight": sum(m["in_flight"] for m in models),
        "waiting": {cls: sum(m["waiting"][cls] for m in models) for cls in CLASSES},
        "oldest_s": max(oldest, default=None),
        "refused": refused,
    }


def _worker(model: str, slot: Slot) -> Json:
    return {
        "id": slot.id,
        "model": model,
        "revision": slot.revision,
        "in_flight": slot.in_flight,
        "draining": not slot.usable,
        "ejected": slot.ejected,
    }


def _gauges(*queues: Queue) -> Json:
    return {
        "running": sum(queue.in_flight for queue in queues),
        "waiting": sum(sum(queue.waiting) for queue in queues),
    }


def _cumulative(row: Row, latencies: Latencies | None) -> Json:
    """Counters and histograms of one subject by the names of the vocabulary."""
    counters = {
        "requests_finished": row.requests,
        "prompt_tokens": row.prompt,
        "prompt_tokens_cached": row.cached,
        "generation_tokens": row.generated,
    }
    counters |= {f"requests_finished:{why}": count for why, count in row.finishes.items()}
    named: Iterator[tuple[str, Histogram]] = iter(()) if latencies is None else latencies.named()
    histograms = {name: {"sum": h.sum, "buckets": h.sparse()} for name, h in named if h.counts}
    return {"counters": counters, "histograms": histograms}
