"""ASCII in place of every other character the console draws, cell for cell."""

from __future__ import annotations

from collections.abc import Mapping

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

_UNABLE = ("linux", "dumb", "vt", "ansi", "cons25", "sun", "wyse")
"""How TERM begins for terminals whose font has neither braille nor glyphs."""

_SIGNS = {
    "●": "*", "◐": "~", "◒": "v", "○": "o", "◌": "z", "◆": "#", "■": "#",
    "✖": "X", "▲": "^", "▼": "v", "▾": "v", "▴": "^", "↑": "^", "↓": "v", "←": "<", "→": ">",
    "↵": "<", "↻": "@", "⇧": "^", "⏎": "<", "‖": "|", "▏": "_", "│": "|", "┃": "|",
    "━": "=", "─": "-", "╸": "-", "╺": "-", "╌": ".", "┿": "+", "├": "|", "└": "`", "┌": ",",
    "┐": ".", "┘": "'", "┤": "|", "┬": "+", "┴": "+", "┼": "+",
    "╭": "+", "╮": "+", "╯": "+", "╰": "+",
    "▁": "_", "▂": "_", "▃": "-", "▄": "-", "▅": "=", "▆": "=", "▇": "#", "█": "#",
    "▎": "|", "▌": "|", "▐": "|", "░": ".", "▒": ":", "▓": "#", "▪": "*", "•": "*",
    "–": "-", "—": "-", "…": ".", "·": ".", "×": "x", "°": "'", "±": "+", "∞": "~",
    "≤": "<", "≥": ">", "≈": "~", "Σ": "S", "µ": "u", "μ": "u", "σ": "s", "“": '"', "”": '"',
    "‘": "'", "’": "'", "›": ">", "‹": "<", "»": ">", "«": "<", "✓": "v", "✔": "v", "✗": "x",
    "²": "2", "³": "3", "¹": "1", "⁴": "4", "⁵": "5", "⁶": "6", "⁷": "7", "⁸": "8", "⁹": "9",
    "ⁿ": "n", "\xa0": " ",
}  # fmt: skip
_HEIGHTS = " .,:;il|#"
"""A braille cell by how many of its eight dots are set."""
_BRAILLE = {chr(0x2800 + bits): _HEIGHTS[bits.bit_count()] for bits in range(256)}
KNOWN: Mapping[int, str] = {ord(sign): plain for sign, plain in {**_SIGNS, **_BRAILLE}.items()}
"""What stands for which character; each takes one cell, as what it stands for."""


def few_characters(environ: Mapping[str, str]) -> bool:
    """Whether this terminal can show ASCII alone."""
    return environ.get("TERM", "").startswith(_UNABLE)


def plain(text: str) -> str:
    """Text in ASCII, as many cells wide; `?` for each cell of what has no likeness."""
    if text.isascii():
        return text
    text = text.translate(KNOWN)
    if text.isascii():
        return text
    return "".join(char if char.isascii() else "?" * cell_len(char) for char in text)


class AsciiOnly(LineFilter):
    """Everything that is drawn, borders and all, in ASCII."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The same segments in other signs."""
        return [
            segment if segment.text.isascii() else Segment(plain(segment.text), segment.style)
            for segment in segments
        ]
