"""An answer of the past as a table for a person, or as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, tzinfo

from vllm_console.answer import Answer, Change, Figure, Mark, Measured
from vllm_console.fleet.duration import format_duration
from vllm_console.ui.format import NONE, count, duration, rate, sig3, size

CSV_HEADER = (
    "metric", "part", "since", "until", "value_of", "value", "low", "high", "thin", "events",
    "coverage", "unit",
)  # fmt: skip
_BARS = "▁▂▃▄▅▆▇█"
_SIGNS = {"start": "▲", "stop": "▼", "revision": "◆", "fault": "✗", "daemon": "○"}
_EVENTS = "events"
_HEADS = {"per_s": "per s", "available": "available", "workers": "of workers"}
_THIN = "~ fewer than three events lie beyond it: mostly noise"
_WIDE = (
    "≤ and – tell the bucket of the engine's histogram that holds it: it is too wide for a point"
)
_NOISE = re.compile(r"~\S+(?: (?:ms|s|min|h|d)\b)?")
_COLUMNS = 9
"""Values in a line by step, for about 100 characters."""
_SEEN = 0.995
"""A window that was observed less than this is marked."""


def table(answer: Answer, zone: tzinfo | None = None, *, dim: bool = False) -> Iterator[str]:
    """The lines of a table; times are of `zone`, by default this machine's.

    With `dim` what is mostly noise is drawn faintly, for a terminal.
    """
    times = _Times(answer, zone)
    yield f"{answer.subject.removeprefix('model/')} · {times.span}"
    forms: dict[tuple[str, tuple[str, ...]], list[Measured]] = {}
    for measured in answer.measured:
        forms.setdefault((measured.form, tuple(measured.figure.values)), []).append(measured)
    for (_, keys), rows in forms.items():
        yield ""
        yield from _summary(rows, keys, dim)
    if answer.starts:
        for whole in _tables(answer.measured):
            yield ""
            yield from _by_step(answer, whole, times, dim)
    yield from _notes(answer)


def rows(answer: Answer) -> Iterator[str]:
    """The lines of a CSV table: one value a line, first of the whole span, then of each step."""
    yield _csv(CSV_HEADER)
    ends = (*answer.starts[1:], answer.until)
    for measured in answer.measured:
        spans = [(answer.since, answer.until, measured.figure)]
        if measured.before is not None:
            spans.insert(0, (_before(answer), answer.since, measured.before))
        spans += zip(answer.starts, ends, measured.steps, strict=bool(measured.steps))
        for since, until, figure in spans:
            for key, value in figure.values.items():
                low, high = (figure.between or {}).get(key, (None, None))
                line = (
                    measured.metric, measured.part, since, until, key, value, low, high,
                    int(key in figure.thin), figure.count, figure.coverage, measured.unit,
                )  # fmt: skip
                yield _csv(line)


def told(measured: Measured, key: str) -> str:
    """One value of the whole span, as a table has it."""
    return _value(measured, measured.figure, key)


def sparkline(values: Sequence[float | None]) -> str:
    """A bar a value, from 0 to the largest; a space where there is none."""
    top = max((value for value in values if value is not None), default=0.0)
    return "".join(
        " " if v is None else _BARS[min(7, int(v / top * 8))] if top > 0 else _BARS[0]
        for v in values
    )


def aligned(cells: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Cells in columns, the first `left` and the last of each row flush left."""
    width = max(map(len, cells))
    widths = [max((len(row[i]) for row in cells if i < len(row)), default=0) for i in range(width)]
    lines = []
    for row in cells:
        padded = [
            cell.ljust(widths[i]) if i < left or i == width - 1 else cell.rjust(widths[i])
            for i, cell in enumerate(row)
        ]
        lines.append("  ".join(padded).rstrip())
    return lines


