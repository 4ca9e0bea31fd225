"""What the numbers of a panel are: name, formula and meaning, block by block."""

from __future__ import annotations

from collections.abc import Iterable

from vllm_console.insight.definitions import DEFINITIONS
from vllm_console.ui.rows import Row, left, wrap

_NAME = 15
_LEAST = 24
"""Cells that a formula needs beside its name."""


def draw(blocks: Iterable[str], width: int) -> list[Row]:
    """The definitions of these blocks, each block once, in their order."""
    rows: list[Row] = []
    for block in dict.fromkeys(blocks):
        if block not in DEFINITIONS:
            continue
        rows += [[], [(block, "engines!")]] if rows else [[(block, "engines!")]]
        for name, formula, meaning in DEFINITIONS[block]:
            texts = [*_told(formula, "text", width), *_told(meaning, "label", width)]
            beside = width - _NAME >= _LEAST
            first: Row = [(left(name, _NAME) if beside else name, "value")]
            if not beside:
                rows.append(first)
                rows += [[("  ", ""), *row] for row in texts]
                continue
            for row in texts:
                rows.append([*first, *row])
                first = [(" " * _NAME, "")]
    return rows or [[("nothing in this panel needs a definition", "label")]]


def _told(text: str, ink: str, width: int) -> list[Row]:
    room = width - (_NAME if width - _NAME >= _LEAST else 2)
    return wrap(text, room, ink) if text else []
