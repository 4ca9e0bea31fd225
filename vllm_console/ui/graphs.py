"""Graphs made of characters: the braille area, the histogram, and a scale that does not jitter."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vllm_console.ui.rows import SHADES, Row

_UP = (" ⢀⢠⢰⢸", "⡀⣀⣠⣰⣸", "⡄⣄⣤⣴⣼", "⡆⣆⣦⣶⣾", "⡇⣇⣧⣷⣿")
_DOWN = (" ⠈⠘⠸⢸", "⠁⠉⠙⠹⢹", "⠃⠋⠛⠻⢻", "⠇⠏⠟⠿⢿", "⡇⡏⡟⡿⣿")
_EIGHTHS = " ▁▂▃▄▅▆▇█"
_STEPS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)

_SMALLEST = 1e-9
"""Below this a scale would be made of rounding errors."""

Samples = Sequence[float | None]


def nice(value: float) -> float:
    """The scale for a graph whose largest value is `value`: the next of 1, 1.5, 2, … 10 × 10ⁿ."""
    if value < _SMALLEST or not math.isfinite(value):
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(value))
    return next((s * power for s in _STEPS if value <= s * power), 10 * power)


def area(
    samples: Samples,
    width: int,
    height: int,
    top: float,
    hue: str,
    *,
    down: bool = False,
    line: float | None = None,
) -> list[Row]:
    """An area graph in braille, newest sample at the right, two samples a cell, one ink a row.

    `top` is the value at full height. A sample above zero shows at least one dot, a missing one
    shows none. With `line`, a dashed rule stands at that value and what is over it is amber.
    """
    lut = _DOWN if down else _UP
    columns = width * 2
    newest = list(samples[-columns:])
    values: list[float | None] = [*([None] * (columns - len(newest))), *newest]
    full = height * 4
    scale = full / top if top > 0 else 0.0
    dots = [0 if v is None or v <= 0 else max(1, min(full, round(v * scale))) for v in values]
    mark = None if line is None else max(0, min(height - 1, math.ceil(line * scale / 4) - 1))
    rows: list[Row] = []
    for y in range(height):
        row_number = y if down else height - 1 - y
        base = row_number * 4
        text = "".join(
            [
                lut[min(4, max(0, a - base))][min(4, max(0, b - base))]
                for a, b in zip(dots[::2], dots[1::2], strict=True)
            ]
        )
        ink = f"{hue}{round((row_number + 1) / height * (SHADES - 1))}"
        if mark is None or row_number < mark:
            rows.append([(text, ink)])
        elif row_number > mark:
            rows.append([(text, "warn")])
        else:
            assert line is not None
            rows.append(_ruled(text, values, line, ink))
    return rows


def _ruled(text: str, values: Samples, line: float, ink: str) -> Row:
    """The graph row that holds the rule: a dash where empty, amber where the sample is over it."""
    row: Row = []
    for x, char in enumerate(text):
        pair = (values[2 * x], values[2 * x + 1])
        if char == " ":
            char, new = "╌", "dim"
        else:
            new = "warn" if any(v is not None and v > line for v in pair) else ink
        if row and row[-1][1] == new:
            row[-1] = (row[-1][0] + char, new)
        else:
            row.append((char, new))
    return row


def histogram(counts: Sequence[float], width: int, height: int, hue: str) -> list[Row]:
    """Columns of one width; a count above zero shows at least an eighth of a cell."""
    bounds = column_bounds(len(counts), width)
    top = max(counts, default=0)
    if top <= 0:
        return [*([[]] * (height - 1)), [("╌" * width, "track")]]
    eighths = [max(1, round(c / top * height * 8)) if c > 0 else 0 for c in counts]
    rows: list[Row] = []
    for y in range(height - 1, -1, -1):
        text = ""
        for value, (start, end) in zip(eighths, bounds, strict=True):
            text = text.ljust(start) + _EIGHTHS[min(8, max(0, value - y * 8))] * (end - start)
        rows.append([(text.ljust(width), f"{hue}{3 + round((y + 1) / height * 5)}")])
    return rows


def column_bounds(columns: int, width: int) -> list[tuple[int, int]]:
    """First cell and the one behind the last, for each column of a histogram.

    All columns are equally wide and equally far apart, with a gap where it leaves them two cells;
    what is left over stays free at both sides.
    """
    if not columns:
        return []
    gap = 1 if (width + 1) // columns >= 3 else 0
    pitch = max(1, (width + gap) // columns)
    start = max(0, (width - (pitch * columns - gap)) // 2)
    return [(start + i * pitch, start + (i + 1) * pitch - gap) for i in range(columns)]


def bar(ratio: float | None) -> str:
    """One upright bar of one to four dots for a ratio; `╌` where it is unknown."""
    return "╌" if ratio is None else "⣀⣤⣶⣿"[max(0, min(3, round(ratio * 4) - 1))]
