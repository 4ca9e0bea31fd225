"""The last line: the keys that act now, or what the last one did."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from vllm_console.ui.rows import Row, clip, length
from vllm_console.ui.states import LEVELS


@dataclass(frozen=True, slots=True)
class Notice:
    """One line about what a key did or why it did nothing."""

    level: str
    text: str


Keys = Sequence[tuple[str, str]]
"""Key and what it does, the ones that must never be cut away last."""

ALWAYS = 2
"""Keys at the end of the list that are always shown: help and quit."""

_GAP = 2


def rows(keys: Keys, notice: Notice | None, width: int, grey: Collection[str] = ()) -> list[Row]:
    """The notice, or as many keys as fit, the `grey` ones dim; keys in the middle go first."""
    if notice is not None:
        glyph, ink = LEVELS.get(notice.level, LEVELS["info"])
        return [
            clip(
                [
                    (glyph + " ", ink + "!" if ink in ("warn", "crit", "ok") else ink),
                    (notice.text, "text"),
                ],
                width,
            )
        ]
    return [clip(_row(_fitting(keys, width), grey), width)]


def at(keys: Keys, width: int, column: int) -> str | None:
    """What the key does that is shown in a column; `None` between two, or beyond the last."""
    begin = 0
    for key, text in _fitting(keys, width):
        end = begin + length([(f"{key} {text}", "")])
        if begin <= column < end:
            return text
        begin = end + _GAP
    return None


def _fitting(keys: Keys, width: int) -> Keys:
    shown = list(keys)
    while len(shown) > ALWAYS and length(_row(shown)) > width:
        del shown[-ALWAYS - 1]
    return shown


def _row(keys: Keys, grey: Collection[str] = ()) -> Row:
    row: Row = []
    for key, text in keys:
        dim = text in grey
        row += [(" " * _GAP if row else "", ""), (key, "dim" if dim else "engines!")]
        row.append((f" {text}", "dim" if dim else "label"))
    return row
