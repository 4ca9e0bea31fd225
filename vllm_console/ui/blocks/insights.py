"""What measured steps say about the selected model's limits: the best batch, and what to change."""

from __future__ import annotations

from vllm_console.snapshot import Batching, StepTime
from vllm_console.ui.format import age, count, sig3
from vllm_console.ui.rows import Row, clip, cut, head, meter, wrap
from vllm_console.ui.view import NOT_RECORDED, View

_GLYPHS = {"warn": ("▲", "warn!"), "info": ("↑", "batching!"), "ok": ("●", "ok")}


def ask(view: View, width: int, height: int) -> int:
    """As many rows as its text takes."""
    return len(draw(view, width, 99))


def draw(view: View, width: int, height: int) -> list[Row]:
    """The best batch with its fit, then each advice with its evidence under it, dim."""
    model = view.model
    if model is None:
        return []
    if view.stored:
        return [head("insights", width), [(NOT_RECORDED, "dim")]][:height]
    found = model.batching
    rows = [_head(found, width)]
    if found.samples < found.enough:
        ratio = found.samples / found.enough if found.enough else None
        return [
            *rows,
            *wrap(found.reason or "not enough samples yet", width, "label"),
            meter(ratio, width, "batching"),
            [(cut("a busy engine gives one a second", width), "dim")],
        ][:height]
    if found.best is not None and found.fit is not None:
        rows.append(_best(found, width))
        rows += wrap(_formula(found.fit), width, "dim", 2)
    elif found.reason is not None:
        rows += wrap(f"no best batch: {found.reason}", width, "label", 2)
    for advice in found.advice:
        glyph, ink = _GLYPHS.get(advice.level, ("·", "label"))
        first, *more = wrap(advice.text, width - 2, "text", 2)
        rows.append([(glyph + " ", ink), *first])
        rows += [[("  ", ""), *row] for row in more]
        rows += [[("  ", ""), *row] for row in wrap(advice.evidence, width - 2, "dim", 2)]
    return rows[:height]


def _head(found: Batching, width: int) -> Row:
    if not found.samples:
        return head("insights", width)
    return head(
        "insights",
        width,
        (f"{age(found.measured_s)}, ", "dim"),
        (count(found.samples), "label"),
        (" samples", "dim"),
    )


def _best(found: Batching, width: int) -> Row:
    value = "none" if found.best == 0 else count(found.best)
    return clip(
        [
            ("best batch ", "label"),
            (value, "warn!" if found.best == 0 else "value"),
            ("  for ", "dim"),
            (found.best_for or "", "label"),
        ],
        width,
    )


def _formula(fit: StepTime) -> str:
    """The fit in words: `6.2 + 0.05 ms/request, 0.2 from 128 on, r² 0.93`."""
    text = f"{_ms(fit.base_s)} + {_ms(fit.per_request_s)} ms/request"
    if fit.knee is not None:
        text += f", {_ms(fit.per_request_s + fit.beyond_s)} from {fit.knee} on"
    return f"{text}, r² {fit.r2:.2f}"


def _ms(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:.3f}" if abs(value) < 0.1 else sig3(value)
