"""What a block is given to draw: the newest snapshot, what is selected in it, and its past."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import tzinfo

from vllm_console.snapshot import Alert, Load, Model, Snapshot, Worker
from vllm_console.ui.format import age
from vllm_console.ui.states import look
from vllm_console.ui.trends import Trends

STALE_S = 5.0
"""Age from which a worker's newest sample counts as old: five missed scrapes at 1 Hz."""
MISSED_S = 2.0
"""The same where the newest scrape is known to have failed: two of them have."""


@dataclass(frozen=True, slots=True)
class Limit:
    """From where on a value is a warning or critical; `None` where the panel file sets none."""

    warn: float | None = None
    crit: float | None = None


NO_LIMIT = Limit()
NOT_RECORDED = "not recorded"
"""What stands in a stored picture where the daemon tells something of now alone."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the model list: a model, or one worker of a model that has several."""

    key: str
    """"model/NAME" or "worker/ID": also the subject of its trends."""
    model: Model
    worker: Worker | None = None
    last: bool = False
    """The last worker of its model."""


@dataclass(frozen=True, slots=True)
class View:
    """Everything a block may draw."""

    snapshot: Snapshot | None = None
    trends: Trends = field(default_factory=Trends)
    selected: str | None = None
    """The selected entry's key."""
    filter: str = ""
    old_s: float | None = None
    """Age of the snapshot in seconds when it is older than it should be; `None` while fresh."""
    lost: str | None = None
    """Why no daemon answers; `None` while one does."""
    paused: bool = False
    past: bool = False
    """The snapshot is of the past, not of now."""
    recorded: str | None = None
    """The name of the file that is replayed; `None` where a daemon answers."""
    zone: tzinfo | None = None
    acknowledged: frozenset[Alert] = frozenset()
    """Alerts, without their numbers, that a person has seen."""
    pending: Mapping[str, str] = field(default_factory=dict)
    """The verb of each model's command that has not come to its end."""
    limits: Mapping[str, Limit] = field(default_factory=dict)
    """Thresholds of the panel that draws."""

    def limit(self, name: str) -> Limit:
        """A threshold of the panel file."""
        return self.limits.get(name, NO_LIMIT)

    @property
    def stored(self) -> bool:
        """Whether the picture was made of what is recorded, which is less than what is seen now."""
        return self.past or self.recorded is not None

    @property
    def entries(self) -> list[Entry]:
        """The rows of the model list that pass the filter."""
        return [] if self.snapshot is None else entries(self.snapshot, self.filter)

    @property
    def entry(self) -> Entry | None:
        """The selected row."""
        if self.snapshot is None or self.selected is None:
            return None
        return find(self.snapshot, self.selected)

    @property
    def model(self) -> Model | None:
        """The selected model, or the model of the selected worker."""
        entry = self.entry
        return None if entry is None else entry.model

    @property
    def worker(self) -> Worker | None:
        """The selected worker, or the only worker of the selected model."""
        entry = self.entry
        if entry is None:
            return None
        if entry.worker is not None:
            return entry.worker
        return telling(entry.model)

    @property
    def load(self) -> Load | None:
        """The load of what is selected; `None` when nothing is."""
        entry = self.entry
        if entry is None:
            return None
        return entry.model.load if entry.worker is None else worker_load(entry.worker)

    @property
    def state(self) -> str | None:
        """The state of what is selected."""
        entry = self.entry
        if entry is None:
            return None
        return entry.model.state if entry.worker is None else entry.worker.state

    @property
    def sampled(self) -> bool:
        """Whether what is selected has a sample at all."""
        load = self.load
        return load is not None and (
            load.running is not None
            or load.kv_cache_usage is not None
            or load.generation_tokens_per_s is not None
        )

    def trend(self, metric: str, width: int) -> list[float | None]:
        """The selected subject's newest values of a metric, two a cell."""
        return [] if self.selected is None else self.trends.tail(self.selected, metric, width * 2)

    @property
    def idle(self) -> tuple[str, str]:
        """Why there is nothing to draw for what is selected, and what to do about it."""
        if self.snapshot is None:
            return ("no daemon answers", self.lost) if self.lost else ("connecting …", "")
        if not self.snapshot.models:
            return "no models yet", ""
        state = self.state
        if state is None:
            return "nothing selected", ""
        group = look(state).group
        if group == "loading":
            return "no samples while loading", _start(self.worker)
        if group == "stopped":
            return "stopped · l loads it", ""
        if group == "asleep":
            return "asleep · w wakes it", (self.worker.reason or "") if self.worker else ""
        if group == "failed":
            worker = self.worker
            cause = worker.failure.cause if worker and worker.failure else ""
            return "failed · enter shows the log", cause
        worker = self.worker
        if worker is not None and worker.stale_reason:
            return "no sample", worker.stale_reason
        return ("waiting for the first sample", "") if group == "ready" else (state, "")


