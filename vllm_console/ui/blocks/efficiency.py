"""What the hardware is used for: one overall share, its parts, tokens for power and money."""

from __future__ import annotations

from vllm_console.snapshot import Efficiency, Load
from vllm_console.ui.format import NONE, figure, percent, tokens
from vllm_console.ui.rows import Row, cell, half_widths, meter, pair
from vllm_console.ui.view import View

_LABEL = 11


_METERS = 5
_FACTS = 2


def ask(view: View, width: int, height: int) -> int:
    """Five meters and two rows of numbers."""
    return _METERS + _FACTS


def draw(view: View, width: int, height: int) -> list[Row]:
    """Meters, the most telling first; tokens a watt, a GPU, and the price of a million."""
    load, model = view.load, view.model
    if load is None or model is None:
        return []
    whole = view.entry is not None and view.entry.worker is None
    told = model.efficiency if whole else Efficiency()
    name, busy = _busy(view)
    rows: list[Row] = []
    for label, ratio in (
        ("overall", told.overall),
        (name, busy if told.busy is None else told.busy),
        ("batch fill", load.batch_fill),
        ("prefix hit", load.prefix_cache_hit_rate),
        ("memory", told.memory),
    ):
        rows.append(
            [
                (label.ljust(_LABEL), "label"),
                *meter(ratio, width - _LABEL - 6, "performance"),
                (f"{percent(ratio):>5}", "dim" if ratio is None else "value"),
                (" " if ratio is None else "%", "dim"),
            ]
        )
    return [*rows, *_facts(view, load, told, width)][:height]


def _facts(view: View, load: Load, told: Efficiency, width: int) -> list[Row]:
    one, two = half_widths(width)
    gpus = len(_gpus(view))
    made = load.generation_tokens_per_s
    each = tokens(made / gpus) if made is not None and gpus else NONE
    good = NONE if told.served is None else f"{percent(told.served)}%"
    price, joule = told.cost_per_million, told.tokens_per_joule
    return [
        pair(
            cell("tok/s W", NONE if joule is None else figure(joule), "", "value", one),
            cell("$ 1M tok", NONE if price is None else figure(price), "", "value", two),
            width,
        ),
        pair(
            cell("tok/s GPU", each, "", "value", one),
            cell("served", good, "", "value", two),
            width,
        ),
    ]


def _gpus(view: View) -> set[tuple[str | None, int]]:
    """(node, index) of every GPU of what is selected."""
    entry = view.entry
    workers = [] if entry is None else [entry.worker] if entry.worker else entry.model.workers
    return {(w.node, g) for w in workers for g in w.gpus}


def _busy(view: View) -> tuple[str, float | None]:
    """The mean utilisation of the GPUs of what is selected; without any, its share of the host."""
    entry, snapshot = view.entry, view.snapshot
    if entry is None or snapshot is None:
        return "GPU busy", None
    workers = [entry.worker] if entry.worker else list(entry.model.workers)
    uses = _gpus(view)
    if uses or snapshot.gpus:
        values = [
            g.utilization
            for g in snapshot.gpus
            if g.utilization is not None and ((g.node, g.index) in uses or (None, g.index) in uses)
        ]
        return "GPU busy", sum(values) / len(values) if values else None
    cores = snapshot.host.cores if snapshot.host else None
    used = [w.cpu for w in workers if w.cpu is not None]
    return "CPU busy", sum(used) / cores if used and cores else None
