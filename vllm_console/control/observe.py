"""From scrapes to the numbers of a snapshot: feeds the history and reads windows back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from vllm_console.history.base import History
from vllm_console.history.store import Store
from vllm_console.history.totals import Totals
from vllm_console.http1 import Pool
from vllm_console.snapshot import Gpu, Load
from vllm_console.telemetry.load import LATENCY_WINDOW_S, RATE_WINDOW_S, load
from vllm_console.telemetry.names import MARKS
from vllm_console.telemetry.sample import Histogram, Miss, Sample
from vllm_console.telemetry.scrape import Scraper

BUSY_S = 1.0
"""Scrape interval of a worker that works or is looked at."""
IDLE_S = 5.0
"""Scrape interval of a worker that does nothing while nobody looks."""
_GPU_GAUGES = ("utilization", "memory_used_bytes", "power_w", "temperature_c")
_GAUGES_LAST_S = 3 * IDLE_S
"""A sample older than this is not shown as now."""


_SILENT = 2
"""Scrapes in a row without a sample after which nobody counts what a worker said before."""


@dataclass(slots=True)
class _Watched:
    model: str
    since: float
    fresh: bool
    sample: Sample | None = None
    reason: str | None = None
    progress: float = -1.0
    """What its engine had done when it last got on."""
    moved: float = 0.0
    """When that was; as long as nothing runs, the newest sample."""
    misses: int = 0
    """Scrapes in a row that gave no sample."""

    @property
    def heard(self) -> bool:
        """Whether it answers, one scrape that fails aside."""
        return self.sample is not None and self.misses < _SILENT


class Observation:
    """Scrapes every serving worker and keeps what it says, by worker, by model, for the fleet."""

    def __init__(
        self,
        pool: Pool,
        history: History,
        clock: Callable[[], float] = time.monotonic,
        *,
        on_sample: Callable[[str], None] = lambda worker_id: None,
        store: Store | None = None,
    ) -> None:
        """`on_sample` hears of every new sample of a worker; `store` keeps what is older."""
        self.history = history
        self._store = store
        self._clock = clock
        self._on_sample = on_sample
        self._watched: dict[str, _Watched] = {}
        self._totals: dict[str, Totals] = {}
        self._fleet = Totals()
        self._scraper = Scraper(
            pool, interval_s=BUSY_S, on_sample=self._sampled, on_miss=self._missed, clock=clock
        )
        self.looked_at = False
        """Whether somebody watches: then every worker is scraped at the busy rate."""

    def watch(self, worker_id: str, model: str, url: str, *, fresh: bool) -> None:
        """Scrape a worker from now on; one that is watched already goes on as it is.

        A `fresh` worker has just become ready for the first time: it has counted from zero, so
        what its first sample holds happened since now. Of any other the first sample is the base.
        """
        if worker_id not in self._watched:
            self._watched[worker_id] = _Watched(model, self._clock(), fresh)
            self._scraper.add(worker_id, url)

    def unwatch(self, worker_id: str) -> None:
        """Stop scraping a worker; what it counted stays in its model's totals."""
        watched = self._watched.pop(worker_id, None)
        if watched is not None:
            self._scraper.remove(worker_id)
            self._fleet.leave(worker_id)
            if watched.model in self._totals:
                self._totals[watched.model].leave(worker_id)

    def forget_worker(self, worker_id: str) -> None:
        """Drop a worker for good."""
        self.unwatch(worker_id)
        self.history.forget(f"worker/{worker_id}")

    def tick(self) -> None:
        """Record models and the fleet once an interval, and set each worker's scrape rate."""
        now = self._clock()
        for model, totals in self._totals.items():
            self._record(f"model/{model}", totals.sample(now), now)
        self._record("fleet", self._fleet.sample(now), now)
        if self._store is not None:
            self._store.tick()
        for worker_id, watched in self._watched.items():
            busy = self.looked_at or watched.sample is None or _works(watched.sample)
            self._scraper.set_interval(worker_id, BUSY_S if busy else IDLE_S)

    def record_gpus(self, gpus: Iterable[Gpu]) -> None:
        """Keep what each GPU does now."""
        if self._store is not None:
            now = self._clock()
            for gpu in gpus:
                gauges = {name: getattr(gpu, name) for name in _GPU_GAUGES}
                known = {name: float(value) for name, value in gauges.items() if value is not None}
                if known:
                    self._store.record(f"gpu/{gpu.uuid}", Sample(now, gauges=known))

    def worker_load(self, worker_id: str, max_num_seqs: int | None) -> Load:
        """What one worker does now; empty when its newest sample is too old."""
        watched = self._watched.get(worker_id)
        if watched is None or watched.sample is None or not watched.heard:
            return Load()
        return self._load(f"worker/{worker_id}", watched.sample, max_num_seqs)

    def model_load(self, model: str, max_num_seqs: int | None) -> Load:
        """What all workers of a model do now."""
        members = [w for w in self._watched.values() if w.model == model and w.heard]
        sample = self.history.latest(f"model/{model}")
        if not members or sample is None:
            return Load()
        return self._load(f"model/{model}", sample, max_num_seqs)

    def fleet_load(self, max_num_seqs: int | None) -> Load:
        """What all workers of all models do now."""
        sample = self.history.latest("fleet")
        if sample is None or not any(w.heard for w in self._watched.values()):
            return Load()
        return self._load("fleet", sample, max_num_seqs)

    def info(self, worker_id: str) -> dict[str, str]:
        """The labels of the worker's vllm:cache_config_info; empty before its first sample."""
        watched = self._watched.get(worker_id)
        return dict(watched.sample.info) if watched is not None and watched.sample else {}

    def stale(self, worker_id: str) -> tuple[float | None, str | None]:
        """Age of the newest sample in seconds, and why the newest scrape failed if it did.

        Before the first sample the age counts from when scraping began.
        """
        watched = self._watched.get(worker_id)
        if watched is None:
            return None, None
        newest = watched.sample.at if watched.sample else watched.since
        return max(0.0, self._clock() - newest), watched.reason

    def frozen_s(self, worker_id: str) -> float:
        """Seconds in which requests ran and no engine iteration finished, up to the newest sample.

        /health and /metrics go on answering 200 when the engine hangs; only its counters tell.
        """
        watched = self._watched.get(worker_id)
        return watched.sample.at - watched.moved if watched and watched.sample else 0.0

    async def close(self) -> None:
        """Stop scraping."""
        await self._scraper.close()

    def _load(self, subject: str, sample: Sample, max_num_seqs: int | None) -> Load:
        if self._clock() - sample.at > _GAUGES_LAST_S:
            return Load()
        rates = self.history.window(subject, RATE_WINDOW_S)
        return load(rates, sample, max_num_seqs, self.history.window(subject, LATENCY_WINDOW_S))

    def _record(self, subject: str, sample: Sample | None, now: float) -> None:
        if sample is None:
            self.history.gap(subject, now)
        else:
            self.history.record(subject, sample)
            if self._store is not None:
                self._store.record(subject, sample)

    def _sampled(self, worker_id: str, sample: Sample) -> None:
        watched = self._watched[worker_id]
        first = watched.sample is None
        if first and watched.fresh and watched.since < sample.at:
            self._keep(worker_id, watched.model, _zeroed(sample, watched.since), first)
            first = False
            self._begin(f"model/{watched.model}", self._totals[watched.model], watched.since)
            self._begin("fleet", self._fleet, watched.since)
        watched.sample, watched.reason, watched.misses = sample, None, 0
        progress = _progress(sample)
        if not sample.gauges.get("running") or progress is None or progress != watched.progress:
            watched.progress, watched.moved = progress or 0.0, sample.at
        self._keep(worker_id, watched.model, sample, first)
        self._on_sample(worker_id)

    def _begin(self, subject: str, totals: Totals, at: float) -> None:
        """Give a subject that has no sample yet one from before its first request."""
        before = totals.sample(at)
        if before is not None and self.history.latest(subject) is None:
            self._record(subject, before, at)

    def _keep(self, worker_id: str, model: str, sample: Sample, first: bool) -> None:
        subject = f"worker/{worker_id}"
        self.history.record(subject, sample)
        if self._store is not None:
            joins = (f"model/{model}", "fleet") if first else ()
            self._store.record(subject, sample, joins)
        unbroken = self.history.latest(subject) or sample
        self._totals.setdefault(model, Totals()).add(worker_id, unbroken)
        self._fleet.add(worker_id, unbroken)

    def _missed(self, worker_id: str, miss: Miss) -> None:
        watched = self._watched[worker_id]
        watched.reason, watched.misses = miss.reason, watched.misses + 1
        if watched.misses == _SILENT and watched.model in self._totals:
            self._totals[watched.model].silent(worker_id)
            self._fleet.silent(worker_id)
        self.history.gap(f"worker/{worker_id}", miss.at)


def _works(sample: Sample) -> bool:
    return bool(sample.gauges.get("running") or sample.gauges.get("waiting"))


def _progress(sample: Sample) -> float | None:
    """A count that grows with every iteration; `None` where this vLLM counts nothing such."""
    steps = sample.histograms.get("step_tokens")
    if steps is not None:
        return steps.count
    tokens = [sample.counters.get(name) for name in ("generation_tokens", "prompt_tokens")]
    known = [count for count in tokens if count is not None]
    return sum(known) if known else None


def _zeroed(sample: Sample, at: float) -> Sample:
    """The same worker before its first request."""
    return replace(
        sample,
        at=at,
        counters=dict.fromkeys(sample.counters, 0.0),
        gauges=dict.fromkeys(sample.gauges, 0.0)
        | {k: v for k, v in sample.gauges.items() if k in MARKS},
        histograms={
            name: Histogram(histogram.bounds, (0.0,) * len(histogram.counts), 0.0)
            for name, histogram in sample.histograms.items()
        },
    )
