"""The selected model's range of workers, where it stands in it, and what moves it."""

from __future__ import annotations

from vllm_console.snapshot import Model
from vllm_console.ui.format import NONE, duration
from vllm_console.ui.rows import Row, cell, clip, half_widths, head, pair, wrap
from vllm_console.ui.view import View


def ask(view: View, width: int, height: int) -> int:
    """As many rows as its text takes."""
    return len(draw(view, width, 99))


def draw(view: View, width: int, height: int) -> list[Row]:
    """A ruler `1 ●━━━◆──┿──┿ 4` (● ready, ◆ wanted), then what moves it, when, and how fast."""
    model = view.model
    if model is None:
        return []
    told = model.autoscale
    number, unit = duration(told.cold_start_s)
    one, two = half_widths(width)
    if model.scale.target is None and told.wanted is None:
        return [
            head("autoscale", width, ("off", "dim")),
            *wrap("no scale.target in fleet.toml: workers stay as wanted", width, "dim", 2),
            cell("cold start", number, unit, "value", width),
        ][:height]
    target = NONE if model.scale.target is None else f"{model.scale.target:g}"
    rows = [
        head("autoscale", width, (model.name, "scaling!")),
        _ruler(model, width),
        pair(
            cell("target", target, "/worker" if one >= 20 else "", "value", one),
            cell("cold start", number, unit, "value", two),
            width,
        ),
    ]
    if told.wanted is None:
        return [*rows, clip([("this version does not act on it", "dim")], width)][:height]
    next_number, next_unit = duration(told.next_s)
    rows.append(
        pair(
            cell("wanted", f"{told.wanted}", "", "value", one),
            cell("next", next_number, next_unit, "value", two),
            width,
        )
    )
    return [*rows, *wrap(told.why or "", width, "label", 2)][:height]


def _ruler(model: Model, width: int) -> Row:
    low, high = model.scale.min, max(model.scale.max, model.scale.min)
    start, end = f"{low} ", f" {high}"
    length = width - len(start) - len(end)

    def place(n: int) -> int:
        return round((min(max(n, low), high) - low) / max(1, high - low) * (length - 1))

    ticks = {place(n) for n in range(low, high + 1)} if high - low < length // 3 else set()
    ready, wanted = place(model.ready), place(model.wanted)
    first, last = sorted((ready, wanted))
    row: Row = [(start, "label")]
    for x in range(length):
        if x == ready:
            row.append(("●", "ok"))
        elif x == wanted:
            row.append(("◆", "warn!"))
        elif first < x < last:
            row.append(("━", "warn"))
        else:
            row.append(("┿" if x in ticks else "─", "track"))
    return [*_joined(row), (end, "label")]


def _joined(row: Row) -> Row:
    out: Row = []
    for text, ink in row:
        if out and out[-1][1] == ink:
            out[-1] = (out[-1][0] + text, ink)
        else:
            out.append((text, ink))
    return out
