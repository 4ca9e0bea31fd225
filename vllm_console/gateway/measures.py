"""What is counted of every request: by model, key and class, and latencies in fine buckets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator

import msgspec

from vllm_console.gateway.histogram import Histogram, bucket, merged

OTHER = "other"
"""Stands for the models and keys that come once there are too many."""
ROWS = 1000
"""Pairs of model and key that are told apart: the labels of a metric have to stay bounded."""
TIMED = 200
"""Models, and keys, with times of their own: 40 kB each, and more in all than the history keeps."""
GONE = 499
"""The status of a request whose client went away, as nginx has it."""


class Record(msgspec.Struct, gc=False, kw_only=True):
    """One request that is over, whatever became of it. Never holds text of the request."""

    id: str
    """Its `X-Request-Id`."""
    at: float
    """When it came, seconds since the epoch."""
    key: str = ""
    """The name of its key; empty without one."""
    model: str = ""
    """The model's name in the fleet; empty where the request named none that there is."""
    worker: str = ""
    """Who answered; empty where nobody did."""
    cls: int = 1
    """0 high, 1 normal, 2 low."""
    path: str = ""
    status: int = 0
    """What the client got, or would have got; 499 when it went away before the end."""
    stream: bool = False
    queue_s: float | None = None
    """Seconds it waited to be admitted; `None` where it never was."""
    ttft_s: float | None = None
    """Seconds to the first byte of the answer's body."""
    e2e_s: float = 0.0
    """Seconds to the last byte."""
    prompt: int = 0
    cached: int = 0
    generated: int = 0
    finish: str | None = None
    """Why the engine stopped: stop, length, tool_calls …"""
    gpu_s: float = 0.0
    """Its share of the worker's GPU time, in GPU-seconds."""
    cost: float = 0.0
    retries: int = 0
    bytes_out: int = 0
    error: str | None = None
    """What went wrong, as a word: the code of a refusal, or how the answer broke off."""


class Latencies:
    """The times of requests that were served to their end; to the first token only of streams,
    as a whole answer does not tell when that was."""

    __slots__ = ("e2e", "queue", "tpot", "ttft")

    def __init__(self) -> None:
        self.queue = Histogram()
        self.ttft = Histogram()
        self.tpot = Histogram()
        """Seconds per token after the first: one value a request, its mean."""
        self.e2e = Histogram()

    def named(self) -> Iterator[tuple[str, Histogram]]:
        """Each by the name that the vocabulary has for it."""
        yield "queue_s", self.queue
        yield "ttft_s", self.ttft
        yield "tpot_s", self.tpot
        yield "e2e_s", self.e2e


def together(parts: Iterable[Latencies]) -> Latencies:
    """The times of several models as those of one."""
    whole, each = Latencies(), list(parts)
    whole.queue = merged(part.queue for part in each)
    whole.ttft = merged(part.ttft for part in each)
    whole.tpot = merged(part.tpot for part in each)
    whole.e2e = merged(part.e2e for part in each)
    return whole


class Row:
    """What requests of one model, key and class add up to."""

    __slots__ = ("cached", "codes", "cost", "finishes", "generated", "gpu_s", "prompt", "retries")

    def __init__(self) -> None:
        self.codes: defaultdict[int, int] = defaultdict(int)
        """Requests by status."""
        self.finishes: defaultdict[str, int] = defaultdict(int)
        """Requests by how they ended: what the engine says, else "error", "abort", "refused"."""
        self.prompt = 0
        self.cached = 0
        self.generated = 0
        self.gpu_s = 0.0
        self.cost = 0.0
        self.retries = 0

    @property
    def requests(self) -> int:
        """Requests in total."""
        return sum(self.codes.values())

    @property
    def failed(self) -> int:
        """Requests that got an answer of 500 or above, or one that broke off."""
        return self.finishes.get("error", 0)

    @property
    def disconnects(self) -> int:
        """Requests whose client went away."""
        return self.codes.get(GONE, 0)

    def add(self, other: Row) -> None:
        """Count what another row counts, too."""
        for code, count in other.codes.items():
            self.codes[code] += count
        for finish, count in other.finishes.items():
            self.finishes[finish] += count
        self.prompt += other.prompt
        self.cached += other.cached
        self.generated += other.generated
        self.gpu_s += other.gpu_s
        self.cost += other.cost
        self.retries += other.retries