def _summary(found: Sequence[Measured], keys: Sequence[str], dim: bool) -> list[str]:
    """One form's metrics over the whole span, and how they went."""
    form = found[0].form
    events = form in ("distribution", "slo", "ratio")
    heads = [_HEADS.get(key, key) for key in keys]
    cells = [["", *heads, *([_EVENTS] if events else []), ""]]
    for measured in found:
        figure = measured.figure
        name = measured.metric if measured.part is None else f"  {measured.part}"
        if measured.target is not None and measured.part is None:
            name += f" ≤ {shown(measured.target, 's')}"
        tail = [count(figure.count)] if events else []
        trend = sparkline([_headline(step) for step in measured.steps])
        seen = _observed(figure.coverage)
        cells.append([name, *_values(measured, figure, keys), *tail, (trend + seen).lstrip()])
        if measured.before is not None:
            before = _values(measured, measured.before, keys)
            tail = [count(measured.before.count)] if events else []
            cells.append(["  before", *before, *tail, ""])
            changes = [_change(measured, (measured.change or {}).get(key), key) for key in keys]
            cells.append(["  change", *changes, *([""] if events else []), ""])
    return _dimmed(aligned(cells), dim)


def _tables(measured: Sequence[Measured]) -> list[list[Measured]]:
    """The metrics of the whole subject, as many together as one table by step has room for."""
    tables: list[list[Measured]] = [[]]
    for each in measured:
        if each.part is None:
            columns = sum(len(_stepped(other)) for other in tables[-1])
            if tables[-1] and columns + len(_stepped(each)) > _COLUMNS:
                tables.append([])
            tables[-1].append(each)
    return tables


def _by_step(answer: Answer, whole: Sequence[Measured], times: _Times, dim: bool) -> Iterator[str]:
    """A line a step, and between them what happened."""
    seen = [each for each in whole if each.form != "availability"] or whole
    columns = [(measured, key) for measured in whole for key in _stepped(measured)]
    names = [m.metric if key == _stepped(m)[0] else "" for m, key in columns]
    cells = [["", *names, ""], ["", *(_HEADS.get(key, key) for _, key in columns), ""]]
    top = max((v for step in whole[0].steps if (v := _headline(step)) is not None), default=0.0)
    coverages = []
    for index, start in enumerate(answer.starts):
        values = [_value(measured, measured.steps[index], key) for measured, key in columns]
        coverages.append(max(each.steps[index].coverage for each in seen))
        bar = _bar(_headline(whole[0].steps[index]), top) if len(whole) == 1 else ""
        cells.append([times.short(start), *values, f"{bar}{_observed(coverages[-1])}".lstrip()])
    lines = aligned(cells)
    yield from lines[:2]
    ends = [*answer.starts[1:], "~"]
    marks, quiet = list(answer.marks), 0
    for line, coverage, end in zip(_dimmed(lines[2:], dim), coverages, ends, strict=True):
        between = [mark for mark in marks if mark.at < end]
        if not coverage and not between:
            quiet += 1
            continue
        if quiet:
            yield _unobserved(quiet)
            quiet = 0
        yield line
        for mark in between:
            sign = _SIGNS.get(mark.kind, "·")
            yield f"  {sign} {times.clock(mark.at)}  {mark.subject}  {mark.text}"
        marks = marks[len(between) :]
    if quiet:
        yield _unobserved(quiet)


def _stepped(measured: Measured) -> list[str]:
    """The values of a metric that a table by step has room for."""
    keys = list(dict.fromkeys(key for step in measured.steps for key in step.values))
    if measured.form == "distribution":
        return [*keys, _EVENTS]
    return keys[:1] if measured.form in ("counter", "slo", "availability") else keys or [""]


def _observed(coverage: float) -> str:
    """Said of a window that was not observed all the time."""
    if coverage >= _SEEN:
        return ""
    return f"  observed {coverage * 100:.0f} %" if coverage >= 1 - _SEEN else "  not observed"


def _unobserved(steps: int) -> str:
    return f"… {steps} {'step' if steps == 1 else 'steps'} not observed"


def _told(mark: Mark) -> str:
    return f"{mark.subject}  {mark.text}"


def _notes(answer: Answer) -> Iterator[str]:
    figures = [figure for m in answer.measured for figure in (m.figure, *m.steps)]
    notes = []
    if any(figure.thin for figure in figures):
        notes.append(_THIN)
    if any(figure.between for figure in figures):
        notes.append(_WIDE)
    if answer.marks_left_out:
        notes.append(f"{answer.marks_left_out} older events are left out")
    if notes:
        yield ""
        yield from notes


