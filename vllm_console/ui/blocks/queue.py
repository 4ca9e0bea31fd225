"""The fleet's queues: the gateway's by class and the engines' own, the oldest, the rejected."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from vllm_console.ui.format import NONE, count, duration, si
from vllm_console.ui.rows import Row, cell, half_widths, head, left, pair, right
from vllm_console.ui.view import View

N = TypeVar("N", int, float)

_LABEL = 9


def ask(view: View, width: int, height: int) -> int:
    """One row more while the gateway runs; nothing without models."""
    snapshot = view.snapshot
    if snapshot is None or not snapshot.models:
        return 0
    return 4 if snapshot.gateway.running else 3


def draw(view: View, width: int, height: int) -> list[Row]:
    """Waiting by class and in all, the oldest, and how many are refused a minute.

    The last two are those of the gateway while it runs, else of the engines.
    """
    snapshot = view.snapshot
    if snapshot is None or not snapshot.models:
        return []
    gateway, models = snapshot.gateway, snapshot.models
    engines = _sum(model.load.waiting for model in models)
    one, two = half_widths(width)
    if gateway.running:
        queued, column = gateway.queued, min(9, (width - _LABEL) // 4)
        first = width - 4 * column
        classes = (queued.high, queued.normal, queued.low)
        titles = "".join(right(text, column) for text in ("high", "norm", "low", "all"))
        rows: list[Row] = [
            [(left("queue", first), "text"), (titles, "dim")],
            [(left("gateway", first), "label"), *_numbers([*classes, _sum(classes)], column)],
        ]
        oldest, refused = gateway.oldest_s, gateway.rejected_per_s
    else:
        rows = [head("queue", width, ("no classes without a gateway", "dim"))]
        ages = [model.arrivals.oldest_waiting_s for model in models]
        oldest = max((age for age in ages if age is not None), default=None)
        rates = [model.load.rejected_per_s for model in models]
        refused = _sum(rates)
    number, unit = ("none", "") if engines == 0 and oldest is None else duration(oldest)
    rejected = NONE if refused is None else si(refused * 60)
    rows += [
        pair(
            cell("in engines", count(engines), "", "value", one),
            cell(
                "rejected",
                rejected,
                "/min" if two >= 20 else "/m",
                "warn!" if refused else "value",
                two,
            ),
            width,
        ),
        cell("the oldest waits for", number, unit, "value", width),
    ]
    return rows[:height]


def _sum(values: Iterable[N | None]) -> N | None:
    told = [value for value in values if value is not None]
    return sum(told[1:], start=told[0]) if told else None


def _numbers(values: Iterable[int | None], column: int) -> Row:
    return [(right(count(v), column), "dim" if v is None else "value") for v in values]
