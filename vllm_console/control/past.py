"""Draws the fleet as it was at a moment, out of what is stored: samples, events, revisions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import tzinfo
from typing import Any

from vllm_console.control.picture import alerts
from vllm_console.control.served import TELLING
from vllm_console.errors import InvalidInput, NotFound
from vllm_console.history.file import named_columns
from vllm_console.history.happenings import UP, Happening, reigns
from vllm_console.history.reading import Reader
from vllm_console.history.records import (
    Revision,
    Span,
    read_events,
    read_events_like,
    read_newest_states,
    read_revisions,
)
from vllm_console.history.subjects import workers_of
from vllm_console.history.tiers import TIERS, Tier
from vllm_console.history.when import is_duration, iso, moment, seconds_of
from vllm_console.snapshot import (
    Daemon,
    Engine,
    Event,
    Gpu,
    Load,
    Memory,
    Model,
    Scale,
    Slo,
    Snapshot,
)
from vllm_console.snapshot import Worker as WorkerView
from vllm_console.telemetry.load import LATENCY_WINDOW_S, RATE_WINDOW_S, load
from vllm_console.telemetry.sample import Sample
from vllm_console.telemetry.window import Window
from vllm_console.workers.states import SERVING, State

_EVENTS_SHOWN = 50
_GONE = (State.STOPPED, "ended while", "was gone")
"""How the events begin after which a worker is no longer there."""
_LOST = "the machine was rebooted, lost "
_BY_WORD = {state.value: state for state in State}
_STATES = frozenset({*_BY_WORD, *UP, "ended"})
"""First words of the events that say which state a worker is in from then on."""
_WORKER = re.compile(r".+-\d+")
_DECISIVE = ("was gone*", f"{_LOST}*", "*revision [0-9]*", "daemon *", "down")
"""What else says what was then, as patterns of SQLite's GLOB."""


def moment_of(text: str, now: float, zone: tzinfo | None = None) -> float:
    """Seconds since the epoch of a time that a person wrote; "-2h" is "2h" ago.

    Raises `InvalidInput` for what is no time, or is still to come.
    """
    ago = text.strip().removeprefix("-")
    at = moment(ago if is_duration(ago) else text, now, zone)
    if at > now:
        raise InvalidInput(f'"{text}" is still to come')
    return at


def tier_at(at: float, now: float) -> Tier:
    """The finest rows that are still kept of a moment."""
    age_ms = (now - at) * 1e3
    kept = (t for t in TIERS if t.keep_s is None or age_ms < t.keep_s * 1e3 - t.period_ms)
    return next(kept)


def snapshot_at(
    reader: Reader, at: float, now: float, *, fleet: str, gpus: Sequence[Gpu] = ()
) -> Snapshot:
    """The fleet as it was at `at`, seconds since the epoch; what is not stored is `None`.

    `gpus` are those known today, for the names and sizes that are not stored. `interval_s` is that
    of the rows kept of that time: 1 s of the last two hours, coarser before. Raises `NotFound` for
    a moment before anything was recorded.
    """
    begin = reader.begin()
    if begin is None or at < begin - 1.0:
        since = "" if begin is None else f"; the oldest is of {iso(begin)}"
        raise NotFound(f"nothing is recorded of {iso(at)}{since}")
    return _Moment(reader, at, now).snapshot(fleet, gpus)


@dataclass(frozen=True, slots=True)
class _Told:
    """What the newest event about a worker's state says."""

    state: State
    at: float
    event: Event


