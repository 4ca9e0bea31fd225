"""A span of the past: P50, P95 and P99 as one graph with markers, and as a table."""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo

from vllm_console.answer import Answer, Change, Figure, Mark, Measured
from vllm_console.ui.format import NONE, count, duration, figure
from vllm_console.ui.graphs import nice
from vllm_console.ui.layers import layers
from vllm_console.ui.rows import Row, clip, left, length, quiet, right, spread

QUANTILES = ("p50", "p95", "p99")
INKS = ("performance8", "performance5", "performance2")
LABELS = {
    "ttft": "TTFT", "itl": "ITL", "tpot": "TPOT", "e2e": "E2E",
    "queue": "queue", "prefill": "prefill", "decode": "decode",
}  # fmt: skip
SIGNS = {
    "start": ("▲", "ok"), "stop": ("■", "label"), "revision": ("◆", "engines"),
    "fault": ("✖", "crit"), "daemon": ("●", "label"),
}  # fmt: skip
_AXIS = 8
_COLUMN = 9


def graph(
    answer: Answer, measured: Measured, width: int, height: int, zone: tzinfo | None
) -> list[Row]:
    """Title and values, the areas with their scale at the left, markers, times."""
    rows = [_legend(measured, width)]
    room, tall = width - _AXIS, height - 3
    series = [[step.values.get(q) for step in measured.steps] for q in QUANTILES]
    peak = max((v for one in series for v in one if v is not None), default=0.0)
    if tall < 1 or room < 10:
        return rows[:height]
    if peak <= 0:
        return [*rows, *quiet(width, height - 1, "no request ended in this span", _seen(measured))]
    top = nice(peak)
    for y, row in enumerate(layers(series, INKS, room, tall, top)):
        share = 1.0 if y == 0 else 0.5 if tall >= 6 and y == tall // 2 else None
        label = "" if share is None else " ".join(duration(top * share))
        rows.append([(right(label, _AXIS - 1) + " ", "dim"), *row])
    rows.append([(" " * _AXIS, ""), *_marks(answer, room)])
    rows.append([(" " * _AXIS, ""), *_times(answer, room, zone)])
    return rows


def _legend(measured: Measured, width: int) -> Row:
    row: Row = [(LABELS.get(measured.metric, measured.metric), "value"), ("   ", "")]
    for name, ink in zip(QUANTILES, INKS, strict=True):
        value, unit = shown(measured.figure, name)
        row += [("■ ", ink), (name, "label"), (" ", ""), (value, "value"), (f" {unit}   ", "dim")]
    return spread(row, [(_seen(measured), "dim")], width)


def _seen(measured: Measured) -> str:
    share = measured.figure.coverage
    return "" if share >= 0.995 else f"observed {share * 100:.0f} % of the span"


def _moment(at: str) -> datetime:
    return datetime.fromisoformat(at)


def _place(answer: Answer, at: str, width: int) -> int:
    since, until = _moment(answer.since), _moment(answer.until)
    share = (_moment(at) - since) / max(until - since, timedelta(seconds=1))
    return max(0, min(width - 1, int(share * width)))


def _marks(answer: Answer, width: int) -> Row:
    """The sign of each marker at its time; of several in one cell the worst."""
    cells: dict[int, tuple[str, str]] = {}
    for mark in answer.marks:
        x = _place(answer, mark.at, width)
        if cells.get(x, ("", ""))[1] != "crit":
            cells[x] = SIGNS.get(mark.kind, ("·", "label"))
    row: Row = []
    end = 0
    for x, (sign, ink) in sorted(cells.items()):
        row += [("─" * (x - end), "track"), (sign, ink)]
        end = x + 1
    return [*row, ("─" * (width - end), "track")]


def _times(answer: Answer, width: int, zone: tzinfo | None) -> Row:
    since, until = _moment(answer.since), _moment(answer.until)
    span = (until - since).total_seconds()
    form = "%H:%M:%S" if span < 7200 else "%H:%M" if span <= 90_000 else "%m-%d"
    many = max(2, min(7, width // 18))
    row: Row = []
    for i in range(many):
        text = (since + (until - since) * i / (many - 1)).astimezone(zone).strftime(form)
        x = round((width - len(text)) * i / (many - 1))
        row.append((" " * (x - length(row)) + text, "dim"))
    return row


def shown(of: Figure, name: str) -> tuple[str, str]:
    """A percentile as (number, unit): a bracket where its bucket is wide, `~` where it is noise."""
    value = of.values.get(name)
    if value is None:
        return NONE, ""
    few = "~" if name in of.thin else ""
    between = (of.between or {}).get(name)
    if between is not None:
        low, high = between
        number, unit = duration(low if high is None else high)
        return f"{few}{'>' if high is None else '≤'}{number}", unit
    number, unit = duration(value)
    return few + number, unit


def table_head(width: int, compared: bool) -> Row:
    """The names of the columns."""
    row: Row = [(left("", 9), "dim")]
    row += [(right(name, _COLUMN), "dim") for name in QUANTILES]
    row.append((right("requests", 10), "dim"))
    if compared and width >= 84:
        row += [(right(f"{name} before", 12), "dim") for name in QUANTILES[1:]]
    if compared and width >= 58:
        row.append((right("p95 change", 12), "dim"))
    return row


def table_row(measured: Measured, width: int, compared: bool) -> Row:
    """One metric: percentiles, requests, and the span before."""
    row: Row = [(left(LABELS.get(measured.metric, measured.metric), 9), "text")]
    row += [_cell(measured.figure, name, _COLUMN) for name in QUANTILES]
    row.append((right(count(measured.figure.count), 10), "label"))
    if compared and width >= 84:
        before = measured.before
        for name in QUANTILES[1:]:
            row.append((right(NONE, 12), "dim") if before is None else _cell(before, name, 12))
    if compared and width >= 58:
        row.append(_change((measured.change or {}).get("p95")))
    return clip(row, width)


def _cell(of: Figure, name: str, width: int) -> tuple[str, str]:
    number, unit = shown(of, name)
    text = number if number == NONE else f"{number} {unit}"
    noise = number == NONE or name in of.thin
    return right(text, width), "dim" if noise else "value" if name == "p95" else "text"


def _change(change: Change | None) -> tuple[str, str]:
    if change is None or change.percent is None:
        return right(NONE, 12), "dim"
    worse = change.percent >= 10
    arrow = "▲" if change.percent > 0 else "▼" if change.percent < 0 else " "
    ink = "warn!" if worse else "ok" if change.percent <= -10 else "label"
    return right(f"{arrow} {figure(abs(change.percent))} %", 12), ink


def mark_row(mark: Mark, width: int, zone: tzinfo | None) -> Row:
    """When, what kind, of whom, what."""
    sign, ink = SIGNS.get(mark.kind, ("·", "label"))
    at = _moment(mark.at).astimezone(zone).strftime("%m-%d %H:%M:%S")
    return clip(
        [(at + "  ", "dim"), (sign + " ", ink), (left(mark.subject, 20), "label"), ("  ", ""),
         (mark.text, "crit" if ink == "crit" else "text")],
        width,
    )  # fmt: skip


def measured_text(measured: Measured) -> str:
    """One metric as a line of text."""
    parts = (f"{name} {' '.join(shown(measured.figure, name)).strip()}" for name in QUANTILES)
    return f"{measured.metric}  {'  '.join(parts)}  requests {count(measured.figure.count)}"
