"""What a batch is made of and what disturbs it: tokens a step, preemptions, who waits for what."""

from __future__ import annotations

from vllm_console.ui.format import NONE, count, duration, si
from vllm_console.ui.rows import Row, cell, half_widths, pair
from vllm_console.ui.view import View


def draw(view: View, width: int, height: int) -> list[Row]:
    """Three rows of two numbers; rates are per minute, the oldest is of the whole model."""
    load, model = view.load, view.model
    if load is None or model is None:
        return []
    one, two = half_widths(width)
    number, unit = duration(model.arrivals.oldest_waiting_s)
    if load.waiting == 0:
        number, unit = "none", ""

    def rate(label: str, value: float | None, size: int) -> Row:
        per_minute = None if value is None else value * 60
        text = NONE if per_minute is None else si(per_minute)
        return cell(
            label, text, "/min" if size >= 18 else "/m", "warn!" if per_minute else "value", size
        )

    def reason(label: str, name: str, size: int) -> Row:
        waiting = load.waiting_for
        return cell(label, count(None if waiting is None else waiting.get(name)), "", "value", size)

    wide = one >= 20
    return [
        pair(
            cell("tokens a step" if wide else "tok/step", _tokens(load.tokens_per_step), "",
                 "value", one),
            rate("preempted" if wide else "preempt", load.preemptions_per_s, two),
            width,
        ),
        pair(
            cell("oldest waits" if wide else "oldest", number, unit, "value", one),
            rate("aborted" if wide else "abort", load.aborts_per_s, two),
            width,
        ),
        pair(
            reason("wait for capacity" if wide else "for slots", "capacity", one),
            reason("deferred", "deferred", two),
            width,
        ),
    ][:height]  # fmt: skip


def _tokens(value: float | None) -> str:
    return NONE if value is None else si(value) if value < 10 else count(value)