class _Moment:
    """One moment of the past, and what is looked up once for it."""

    def __init__(self, reader: Reader, at: float, now: float) -> None:
        self._reader = reader
        self._at = at
        tier = tier_at(at, now)
        self._step = max(1.0, tier.step_ms / 1e3)
        self._close = tier.close_ms / 1e3
        with named_columns(reader.connection) as connection:
            by = iso(at)
            self._shown = read_events(connection, Span(until=by, limit=_EVENTS_SHOWN))
            told = read_newest_states(connection, by, _STATES)
            told += read_events_like(connection, by, _DECISIVE)
            self._revisions = read_revisions(connection)
        self._events = sorted({e.seq: e for e in told}.values(), key=lambda e: e.seq)
        """Those that decide what was then; of older ones that say nothing more, none."""
        self._subjects = set(reader.subjects())
        self._of_gpus = any(subject.startswith("gpu/") for subject in self._subjects)
        self._told = _states(self._events)
        self._of_models: dict[str, list[Happening]] = {}
        for event in self._events:
            if event.subject in self._revisions:
                happening = Happening(_seconds(event), event.level, event.subject, event.text)
                self._of_models.setdefault(event.subject, []).append(happening)

    def snapshot(self, fleet: str, gpus: Sequence[Gpu]) -> Snapshot:
        models = tuple(self._model(name) for name in self._names())
        devices = tuple(self._gpus(gpus))
        return Snapshot(
            at=iso(self._at),
            fleet=fleet,
            daemon=self._daemon(),
            models=models,
            load=self._load("fleet", None)[0] if any(m.ready for m in models) else Load(),
            gpus=devices,
            gpus_reason=None if devices else "no GPU was recorded at that time",
            alerts=alerts(models, (), devices),
            events=tuple(replace(e, failure=None) for e in reversed(self._shown)),
            interval_s=self._step,
        )

    # -- models ------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        """Models that had a configuration by then, in the order in which they came."""
        first = {
            name: kept[0].at
            for name, kept in self._revisions.items()
            if kept and kept[0].at <= iso(self._at)
        }
        for worker in self._told:
            first.setdefault(worker.rpartition("-")[0], "")
        return sorted(first, key=lambda name: (first[name], name))

    def _model(self, name: str) -> Model:
        revision = self._revision(name)
        config: Mapping[str, Any] = revision.config if revision else {}
        options = _table(config, "options")
        engine = _engine(options)
        workers = tuple(self._workers(name, config, engine))
        states = {worker.state for worker in workers}
        serving = sum(worker.state in SERVING for worker in workers)
        slots = engine.max_num_seqs * serving if engine.max_num_seqs else None
        scale = config.get("scale")
        return Model(
            name=name,
            source=str(config.get("source") or ""),
            revision=revision.number if revision else 0,
            state=next((state for state in TELLING if state in states), State.STOPPED),
            wanted=len(workers),
            ready=serving,
            aliases=tuple(config.get("aliases") or ()),
            autostart=bool(config.get("autostart", True)),
            pinned=bool(config.get("pinned", False)),
            engine=engine,
            memory=Memory(device="gpu" if self._of_gpus else "host"),
            load=self._load(f"model/{name}", slots)[0] if serving else Load(),
            slo=Slo(**_known(Slo, _table(config, "slo"))),
            scale=Scale(**_known(Scale, scale)) if isinstance(scale, dict) else Scale(),
            options=options,
            workers=workers,
        )

    def _revision(self, name: str) -> Revision | None:
        """The revision that served then; the newest there was, where no event tells."""
        kept = [r for r in self._revisions.get(name, ()) if r.at <= iso(self._at)]
        told = self._of_models.get(name, ())
        found = reigns(told, kept, name, self._at - 1.0, self._at + 1.0)
        number = found[-1].revision if found else None
        return next((r for r in kept if r.number == number), kept[-1] if kept else None)

    def _workers(
        self, model: str, config: Mapping[str, Any], engine: Engine
    ) -> Iterator[WorkerView]:
        named = {worker.removeprefix("worker/") for worker in self._seen(model)}
        named |= {worker for worker in self._told if worker.rpartition("-")[0] == model}
        for worker in sorted(named, key=lambda name: (len(name), name)):
            told = self._told.get(worker)
            if told is None or told.state == State.STOPPED:
                continue
            yield self._worker(worker, told, config, engine)

    def _seen(self, model: str) -> list[str]:
        return workers_of(f"model/{model}", self._subjects)

    def _worker(
        self, worker: str, told: _Told, config: Mapping[str, Any], engine: Engine
    ) -> WorkerView:
        serving = told.state in SERVING
        loaded, stale = self._load(f"worker/{worker}", engine.max_num_seqs)
        if not serving:
            loaded, stale = Load(), None
        _, _, reason = told.event.text.partition(": ")
        failure = told.event.failure
        shared = {f.name for f in fields(Load)} & {f.name for f in fields(WorkerView)}
        return WorkerView(
            id=worker,
            state=told.state,
            reason=reason if reason and failure is None and not serving else None,
            elapsed_s=self._at - told.at if serving or told.state == State.STARTING else None,
            gpus=tuple(config.get("devices") or ()),
            failure=failure,
            stale_s=stale,
            **{name: getattr(loaded, name) for name in shared},
        )

    # -- numbers -----------------------------------------------------------------------------

    def _load(self, subject: str, max_num_seqs: int | None) -> tuple[Load, float | None]:
        """What a subject did then, and how old its newest sample was, in seconds."""
        if subject not in self._subjects:
            return Load(), None
        rates = self._window(subject, RATE_WINDOW_S)
        if rates is None:
            return Load(), None
        age = max(0.0, self._at - rates.new.at)
        if age > self._close:
            return Load(), age
        window = self._window(subject, LATENCY_WINDOW_S)
        return load(rates, rates.new, max_num_seqs, window), age if self._step == 1.0 else 0.0

    def _window(self, subject: str, seconds: float) -> Window | None:
        """The window of so many seconds up to then, or of two rows where they lie further apart."""
        for span in (max(seconds, 2 * self._step), seconds + 2 * self._close):
            window = self._reader.window(subject, self._at - span, self._at)
            if window is not None:
                return window
        return None

    def _gpus(self, today: Sequence[Gpu]) -> Iterator[Gpu]:
        known = {gpu.uuid: gpu for gpu in today}
        there = sorted(s.removeprefix("gpu/") for s in self._subjects if s.startswith("gpu/"))
        there.sort(key=lambda uuid: known[uuid].index if uuid in known else len(known))
        for place, uuid in enumerate(there):
            sample = self._newest(f"gpu/{uuid}")
            if sample is None:
                continue
            gauge = sample.gauges.get
            used = gauge("memory_used_bytes")
            base = known.get(uuid) or Gpu("", place, uuid, "")
            yield Gpu(
                base.node,
                base.index,
                uuid,
                base.name,
                utilization=gauge("utilization"),
                memory_used_bytes=None if used is None else round(used),
                memory_total_bytes=base.memory_total_bytes,
                temperature_c=gauge("temperature_c"),
                power_w=gauge("power_w"),
                power_limit_w=base.power_limit_w,
            )

    def _newest(self, subject: str) -> Sample | None:
        """The newest sample by then; `None` where that is too old to be called of then."""
        window = self._window(subject, RATE_WINDOW_S)
        return window.new if window and self._at - window.new.at <= self._close else None

    # -- the daemon --------------------------------------------------------------------------

    def _daemon(self) -> Daemon:
        """Whether one ran: its events tell when it started and when the fleet was taken down."""
        for event in reversed(self._events):
            if event.subject == "fleet" and event.text == "down":
                return Daemon(running=False)
            if event.subject == "fleet" and event.text.startswith("daemon "):
                version = event.text.split()[1]
                return Daemon(True, version=version, uptime_s=self._at - seconds_of(event.at))
        return Daemon(running=False)


