"""Several percentiles of one quantity in one area: the lowest brightest, what is above it paler."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_console.ui.graphs import Samples
from vllm_console.ui.rows import Row


def layers(
    series: Sequence[Samples], inks: Sequence[str], width: int, height: int, top: float
) -> list[Row]:
    """Areas over each other, the lowest series first, each in its ink, the oldest value left.

    `top` is the value at full height. A series is stretched to the width, two values a cell; a
    missing value shows nothing.
    """
    columns = width * 2
    stretched = [_stretched(samples, columns) for samples in series]
    heights = [_dots(samples, height, top) for samples in stretched]
    highest = [max(column) for column in zip(*heights, strict=True)] or [0] * columns
    rows: list[Row] = []
    for y in range(height - 1, -1, -1):
        base, row = y * 4, list[tuple[str, str]]()
        for x in range(width):
            pair = slice(2 * x, 2 * x + 2)
            char = cell_of(highest[pair], base)
            reach = (k for k, dots in enumerate(heights) if max(dots[pair]) > base + _HALF)
            ink = inks[next(reach, len(inks) - 1)]
            if row and row[-1][1] == ink:
                row[-1] = (row[-1][0] + char, ink)
            else:
                row.append((char, ink))
        rows.append(row)
    return rows


_HALF = 1
"""Dots that a series must fill of a cell for the cell to be in its ink."""
_UP = (" ⢀⢠⢰⢸", "⡀⣀⣠⣰⣸", "⡄⣄⣤⣴⣼", "⡆⣆⣦⣶⣾", "⡇⣇⣧⣷⣿")


def cell_of(pair: Sequence[int], base: int) -> str:
    """The braille of two columns of dots in the cell whose lowest dot is `base`."""
    one, two = (min(4, max(0, dots - base)) for dots in pair)
    return _UP[one][two]


def _stretched(samples: Samples, columns: int) -> Samples:
    many = len(samples)
    return [samples[i * many // columns] for i in range(columns)] if many else [None] * columns


def _dots(samples: Samples, height: int, top: float) -> list[int]:
    full = height * 4
    scale = full / top if top > 0 else 0.0
    return [0 if v is None or v <= 0 else max(1, min(full, round(v * scale))) for v in samples]
