"""Requests running upwards, of at most max_num_seqs; requests waiting downwards."""

from __future__ import annotations

from vllm_console.ui.blocks.mirrored import Side, mirrored
from vllm_console.ui.format import count, duration
from vllm_console.ui.graphs import nice
from vllm_console.ui.percentile import percentile
from vllm_console.ui.rows import Row, Span, known, level, quiet
from vllm_console.ui.view import View

_LEAST = 4.0
"""The least value of a full graph: one request alone is no wall."""


def draw(view: View, width: int, height: int) -> list[Row]:
    """Both numbers now and the graphs; the upper one is full at max_num_seqs."""
    load = view.load
    if load is None:
        return quiet(width, height, *view.idle)
    running, waiting = view.trend("running", width), view.trend("waiting", width)
    most = max((v for v in running if v is not None), default=0.0)
    capacity = _capacity(view)
    # A graph scaled to a capacity that is never nearly used would be one dotted line.
    scale = nice(max(_LEAST, most)) if capacity is None or most < capacity / 4 else float(capacity)
    up: list[Span] = [known(count(load.running))]
    if capacity is not None:
        up += [(" of ", "dim"), (count(capacity), "label")]
    limit = view.limit("waiting")
    queue = percentile(load.latency.queue_s, "p95")
    down: list[Span] = [(count(load.waiting), level(load.waiting, limit.warn, limit.crit))]
    if queue is not None:
        number, unit = duration(queue.value)
        down += [("  p95 wait ", "dim"), (queue.mark + number, "label"), (" " + unit, "dim")]
    top = nice(max([8.0, *(v for v in waiting if v is not None)]))
    return mirrored(
        Side("running", "batching", tuple(up), running, scale),
        Side("waiting", "scaling", tuple(down), waiting, top),
        width,
        height,
        None if view.sampled else view.idle,
    )


def _capacity(view: View) -> int | None:
    """max_num_seqs of all ready workers of what is selected."""
    entry = view.entry
    if entry is None or entry.model.engine.max_num_seqs is None:
        return None
    return entry.model.engine.max_num_seqs * (1 if entry.worker else max(1, entry.model.ready))