def _values(measured: Measured, figure: Figure, keys: Iterable[str]) -> list[str]:
    return [_value(measured, figure, key) for key in keys]


def _value(measured: Measured, figure: Figure, key: str) -> str:
    """One value as it can be told: a point, or where it surely lies."""
    value: float | None = figure.count if key == _EVENTS else figure.values.get(key)
    if value is None:
        return NONE
    unit = _unit(measured, key)
    few = "~" if key in figure.thin else ""
    between = (figure.between or {}).get(key)
    if between is None:
        return few + shown(value, unit)
    low, high = between
    if high is None:
        return f"{few}>{shown(low, unit)}"
    if low <= 0:
        return f"{few}≤{shown(high, unit)}"
    begin, end = shown(low, unit), shown(high, unit)
    number, _, sign = begin.partition(" ")
    return f"{few}{number if end.endswith(f' {sign}') and sign else begin}–{end}"


def shown(value: float, unit: str) -> str:
    """A value with its unit, as the screen writes it."""
    match unit:
        case "s":
            return " ".join(duration(value))
        case "ratio":
            return f"{sig3(value * 100)} %" if value < 0.9995 or value >= 1 else f"{value:.3%}"
        case "bytes":
            return " ".join(size(value))
        case "W" | "°C":
            return f"{sig3(value)} {unit}"
        case "per s":
            return rate(value)
        case "whole":
            return count(value)
    return sig3(value) if abs(value) < 1000 else count(value)


def _unit(measured: Measured, key: str) -> str:
    """In which unit a value is, where that of its metric is not."""
    if key in ("share", "available", "workers"):
        return "ratio"
    if key in ("count", "missed", _EVENTS) or measured.form == "parts":
        return "whole"
    return "per s" if key == "per_s" else measured.unit


def _change(measured: Measured, change: Change | None, key: str) -> str:
    if change is None:
        return NONE
    if _unit(measured, key) == "ratio":
        return f"{change.absolute * 100:+.1f} pp"
    return NONE if change.percent is None else f"{change.percent:+.0f} %"


def _headline(figure: Figure) -> float | None:
    """The value that a bar stands for: the highest percentile, the rate, the mean, the share."""
    percentiles = [value for key, value in figure.values.items() if key.startswith("p")]
    if "per_s" not in figure.values and percentiles:
        return percentiles[-1]
    return next(iter(figure.values.values()), None)


def _bar(value: float | None, top: float, width: int = 12) -> str:
    """A lying bar of eighths of a cell."""
    if value is None or top <= 0:
        return ""
    eighths = max(1, round(value / top * width * 8))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _dimmed(lines: Sequence[str], dim: bool) -> list[str]:
    """Lines in which what is mostly noise is faint."""
    return [_NOISE.sub("\x1b[2m\\g<0>\x1b[0m", line) if dim else line for line in lines]


def _before(answer: Answer) -> str:
    since, until = (datetime.fromisoformat(at) for at in (answer.since, answer.until))
    return (since - (until - since)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _csv(cells: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


class _Times:
    """Writes times in a zone, with their day where the span has several."""

    def __init__(self, answer: Answer, zone: tzinfo | None) -> None:
        self._zone = zone
        since, until = self._there(answer.since), self._there(answer.until)
        self._days = since.date() != until.date()
        seconds = round((until - since).total_seconds())
        end = until.strftime("%Y-%m-%d %H:%M" if self._days else "%H:%M")
        seconds = seconds if seconds < 600 else round(seconds / 60) * 60
        parts = (seconds // 3600 * 3600, seconds % 3600 // 60 * 60, seconds % 60)
        length = "".join(format_duration(part) for part in parts if part)
        self.span = f"{since:%Y-%m-%d %H:%M} – {end} {until.tzname()} ({length})"

    def short(self, at: str) -> str:
        """A step's beginning."""
        return self._there(at).strftime("%m-%d %H:%M" if self._days else "%H:%M:%S")

    def clock(self, at: str) -> str:
        """A moment."""
        return self._there(at).strftime("%m-%d %H:%M:%S" if self._days else "%H:%M:%S")

    def _there(self, at: str) -> datetime:
        return datetime.fromisoformat(at).astimezone(self._zone)
