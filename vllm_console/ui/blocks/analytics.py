"""How requests come to the selected model and how long they are."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_console.snapshot import Arrivals, Load, Quantiles
from vllm_console.ui.format import NONE, age, count, rate, si, sig3
from vllm_console.ui.percentile import percentile
from vllm_console.ui.rows import Row, Span, clip, known, left, right, spread
from vllm_console.ui.view import View

_EIGHTHS = " ▁▂▃▄▅▆▇"
"""Never a full cell: the rows of two histograms stay apart."""
_LABEL, _COLUMN = 9, 7
_WIDE = 46

Buckets = Sequence[tuple[float, int]]


def draw(view: View, width: int, height: int) -> list[Row]:
    """Rate and pattern, the forecast with its error, both lengths as one-row histograms."""
    load, model = view.load, view.model
    if load is None or model is None:
        return []
    found = model.arrivals
    rows = [
        spread(
            [
                ("arrivals ", "text"),
                known(rate(found.per_s)),
                ("" if found.per_s is None else " /s", "dim"),
            ],
            _pattern(found, wide=width >= _WIDE),
            width,
        ),
        _forecast(found, width),
    ]
    return [*rows, *_lengths(load, width)][:height]


def _pattern(found: Arrivals, *, wide: bool) -> list[Span]:
    """The pattern with its period or index of dispersion; before, how long it takes yet."""
    if found.pattern is None:
        if not found.remembered_s:
            return []
        if found.remembered_s >= found.enough_s:
            return [("too few for a pattern", "dim")]
        return [("pattern in ", "dim"), (age(found.enough_s - found.remembered_s), "label")]
    told: list[Span] = [(found.pattern, "value")]
    if found.period_s is not None:
        told += [(" every " if wide else " ", "dim"), (age(found.period_s), "label")]
    elif found.dispersion is not None and wide:
        told += [(" variance/mean ", "dim"), (sig3(found.dispersion), "label")]
    return told


def _forecast(found: Arrivals, width: int) -> Row:
    told = found.forecast
    if told is None:
        return [("forecast ", "label"), (NONE, "dim")]
    return spread(
        [
            ("forecast ", "label"),
            (rate(told.per_s), "value"),
            (f" ±{sig3(told.error_per_s)}", "label"),
            (" /s", "dim"),
        ],
        [
            (
                f"{told.method} in {told.ahead_s / 60:g} min"
                if width >= _WIDE
                else f"in {told.ahead_s / 60:g} min",
                "dim",
            )
        ],
        width,
    )


def _lengths(load: Load, width: int) -> list[Row]:
    room = width - _LABEL - 2 * _COLUMN
    parts = (
        ("prompt", load.prompt_lengths, load.prompt_length),
        ("output", load.output_lengths, load.output_length),
    )
    bounds = _shared([buckets for _, buckets, _ in parts])
    cells = [] if bounds is None else _cells(bounds, room)
    scale = ""
    if bounds is not None:
        scale = f"≤{_bound(bounds[0])} … ≤{_bound(bounds[-1])}"
    rows: list[Row] = [
        [
            (left("lengths", _LABEL), "text"),
            (left(scale if len(scale) < room else "", room), "dim"),
            (right("p50", _COLUMN) + right("p95", _COLUMN), "dim"),
        ]
    ]
    for label, buckets, quantiles in parts:
        rows.append(
            [
                (left(label, _LABEL), "label"),
                (left(_spark(dict(buckets), cells), room), "batching6"),
                *(_percentile(quantiles, name) for name in ("p50", "p95")),
            ]
        )
    return [clip(row, width) for row in rows]


def _percentile(quantiles: Quantiles, name: str) -> Span:
    shown = percentile(quantiles, name)
    if shown is None:
        return right(NONE, _COLUMN), "dim"
    text = shown.mark + si(round(shown.value))
    return right(text, _COLUMN), "dim" if shown.thin else "value"


def _shared(all_buckets: Sequence[Buckets]) -> list[float] | None:
    """The bounds of all buckets from the first to the last that holds anything."""
    bounds = sorted({bound for buckets in all_buckets for bound, _ in buckets})
    full = {bound for buckets in all_buckets for bound, number in buckets if number}
    if not full:
        return None
    return [bound for bound in bounds if min(full) <= bound <= max(full)]


def _cells(bounds: Sequence[float], room: int) -> list[tuple[float, ...]]:
    """Which bounds each cell stands for: several where room is short, two cells each where not."""
    each = -(-len(bounds) // max(1, room))
    cells = [tuple(bounds[i : i + each]) for i in range(0, len(bounds), each)]
    wider = min(3, max(1, (room - 1) // len(cells)))
    return [cell for cell in cells for _ in range(wider)]


def _spark(counts: dict[float, int], cells: Sequence[tuple[float, ...]]) -> str:
    sums = [sum(counts.get(bound, 0) for bound in cell) for cell in cells]
    top = max(sums, default=0)
    return "".join(
        _EIGHTHS[0 if not number else max(1, round(number / top * 7))] for number in sums
    )


def _bound(bound: float) -> str:
    return count(bound) if bound < 1000 else si(bound)
