"""Rows of inked text: how blocks say what to draw, without knowing colours or Textual.

A row is a list of (text, ink). Inks are named in `theme.py`; `"value"` is bold, `"warn!"` is the
state colour in bold, `"engines3"` a shade of a panel's hue, `"on engines5"` a background; a
trailing `@` puts any of them on the selected row's background, `@warn` and `@crit` on a tinted one.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from rich.cells import cell_len, set_cell_size

from vllm_console.ui.format import NONE

Span: TypeAlias = tuple[str, str]
Row: TypeAlias = list[Span]

SHADES = 9
"""Shades of a hue, 0 next to the background, 8 the hue itself."""


def length(row: Iterable[Span]) -> int:
    """Cells that a row takes."""
    return sum(cell_len(text) for text, _ in row)


def text_of(rows: Iterable[Row]) -> str:
    """Rows as plain text, one line a row, blanks at the end cut."""
    return "\n".join("".join(text for text, _ in row).rstrip() for row in rows)


def cut(text: str, width: int) -> str:
    """Text in at most `width` cells; `…` stands for what is missing at its end."""
    if cell_len(text) <= width:
        return text
    return "" if width < 1 else set_cell_size(text, width - 1).rstrip() + "…"


def cut_left(text: str, width: int) -> str:
    """Text in at most `width` cells; `…` stands for what is missing at its beginning."""
    if cell_len(text) <= width:
        return text
    if width < 1:
        return ""
    while cell_len(text) > width - 1:
        text = text[1:]
    return "…" + text


def left(text: str, width: int) -> str:
    """Text cut or filled to exactly `width` cells, at the left."""
    return set_cell_size(cut(text, width), width)


def right(text: str, width: int) -> str:
    """Text cut or filled to exactly `width` cells, at the right."""
    text = cut(text, width)
    return " " * (width - cell_len(text)) + text


def clip(row: Row, width: int) -> Row:
    """A row in at most `width` cells."""
    out: Row = []
    room = width
    for text, ink in row:
        size = cell_len(text)
        if size > room:
            if room > 0:
                out.append((cut(text, room), ink))
            break
        out.append((text, ink))
        room -= size
    return out


def shifted(row: Row, cells: int) -> Row:
    """A row without its first characters."""
    if not cells:
        return row
    out: Row = []
    for text, ink in row:
        out.append((text[cells:], ink))
        cells = max(0, cells - len(text))
    return out


def fill(row: Row, width: int) -> Row:
    """A row of exactly `width` cells."""
    row = clip(row, width)
    missing = width - length(row)
    return [*row, (" " * missing, "")] if missing else row


def spread(first: Row, last: Row, width: int) -> Row:
    """One part at the left, one at the right; the left one is cut where they meet."""
    last = clip(last, width)
    size = length(last)
    first = clip(first, max(0, width - size - 1))
    return [*first, (" " * (width - size - length(first)), ""), *last]


def head(title: str, width: int, *values: Span) -> Row:
    """A block's first row: its title and what it is now."""
    return spread([(title, "text")], list(values), width)


def known(text: str, ink: str = "value") -> Span:
    """A value in its ink; an unknown one in the dim ink."""
    return (text, "dim") if text == NONE else (text, ink)


def cell(label: str, value: str, unit: str, ink: str, width: int) -> Row:
    """A label at the left and its value at the right."""
    end: Row = [known(value, ink)]
    if unit and value != NONE:
        end.append((" " + unit, "dim"))
    return spread([(label, "label")], end, width)


def pair(one: Row, two: Row, width: int) -> Row:
    """Two half-width rows beside each other; make each with `half_widths`."""
    return [*one, (" " * _gutter(width), ""), *two]


def half_widths(width: int) -> tuple[int, int]:
    """The widths of the two cells of a `pair`."""
    first = (width - _gutter(width)) // 2
    return first, width - _gutter(width) - first


def _gutter(width: int) -> int:
    return 4 if width >= 60 else 3 if width >= 36 else 2


def beside(
    one: Sequence[Row], two: Sequence[Row], widths: tuple[int, int], gutter: int
) -> list[Row]:
    """Two stacks of rows as two columns."""
    out: list[Row] = []
    for y in range(max(len(one), len(two))):
        first = fill(one[y] if y < len(one) else [], widths[0])
        out.append([*first, (" " * gutter, ""), *(two[y] if y < len(two) else [])])
    return out


def ground(row: Row, width: int, name: str = "") -> Row:
    """A row on another background: the selection's, `warn` or `crit`."""
    return [(text, f"{ink}@{name}") for text, ink in fill(row, width)]


def wrap(text: str, width: int, ink: str, lines: int = 0) -> list[Row]:
    """Text over several rows, at most `lines` of them when given."""
    parts = textwrap.wrap(text, max(8, width), break_on_hyphens=False)
    if lines and len(parts) > lines:
        parts = [*parts[: lines - 1], cut(" ".join(parts[lines - 1 :]), width)]
    return [[(part, ink)] for part in parts]


def quiet(width: int, height: int, text: str, hint: str = "") -> list[Row]:
    """An empty state: why there is nothing, and what to do about it, in the middle."""
    lines = [*wrap(text, width, "label"), *wrap(hint, width, "dim")][: max(0, height)]
    above = max(0, (height - len(lines)) // 2)
    rows: list[Row] = [[] for _ in range(above)]
    rows += [[(" " * max(0, (width - length(line)) // 2), ""), *line] for line in lines]
    return rows + [[] for _ in range(height - len(rows))]


def level(value: float | None, warn: float | None, crit: float | None) -> str:
    """The ink of a value that is bad when high."""
    if value is None:
        return "dim"
    if crit is not None and value >= crit:
        return "crit!"
    return "warn!" if warn is not None and value >= warn else "value"


def meter(ratio: float | None, width: int, ink: str) -> Row:
    """`━━━━━╸━━━`: how much of a whole, in half cells; `╌╌╌` where that is unknown."""
    if width < 1:
        return []
    if ratio is None:
        return [("╌" * width, "track")]
    halves = max(0, min(2 * width, round(ratio * 2 * width)))
    if ratio > 0 and not halves:
        halves = 1
    full, part = divmod(halves, 2)
    return [("━" * full + "╸" * part, ink), ("━" * (width - full - part), "track")]


def stack(parts: Sequence[tuple[float, str]], width: int) -> Row:
    """Parts of a whole as backgrounds side by side; the row is exactly `width` cells.

    Cells go by largest remainder: a part far below a cell gets none, the legend tells its size.
    """
    parts = [(size, ink) for size, ink in parts if size > 0]
    total = sum(size for size, _ in parts)
    if not parts:
        return [("╌" * width, "track")]
    exact = [size / total * width for size, _ in parts]
    cells = [int(e) for e in exact]
    for i in sorted(range(len(cells)), key=lambda i: cells[i] - exact[i])[: width - sum(cells)]:
        cells[i] += 1
    return [(" " * n, "on " + ink) for n, (_, ink) in zip(cells, parts, strict=True) if n]
