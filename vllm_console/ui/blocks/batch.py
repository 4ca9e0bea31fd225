"""What disturbs the batch, and how long requests are: preemptions, aborts, P95 lengths."""

from __future__ import annotations

from vllm_console.ui.format import NONE, si
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

    def tokens(label: str, value: float | None) -> Row:
        unit = "tok" if two >= 20 else ""
        label = label if unit else label.replace(" ", " tok ")
        return cell(label, NONE if value is None else si(round(value)), unit, "value", two)

    return [
        pair(
            rate("preempt", load.preemptions_per_s), tokens("in p95", load.prompt_length.p95), width
        ),
        pair(rate("abort", load.aborts_per_s), tokens("out p95", load.output_length.p95), width),
    ]
