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
    shown = list(keys)
    while len(shown) > ALWAYS and length(_row(shown, grey)) > width:
        del shown[-ALWAYS - 1]
    return [clip(_row(shown, grey), width)]


def _row(keys: Keys, grey: Collection[str]) -> Row:
    row: Row = []
    for key, text in keys:
        dim = text in grey
        row += [("  " if row else "", ""), (key, "dim" if dim else "engines!")]
        row.append((f" {text}", "dim" if dim else "label"))
    return row