def _start(worker: Worker | None) -> str:
    """`weights · about 58 s left` of a start, as far as it is known."""
    if worker is None or worker.stage is None:
        return (worker.reason or "") if worker else ""
    if worker.expected_s is None or worker.elapsed_s is None:
        return worker.stage
    left = worker.expected_s - worker.elapsed_s
    return f"{worker.stage} · " + (f"about {age(left)} left" if left >= 1 else "soon ready")


def entries(snapshot: Snapshot, words: str = "") -> list[Entry]:
    """Models in the fleet's order, each followed by its workers when it has more than one.

    `words` keeps models in whose name, source, alias or state it occurs, in any case.
    """
    wanted = words.strip().casefold()
    rows: list[Entry] = []
    for model in snapshot.models:
        texts = (model.name, model.source, model.state, *model.aliases)
        if wanted and not any(wanted in text.casefold() for text in texts):
            continue
        rows.append(Entry(f"model/{model.name}", model))
        if len(model.workers) > 1:
            rows += [
                Entry(f"worker/{w.id}", model, w, last=w is model.workers[-1])
                for w in model.workers
            ]
    return rows


def find(snapshot: Snapshot, key: str) -> Entry | None:
    """The row with this key, whatever the filter."""
    kind, _, name = key.partition("/")
    for model in snapshot.models:
        if kind == "model" and model.name == name:
            return Entry(key, model)
        if kind == "worker":
            for worker in model.workers:
                if worker.id == name:
                    return Entry(key, model, worker, last=worker is model.workers[-1])
    return None


def keep(selected: str | None, rows: list[Entry], before: list[Entry]) -> str | None:
    """The key that stays selected when the list changes.

    The same key if it is still there; else the model of a worker that is gone; else the row that
    now stands where it stood.
    """
    keys = [row.key for row in rows]
    if selected in keys:
        return selected
    if not rows:
        return None
    old = next((i for i, row in enumerate(before) if row.key == selected), None)
    if old is None:
        return keys[0]
    parent = f"model/{before[old].model.name}"
    return parent if parent in keys else keys[min(old, len(keys) - 1)]


def telling(model: Model) -> Worker | None:
    """The worker that says most about its model: the one in the model's own state."""
    for worker in model.workers:
        if worker.state == model.state:
            return worker
    return model.workers[0] if model.workers else None


def worker_load(worker: Worker) -> Load:
    """A worker's own numbers as a load; what is only measured a model stays unknown."""
    return Load(
        running=worker.running,
        waiting=worker.waiting,
        kv_cache_usage=worker.kv_cache_usage,
        generation_tokens_per_s=worker.generation_tokens_per_s,
        prompt_tokens_per_s=worker.prompt_tokens_per_s,
        requests_per_s=worker.requests_per_s,
        prefix_cache_hit_rate=worker.prefix_cache_hit_rate,
        preemptions_per_s=worker.preemptions_per_s,
        aborts_per_s=worker.aborts_per_s,
        batch_fill=worker.batch_fill,
        latency=worker.latency,
    )


def staleness(worker: Worker | None) -> str | None:
    """`12 s old` when a worker's newest sample is older than it should be."""
    if worker is None or worker.stale_s is None:
        return None
    if worker.stale_s < (MISSED_S if worker.stale_reason else STALE_S):
        return None
    return f"{age(worker.stale_s)} old"


_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def kind_of(alert: Alert) -> Alert:
    """An alert without its numbers, which move while it stays the same alert."""
    return Alert(alert.level, alert.subject, _NUMBER.sub("#", alert.text))
