"""How the blocks of a panel share its rows: which are shown, where, and how tall."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations, pairwise

from vllm_console.ui.blocks import BLOCKS
from vllm_console.ui.panels import PanelSpec, Placed
from vllm_console.ui.rows import Row, beside, wrap
from vllm_console.ui.view import View

TWO_COLUMNS = 110
THREE_COLUMNS = 190
"""A zoomed panel this wide puts its blocks in two columns, or in three."""
_GUTTER = 4
_AIRY = 24
"""A panel with so many rows keeps the blank ones between its blocks."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block stands inside its panel, in cells."""

    block: str
    x: int
    y: int
    width: int
    height: int


@dataclass(slots=True, eq=False)
class _Slot:
    placed: Placed
    height: int
    """Rows so far."""
    least: int
    most: int
    asked: int | None


def places(spec: PanelSpec, view: View, layout: str, width: int, height: int) -> list[Place]:
    """The blocks that are shown, from top to bottom, column by column."""
    shown = [p for p in spec.blocks if layout in p.at and p.room <= height and _wanted(p, view)]
    if layout != "zoom" or width < TWO_COLUMNS or len(shown) < 2:
        return _column(shown, view, 0, width, height, layout == "zoom")
    many = min(3 if width >= THREE_COLUMNS else 2, len(shown))
    size = (width - _GUTTER * (many - 1)) // many
    out = []
    for number, blocks in enumerate(_columns(shown, view, size, height, many)):
        x = number * (size + _GUTTER)
        out += _column(blocks, view, x, size if number < many - 1 else width - x, height, True)
    return out


def draw_panel(spec: PanelSpec, view: View, layout: str, width: int, height: int) -> list[Row]:
    """All rows of a panel's inside; a mistake in its file is shown in its place."""
    if spec.problem is not None:
        return [[("✖ ", "crit!"), ("this panel's file has a mistake", "text")], [], *wrap(
            spec.problem, width, "label"
        )]  # fmt: skip
    view = replace(view, limits=spec.limits)
    columns: dict[int, list[Row]] = {}
    for place in places(spec, view, layout, width, height):
        rows = columns.setdefault(place.x, [])
        rows += [[] for _ in range(place.y - len(rows))]
        block = BLOCKS[place.block]
        drawn = block.draw(view, min(place.width, block.widest), place.height)[: place.height]
        rows += [*drawn, *([] for _ in range(place.height - len(drawn)))]
    out: list[Row] = []
    for x, rows in columns.items():
        out = beside(out, rows, (x - _GUTTER, 0), _GUTTER) if x else rows
    return out


def _wanted(placed: Placed, view: View) -> bool:
    block = BLOCKS[placed.block]
    if block.needs_model and view.model is None:
        return False
    return block.ask is None or block.ask(view, 40, 40) > 0


def _column(
    shown: list[Placed], view: View, x: int, width: int, height: int, zoomed: bool
) -> list[Place]:
    slots = [_slot(p, view, width, height) for p in shown]
    slots = _kept(slots, height)
    if not slots:
        return []
    if len(slots) == 1 and not (view.snapshot and view.snapshot.models):
        return [Place(slots[0].placed.block, x, 0, width, height)]
    least = sum(s.least for s in slots) + len(slots) - 1
    wish = sum(s.least if s.asked is None else s.asked for s in slots) + len(slots) - 1
    gap = 1 if wish <= height or (height >= _AIRY and least <= height) else 0
    free = height - sum(s.least for s in slots) - gap * (len(slots) - 1)
    for slot in sorted(slots, key=lambda s: -s.placed.keep):
        if slot.asked is not None:
            more = min(free, slot.asked - slot.height)
            slot.height += more
            free -= more
    _grow([s for s in slots if s.placed.share], free, lift=zoomed)
    out, y = [], 0
    for slot in slots:
        out.append(Place(slot.placed.block, x, y, width, slot.height))
        y += slot.height + gap
    return out


def _kept(slots: list[_Slot], height: int) -> list[_Slot]:
    """The slots that fit, those with the highest `keep` first; their order stays.

    In an airy panel they fit with a blank row before each.
    """
    blank = 1 if height >= _AIRY else 0
    free, kept = height + blank, []
    for slot in sorted(slots, key=lambda s: -s.placed.keep):
        if slot.least + blank <= free:
            kept.append(slot)
            free -= slot.least + blank
    return [slot for slot in slots if slot in kept]


def _slot(placed: Placed, view: View, width: int, height: int) -> _Slot:
    most = height if placed.max is None else (
        int(placed.max * height) if isinstance(placed.max, float) else placed.max
    )  # fmt: skip
    if placed.rows is not None:
        return _Slot(placed, placed.rows, placed.rows, placed.rows, None)
    block = BLOCKS[placed.block]
    ask = block.ask
    if placed.share or ask is None:
        return _Slot(placed, placed.min, placed.min, max(most, placed.min), None)
    asked = max(1, min(ask(view, min(width, block.widest), height), max(most, placed.min)))
    least = min(placed.min, asked)
    return _Slot(placed, least, least, asked, asked)


def _grow(slots: list[_Slot], free: int, *, lift: bool) -> None:
    """Share free rows by weight, up to each one's most; what all refuse stays free.

    A zoomed panel lifts the limits: its graphs are what one wants to see large.
    """
    while free > 0:
        hungry = slots if lift else [s for s in slots if s.height < s.most]
        if not hungry:
            return
        neediest = min(hungry, key=lambda s: s.height / s.placed.share)
        neediest.height += 1
        free -= 1


def _columns(
    shown: list[Placed], view: View, width: int, height: int, many: int
) -> list[list[Placed]]:
    """The blocks in so many columns of about the same height, order kept."""
    wishes = []
    for placed in shown:
        slot = _slot(placed, view, width, height)
        wishes.append(slot.asked or slot.least * (2 if placed.share else 1))
    cuts = [
        (0, *inner, len(shown)) for inner in combinations(range(1, len(shown)), many - 1)
    ]  # fmt: skip
    best = min(cuts, key=lambda cut: max(sum(wishes[a:b]) for a, b in pairwise(cut)))
    return [shown[a:b] for a, b in pairwise(best)]