def _states(events: Sequence[Event]) -> dict[str, _Told]:
    """The state that each worker was last said to be in."""
    told: dict[str, _Told] = {}
    for event in events:
        word = event.text.partition(" ")[0].rstrip(":,")
        if event.text.startswith(_LOST):
            for worker in event.text.removeprefix(_LOST).split(", "):
                told.pop(worker, None)
        elif not _WORKER.fullmatch(event.subject):
            continue  # the gateway is adopted and ends too
        elif event.text.startswith(_GONE):
            told.pop(event.subject, None)
        elif word in UP and word not in _BY_WORD:
            told[event.subject] = _Told(State.READY, _seconds(event), event)
        elif word == "ended":
            told[event.subject] = _Told(State.BACKOFF, _seconds(event), event)
        elif word in _BY_WORD:
            told[event.subject] = _Told(_BY_WORD[word], _seconds(event), event)
    return told


def _seconds(event: Event) -> float:
    try:
        return seconds_of(event.at)
    except ValueError:
        return 0.0


def _engine(options: Mapping[str, Any]) -> Engine:
    """What the options alone say about an engine."""
    kinds = {f.name: str(f.type).removesuffix(" | None") for f in fields(Engine)}
    fitting: dict[str, tuple[type, ...]] = {
        "int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)
    }  # fmt: skip
    found: dict[str, Any] = {
        name: value
        for name, value in options.items()
        if isinstance(value, fitting.get(kind := kinds.get(name, ""), ()))
        and (kind == "bool" or not isinstance(value, bool))
    }
    return Engine(**found)


def _table(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = config.get(name)
    return table if isinstance(table, dict) else {}


def _known(kind: type[Slo] | type[Scale], table: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in table.items() if name in names}
