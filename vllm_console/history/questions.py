"""Answers questions to the past: any metric of any span, by step, worker or revision."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

from vllm_console.answer import Answer, Change, Figure, Measured, Question
from vllm_console.errors import InvalidInput
from vllm_console.history import counted
from vllm_console.history.askable import TARGETS, Askable, Form, askable, usual
from vllm_console.history.availability import Spell, availability, spells
from vllm_console.history.counted import Span, pieces
from vllm_console.history.file import named_columns
from vllm_console.history.happenings import MARKS_MAX, Happening, happenings, marks, reigns
from vllm_console.history.reading import Gauge, Reader, covered
from vllm_console.history.records import read_revisions
from vllm_console.history.subjects import (
    Known,
    concerned_names,
    model_of,
    resolve,
    worker_names,
    workers_of,
)
from vllm_console.history.when import iso
from vllm_console.telemetry.window import Window


class _Part(NamedTuple):
    """The subject asked about, or one of its workers, models or revisions."""

    label: str | None
    subject: str
    spans: tuple[Span, ...]


def answer(reader: Reader, question: Question, known: Known, now: float) -> Answer:
    """What the past says; `now` is in seconds since the epoch.

    Raises `NotFound` for an unknown subject, `InvalidInput` for a metric that it cannot have.
    """
    return _Past(reader, question, known, now).answer()


class _Past:
    """One question, and what is looked up once for all of its metrics."""

    def __init__(self, reader: Reader, question: Question, known: Known, now: float) -> None:
        self._reader = reader
        self._question = question
        self._known = known
        self._now = now
        self._subject = resolve(question.subject, reader.subjects(), known)
        self._span = (question.since, question.until)
        self._windows: dict[tuple[str, float, float], Window | None] = {}
        self._gauges: dict[tuple[str, str, float, float], Gauge | None] = {}
        self._spells: dict[str, list[Spell]] = {}

    def answer(self) -> Answer:
        since, until = self._span
        steps = self._steps()
        metrics = self._metrics()
        parts = list(self._parts())
        measured = [self._measured(metric, part, steps) for metric in metrics for part in parts]
        here = happenings(self._reader.connection, min(until, self._now), since)
        told = marks(here, concerned_names(self._subject), since, until)
        return Answer(
            subject=self._subject,
            since=iso(since),
            until=iso(until),
            step_s=self._question.step,
            starts=tuple(iso(begin) for begin, _ in steps),
            measured=tuple(measured),
            marks=tuple(told[-MARKS_MAX:]),
            marks_left_out=max(0, len(told) - MARKS_MAX),
        )

    # -- what is asked ---------------------------------------------------------------------

    def _metrics(self) -> list[Askable]:
        of_gpu = self._subject.startswith("gpu/")
        rows = [askable(name) for name in self._question.metrics or usual(self._subject)]
        for row in rows:
            if of_gpu and not row.of_gpus:
                there = ", ".join(usual(self._subject))
                raise InvalidInput(f"{row.name}: is not of a GPU; of one there are {there}")
            if row.of_gpus and not of_gpu:
                raise InvalidInput(f'{row.name}: is of a GPU; ask for it by its index, "gpu/0"')
        return [
            each for row in rows for each in (self._slos(row) if row.form is Form.SLO else [row])
        ]

    def _slos(self, row: Askable) -> list[Askable]:
        """The targets that are meant: the one named, or those that fleet.toml sets."""
        if row.target is not None:
            return [row]
        wanted = [row.name.removeprefix("slo:")] if row.source else TARGETS
        found = [what for what in wanted if self._targets(what)]
        if not found:
            raise InvalidInput(
                f"{row.name}: fleet.toml sets no such target for {self._subject}; ask for one, as "
                f'"slo:{wanted[0]}:300ms", or set {wanted[0]}_p95 in [models.NAME.slo]'
            )
        return [askable(f"slo:{what}") for what in found]

    def _targets(self, what: str, subject: str | None = None) -> dict[str, float]:
        """The targets of the models of a subject, in seconds."""
        model = model_of(subject or self._subject)
        targets = self._known.targets
        models = targets if model is None else [model]
        return {m: targets[m][what] for m in models if what in targets.get(m, {})}

    def _parts(self) -> Iterator[_Part]:
        yield _Part(None, self._subject, (self._span,))
        match self._question.by:
            case "worker":
                if self._subject.startswith(("gpu/", "gateway")):
                    raise InvalidInput(f"by worker: is of a model or fleet, not of {self._subject}")
                found = workers_of(self._subject, self._reader.subjects())
            case "model" | "key" as by:
                if self._subject != "gateway" and (by == "key" or self._subject != "fleet"):
                    whose = "the gateway" if by == "key" else "the fleet or gateway"
                    raise InvalidInput(f"by {by}: is of {whose}, not of {self._subject}")
                begin = f"gateway/{by}/" if self._subject == "gateway" else "model/"
                found = [s for s in self._reader.subjects() if s.startswith(begin)]
            case "revision":
                yield from self._revisions()
                return
            case _:
                return
        for subject in found:
            if self._look(subject, *self._span) is not None:
                label = subject.removeprefix("gateway/").partition("/")[2]
                yield _Part(label, subject, (self._span,))

    def _revisions(self) -> Iterator[_Part]:
        model = model_of(self._subject)
        if model is None:
            raise InvalidInput(f"by revision: is of a model or worker, not of {self._subject}")
        with named_columns(self._reader.connection) as connection:
            kept = read_revisions(connection).get(model, [])
        spans: dict[int, list[Span]] = {}
        for reign in reigns(self._happenings, kept, model, *self._span):
            spans.setdefault(reign.revision, []).append((reign.since, reign.until))
        for number, reigned in sorted(spans.items()):
            yield _Part(f"revision {number}", self._subject, tuple(reigned))

    def _steps(self) -> list[Span]:
        since, until = self._span
        step = self._question.step
        if step is None:
            return []
        count = math.ceil(round((until - since) / step, 6))
        return [(since + step * i, min(until, since + step * (i + 1))) for i in range(count)]

    # -- what was measured --------------------------------------------------------------------

    def _measured(self, metric: Askable, part: _Part, steps: Sequence[Span]) -> Measured:
        figure = self._figure(metric, part.subject, part.spans)
        before = change = None
        if self._question.compare:
            since, until = self._span
            before = self._figure(metric, part.subject, ((2 * since - until, since),))
            change = _changes(before, figure)
        if steps:
            self._look_ahead(metric, part.subject)
        targets = set(self._targets_of(metric, part.subject).values())
        return Measured(
            metric=metric.name,
            unit=metric.unit,
            form=metric.form.value,
            part=part.label,
            figure=figure,
            before=before,
            change=change,
            target=targets.pop() if len(targets) == 1 else None,
            steps=tuple(
                self._figure(metric, part.subject, _overlap(part.spans, step)) for step in steps
            ),
        )

    def _figure(self, metric: Askable, subject: str, spans: Sequence[Span]) -> Figure:
        if metric.form is Form.AVAILABILITY:
            return self._available(subject, spans)
        figure = self._of_windows(metric, subject, spans)
        whole = sum(until - since for since, until in spans)
        seen = sum(
            covered(window, since, until) * (until - since)
            for since, until in spans
            if (window := self._look(subject, since, until)) is not None
        )
        return replace(figure, coverage=min(1.0, round(seen / whole, 6)) if whole else 0.0)

    def _of_windows(self, metric: Askable, subject: str, spans: Sequence[Span]) -> Figure:
        name = metric.source[0]
        match metric.form:
            case Form.DISTRIBUTION:
                windows = self._pieces(subject, spans, counted.knows_histogram(name))
                return counted.distribution(windows, name, self._question.quantiles)
            case Form.COUNTER:
                windows = self._pieces(subject, spans, counted.knows_counters(name))
                return counted.counter(windows, name)
            case Form.PARTS:
                return counted.parts(self._pieces(subject, spans, lambda window: True), name)
            case Form.RATIO:
                windows = self._pieces(subject, spans, counted.knows_counters(*metric.source))
                return counted.ratio(windows, *metric.source)
            case Form.SLO:
                return self._within(metric, subject, spans)
        return self._gauge(name, subject, spans)

    def _pieces(self, subject: str, spans: Sequence[Span], tells: counted.Tells) -> list[Window]:
        def look(since: float, until: float) -> Window | None:
            return self._look(subject, since, until)

        return [window for span in spans for window in pieces(look, span, tells)]

    def _targets_of(self, metric: Askable, subject: str) -> dict[str, float]:
        """By subject the target of an slo; empty for any other metric."""
        if metric.form is not Form.SLO:
            return {}
        if metric.target is not None:
            return {subject: metric.target}
        targets = self._targets(metric.name.removeprefix("slo:"), subject)
        if model_of(subject) is None:
            begin = "gateway/model" if subject == "gateway" else "model"
            return {f"{begin}/{model}": target for model, target in targets.items()}
        own = next(iter(targets.values()), None)
        return {} if own is None else {subject: own}

    def _within(self, metric: Askable, subject: str, spans: Sequence[Span]) -> Figure:
        """Of the fleet: of all models together, each by its own target."""
        name = metric.source[0]
        knows = counted.knows_histogram(name)
        figures = [
            counted.within(self._pieces(each, spans, knows), name, target)
            for each, target in self._targets_of(metric, subject).items()
        ]
        if len(figures) == 1:
            return figures[0]
        total = sum(figure.count or 0 for figure in figures)
        if not total:
            return Figure({"share": None, "missed": None}, 0 if figures else None)
        missed = sum(figure.values["missed"] or 0.0 for figure in figures)
        return Figure({"share": 1 - missed / total, "missed": missed}, total)

    def _gauge(self, name: str, subject: str, spans: Sequence[Span]) -> Figure:
        found = []
        for since, until in spans:
            key = (subject, name, since, until)
            if key not in self._gauges:
                (self._gauges[key],) = self._reader.gauges(*key, until - since)
            if (gauge := self._gauges[key]) is not None:
                found.append((gauge, until - since))
        if not found:
            return Figure({"mean": None, "max": None})
        seconds = sum(length for _, length in found)
        mean = sum(gauge.mean * length for gauge, length in found) / seconds
        return Figure({"mean": mean, "max": max(gauge.max for gauge, _ in found)})

    def _available(self, subject: str, spans: Sequence[Span]) -> Figure:
        if subject not in self._spells:
            names = worker_names(subject)
            until = max(self._span[1], self._known_until)
            self._spells[subject] = spells(self._happenings, names, until, self._last_seen)
        told, known = self._spells[subject], (self._known_since, self._known_until)
        found = [(availability(told, since, until, known), until - since) for since, until in spans]
        if len(found) == 1:
            return found[0][0]
        whole = sum(length for _, length in found)
        values = {key: _weighted(found, key) for key in ("available", "workers")}
        seen = sum(figure.coverage * length for figure, length in found)
        return Figure(values, coverage=seen / whole if whole else 0.0)

    # -- what is looked up once -----------------------------------------------------------------

    def _look(self, subject: str, since: float, until: float) -> Window | None:
        key = (subject, since, until)
        if key not in self._windows:
            self._windows[key] = self._reader.window(*key)
        return self._windows[key]

    def _look_ahead(self, metric: Askable, subject: str) -> None:
        """Have the windows and gauges of all whole steps in one pass over the rows."""
        steps, step = self._steps(), self._question.step
        assert step is not None
        whole = [span for span in steps if span[0] + step <= self._span[1]]
        if not whole:
            return
        begin, end = whole[0][0], whole[-1][0] + step
        if (subject, *whole[0]) not in self._windows or len(whole) == 1:
            windows = self._reader.steps(subject, begin, end, step, exact=True)
            self._windows |= {
                (subject, *span): window for span, window in zip(whole, windows, strict=True)
            }
        if metric.form is Form.GAUGE:
            name = metric.source[0]
            gauges = self._reader.gauges(subject, name, begin, end, step)
            self._gauges |= {
                (subject, name, *span): gauge for span, gauge in zip(whole, gauges, strict=True)
            }

    @cached_property
    def _happenings(self) -> list[Happening]:
        return happenings(self._reader.connection, self._now)

    @property
    def _known_since(self) -> float:
        return self._happenings[0].at if self._happenings else math.inf

    @cached_property
    def _known_until(self) -> float:
        """Until when the newest state of each worker is known to have lasted."""
        if self._known.alive:
            return self._now
        told = self._happenings[-1].at if self._happenings else -math.inf
        return max(told, self._last_row("fleet", self._now) or told)

    def _last_seen(self, worker: str, before: float) -> float:
        return self._last_row(f"worker/{worker}", before) or before

    def _last_row(self, subject: str, before: float) -> float | None:
        window = self._look(subject, 0.0, before)
        return None if window is None else window.new.at


def _overlap(spans: Sequence[Span], step: Span) -> list[Span]:
    """The parts of spans that lie in a step."""
    clipped = [(max(since, step[0]), min(until, step[1])) for since, until in spans]
    return [(since, until) for since, until in clipped if since < until]


def _changes(before: Figure, now: Figure) -> dict[str, Change]:
    """From one to the other, of values that are both known; a percentile not to a point is not."""
    unsure = {*(before.between or ()), *(now.between or ())} - {"share"}
    changes = {}
    for key, value in now.values.items():
        was = before.values.get(key)
        if was is not None and value is not None and key not in unsure:
            changes[key] = Change(value - was, (value / was - 1) * 100 if was else None)
    return changes


def _weighted(figures: Sequence[tuple[Figure, float]], key: str) -> float | None:
    """A share over several spans, each by its length as far as it is known."""
    known = [
        (value, figure.coverage * length)
        for figure, length in figures
        if (value := figure.values[key]) is not None
    ]
    weight = sum(by for _, by in known)
    return sum(value * by for value, by in known) / weight if weight else None