class Measures:
    """Counts of the gateway since it started; none of them ever falls. For one thread."""

    def __init__(self, rows: int = ROWS, timed: int = TIMED) -> None:
        """`rows` bounds the pairs of model and key that are told apart, `timed` whose times are."""
        self.rows: dict[tuple[str, str, int], Row] = {}
        self.models: dict[str, Latencies] = {}
        self.keys: dict[str, Latencies] = {}
        self.requests = 0
        self._rows = rows * 3
        self._timed = timed

    def record(self, r: Record) -> None:
        """Count a request that is over."""
        self.requests += 1
        model, key = r.model, r.key
        row = self.rows.get((model, key, r.cls)) or self._row(model, key, r.cls)
        status = r.status
        row.codes[status] += 1
        row.prompt += r.prompt
        row.cached += r.cached
        row.generated += r.generated
        row.gpu_s += r.gpu_s
        row.cost += r.cost
        row.retries += r.retries
        if status == 200 and r.error is None:
            row.finishes[r.finish or "stop"] += 1
            self._times(r)
        else:
            row.finishes[_ending(r)] += 1

    def by_model(self) -> dict[str, Row]:
        """Rows of all keys and classes together."""
        found: defaultdict[str, Row] = defaultdict(Row)
        for (model, _, _), row in self.rows.items():
            found[model].add(row)
        return found

    def by_key(self, keys: Collection[str]) -> dict[str, Row]:
        """Rows of all models and classes together, of these keys."""
        found: defaultdict[str, Row] = defaultdict(Row)
        for (_, key, _), row in self.rows.items():
            if key in keys:
                found[key].add(row)
        return found

    def by_pair(self) -> dict[tuple[str, str], Row]:
        """Rows of all classes together, by model and key."""
        found: defaultdict[tuple[str, str], Row] = defaultdict(Row)
        for (model, key, _), row in self.rows.items():
            found[model, key].add(row)
        return found

    def most_used(self, count: int) -> set[str]:
        """The keys with the most requests."""
        requests: defaultdict[str, int] = defaultdict(int)
        for (_, key, _), row in self.rows.items():
            requests[key] += row.requests
        return set(sorted(requests, key=requests.__getitem__, reverse=True)[:count])

    def _times(self, r: Record) -> None:
        model = self.models.get(r.model) or self._latencies(self.models, r.model)
        key = self.keys.get(r.key) or self._latencies(self.keys, r.key)
        e2e, ttft = r.e2e_s, r.ttft_s
        _count(model.queue, key.queue, r.queue_s or 0.0)
        _count(model.e2e, key.e2e, e2e)
        if r.stream and ttft is not None:
            _count(model.ttft, key.ttft, ttft)
            if r.generated > 1:
                _count(model.tpot, key.tpot, (e2e - ttft) / (r.generated - 1))

    def _row(self, model: str, key: str, cls: int) -> Row:
        """The row of what was not seen yet; a common one where there are too many."""
        place = (model, key, cls)
        if len(self.rows) >= self._rows:
            place = (OTHER, OTHER, cls)
        return self.rows.setdefault(place, Row())

    def _latencies(self, kept: dict[str, Latencies], name: str) -> Latencies:
        if len(kept) >= self._timed:
            name = OTHER
        return kept.setdefault(name, Latencies())


def _count(one: Histogram, other: Histogram, seconds: float) -> None:
    """Record in both; their bucket is worked out once."""
    index = bucket(seconds)
    one.counts[index] += 1
    one.sum += seconds
    other.counts[index] += 1
    other.sum += seconds


def _ending(r: Record) -> str:
    """How a request ended that was not served to its end."""
    if r.status == GONE:
        return "abort"
    return "refused" if 400 <= r.status < 500 else "error"
