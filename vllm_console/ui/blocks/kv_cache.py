"""How full the KV cache is, over time, with a rule where it becomes a warning."""

from __future__ import annotations

from vllm_console.ui.format import percent
from vllm_console.ui.graphs import area
from vllm_console.ui.rows import Row, head, level, quiet
from vllm_console.ui.view import View


def draw(view: View, width: int, height: int) -> list[Row]:
    """The usage now, its peak in the graph, and the graph from 0 to 100 %."""
    load = view.load
    if load is None:
        return []
    values = view.trend("kv_cache_usage", width)
    known = [v for v in values if v is not None]
    usage = load.kv_cache_usage
    limit = view.limit("kv_cache_usage")
    title = head(
        "KV cache",
        width,
        (percent(usage), level(usage, limit.warn, limit.crit)),
        ("" if usage is None else "%", "dim"),
        ("  peak ", "dim"),
        (percent(max(known, default=None)), "label" if known else "dim"),
        ("%" if known else "", "dim"),
    )
    if usage is None and not known:
        return [title, *quiet(width, height - 1, *view.idle)]
    return [title, *area(values, width, height - 1, 1.0, "engines", line=limit.warn)]
