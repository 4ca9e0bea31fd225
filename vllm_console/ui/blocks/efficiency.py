"""How well the hardware is used: busy GPUs or cores, batch fill, prefix cache hits."""

from __future__ import annotations

from vllm_console.ui.format import percent
from vllm_console.ui.rows import Row, meter
from vllm_console.ui.view import View

_LABEL = 11


def draw(view: View, width: int, height: int) -> list[Row]:
    """Three meters."""
    load = view.load
    if load is None:
        return []
    name, busy = _busy(view)
    rows: list[Row] = []
    for label, ratio in (
        (name, busy),
        ("batch fill", load.batch_fill),
        ("prefix hit", load.prefix_cache_hit_rate),
    ):
        rows.append(
            [
                (label.ljust(_LABEL), "label"),
                *meter(ratio, width - _LABEL - 6, "performance"),
                (f"{percent(ratio):>5}", "dim" if ratio is None else "value"),
                (" " if ratio is None else "%", "dim"),
            ]
        )
    return rows


def _busy(view: View) -> tuple[str, float | None]:
    """The mean utilisation of the GPUs of what is selected; without any, its share of the host."""
    entry, snapshot = view.entry, view.snapshot
    if entry is None or snapshot is None:
        return "GPU busy", None
    workers = [entry.worker] if entry.worker else list(entry.model.workers)
    uses = {(w.node, g) for w in workers for g in w.gpus}
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
