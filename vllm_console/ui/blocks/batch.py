"""What disturbs the batch, and how long requests are: preemptions, aborts, P95 lengths."""

from __future__ import annotations

from vllm_console.snapshot import Quantiles
from vllm_console.ui.format import NONE, si
from vllm_console.ui.percentile import percentile
from vllm_console.ui.rows import Row, cell, half_widths, pair
from vllm_console.ui.view import View


def draw(view: View, width: int, height: int) -> list[Row]:
    """Two rows of two numbers; rates are per minute."""
    load = view.load
    if load is None:
        return []
    one, two = half_widths(width)

    def rate(label: str, value: float | None) -> Row:
        per_minute = None if value is None else value * 60
        text = NONE if per_minute is None else si(per_minute)
        return cell(
            label, text, "/min" if one >= 18 else "/m", "warn!" if per_minute else "value", one
        )

    def tokens(label: str, lengths: Quantiles) -> Row:
        unit = "tok" if two >= 20 else ""
        label = label if unit else label.replace(" ", " tok ")
        shown = percentile(lengths, "p95")
        text = NONE if shown is None else shown.mark + si(round(shown.value))
        return cell(label, text, unit, "value", two)

    return [
        pair(rate("preempt", load.preemptions_per_s), tokens("in p95", load.prompt_length), width),
        pair(rate("abort", load.aborts_per_s), tokens("out p95", load.output_length), width),
    ]
