"""Time to first token, P95 over time; what is over its target is amber."""

from __future__ import annotations

from vllm_console.ui.format import duration
from vllm_console.ui.graphs import area, nice
from vllm_console.ui.percentile import percentile
from vllm_console.ui.rows import Row, head, quiet
from vllm_console.ui.view import View


def draw(view: View, width: int, height: int) -> list[Row]:
    """The P95 now, the target of fleet.toml, and the graph with the target as a rule."""
    load, model = view.load, view.model
    if load is None or model is None:
        return []
    quantiles, slo = load.latency.ttft_s, model.slo.ttft_p95_s
    values = view.trend("ttft_p95_s", width)
    present = [v for v in values if v is not None]
    shown = percentile(quantiles, "p95")
    number, unit = duration(shown.value if shown else None)
    ink = "value"
    if shown is None or shown.thin:
        ink = "dim"
    elif shown.over(slo):
        ink = "warn!"
    end = [((shown.mark if shown else "") + number, ink), (" " + unit if unit else "", "dim")]
    if slo is not None:
        target, target_unit = duration(slo)
        end += [("  target ", "dim"), (target, "label"), (" " + target_unit, "dim")]
    title = head("TTFT p95", width, *end)
    if not present:
        return [title, *(quiet(width, height - 1, "no request yet") if view.sampled else [])]
    top = nice(max([*present, (slo or 0) * 1.25, 0.001]))
    return [title, *area(values, width, height - 1, top, "performance", line=slo)]
