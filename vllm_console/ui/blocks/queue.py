"""The fleet's queues: the gateway's by class and the engines' own, the oldest, the rejected."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from vllm_console.snapshot import Queued
from vllm_console.ui.format import NONE, count, duration, si
from vllm_console.ui.rows import Row, cell, cut, half_widths, head, left, pair, right
from vllm_console.ui.view import NOT_RECORDED, View

N = TypeVar("N", int, float)

_LABEL = 9
_ALL = 5
"""Rows of which one may be the selected model's."""


def ask(view: View, width: int, height: int) -> int:
    """A row more while the gateway runs, one of the selected model too; nothing without models."""
    snapshot = view.snapshot
    if snapshot is None or not snapshot.models:
        return 0
    return 4 + _one_of_many(view) if snapshot.gateway.running else 3


def draw(view: View, width: int, height: int) -> list[Row]:
    """Waiting by class and in all, the oldest, and how many are refused a minute.

    The last two are those of the gateway while it runs, else of the engines. Of a fleet of several
    models the selected one's waiting is told too.
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
        titles = "".join(right(text, column) for text in ("high", "norm", "low", "all"))
        rows: list[Row] = [
            [(left("queue", first), "text"), (titles, "dim")],
            [(left("gateway", first), "label"), *_classes(queued, column)],
        ]
        if view.model is not None and _one_of_many(view) and height >= _ALL:
            name = left(cut(view.model.name, first - 1), first)
            rows.append([(name, "label"), *_classes(view.model.queued, column)])
        oldest, refused = gateway.oldest_s, gateway.rejected_per_s
    else:
        why = f"classes {NOT_RECORDED}" if view.stored else "no classes without a gateway"
        rows = [head("queue", width, (why, "dim"))]
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


def _one_of_many(view: View) -> bool:
    """Whether the selected model's waiting is told and is not the whole."""
    if view.snapshot is None or view.model is None or len(view.snapshot.models) < 2:
        return False
    return view.model.queued != Queued()


def _classes(queued: Queued, column: int) -> Row:
    classes = (queued.high, queued.normal, queued.low)
    return _numbers([*classes, _sum(classes)], column)


def _numbers(values: Iterable[int | None], column: int) -> Row:
    return [(right(count(v), column), "dim" if v is None else "value") for v in values]
