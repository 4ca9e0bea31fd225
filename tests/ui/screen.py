"""A terminal's screen: what stands in its cells after everything that was written to it."""

from __future__ import annotations

import codecs
import re
from functools import lru_cache

from rich.cells import cell_len

_PIECE = re.compile(
    r"\x1b\[(?P<codes>[\d;]*)(?P<kind>[A-Za-z])"
    r"|\x1b\[[?<>=!][\d;$]*[A-Za-z~]"
    r"|\x1b[\]P_^X](?:[^\x07\x1b]|\x1b[^\\])*(?:\x07|\x1b\\)"
    r"|\x1b[^\[\]P_^X]"
    r"|[\n\r\x07\x0e\x0f]"
    r"|(?P<text>[^\x1b\n\r\x07\x0e\x0f]+)",
    re.DOTALL,
)
_ENDS = {"22": ("1", "2"), "23": ("3",), "24": ("4",), "27": ("7",), "29": ("9",)}

Ink = tuple[tuple[str, ...], str, str]
"""Attributes, colour and background as their SGR codes."""
NOTHING: Ink = ((), "", "")


class Screen:
    """Cells with their inks; understands what Textual and the console write, and no more.

    Raises `ValueError` for a sequence that would change the cells in a way it does not know.
    """

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._left = ""
        self.ink = NOTHING
        self.y = self.x = 0
        self.clear()

    def clear(self) -> None:
        """Empty every cell."""
        self.cells = [[" "] * self.columns for _ in range(self.rows)]
        self.inks = [[NOTHING] * self.columns for _ in range(self.rows)]

    def feed(self, data: bytes | str) -> None:
        """Take what a program has written; it may end in the middle of a sequence."""
        text = self._left + (data if isinstance(data, str) else self._decoder.decode(data))
        at = 0
        while at < len(text):
            piece = _PIECE.match(text, at)
            if piece is None:
                break
            at = piece.end()
            if piece["text"] is not None:
                self._write(piece["text"])
            elif piece["kind"] is not None:
                self._obey(piece["kind"], piece["codes"])
            elif piece[0] == "\n":
                self.y = min(self.rows - 1, self.y + 1)
            elif piece[0] in ("\x1b[?1049h", "\x1b[?1049l"):
                self.clear()
        self._left = text[at:]

    def _obey(self, kind: str, codes: str) -> None:
        first, _, second = codes.partition(";")
        if kind == "m":
            self.ink = _inked(self.ink, codes)
        elif kind == "H":
            self.y = min(self.rows, int(first or 1)) - 1
            self.x = min(self.columns, int(second or 1)) - 1
        elif kind == "G":
            self.x = min(self.columns, int(first or 1)) - 1
        elif kind == "J" and codes == "2":
            self.clear()
        elif kind not in "hlnctuq":
            raise ValueError(f"unknown: {codes}{kind}")

    def _write(self, text: str) -> None:
        row, inks = self.cells[self.y], self.inks[self.y]
        for character in text:
            width = 1 if " " <= character <= "~" else cell_len(character)
            if self.x + width > self.columns:
                return
            if not width:
                before = self.x - (2 if self.x > 1 and row[self.x - 1] == "" else 1)
                row[before] += character
                continue
            if row[self.x] == "":
                row[self.x - 1] = " "
            beyond = self.x + width
            if beyond < self.columns and row[beyond] == "":
                row[beyond] = " "
            row[self.x : beyond] = [character, ""][:width]
            inks[self.x : beyond] = [self.ink] * width
            self.x = beyond

    @property
    def lines(self) -> list[str]:
        """The text of each row."""
        return ["".join(row) for row in self.cells]

    @property
    def text(self) -> str:
        """All rows."""
        return "\n".join(self.lines)

    def ink_of(self, words: str) -> Ink | None:
        """The ink of the first place where words stand; `None` where they do not."""
        for y, line in enumerate(self.lines):
            at = line.find(words)
            if at >= 0:
                cells = self.cells[y]
                column = next(x for x in range(self.columns) if len("".join(cells[:x])) >= at)
                return self.inks[y][column]
        return None


@lru_cache(maxsize=4096)
def _inked(ink: Ink, codes: str) -> Ink:
    marks, front, back = ink
    each = (codes or "0").split(";")
    while each:
        code = each.pop(0)
        if code == "0":
            marks, front, back = NOTHING
        elif code in ("38", "48"):
            many = 4 if each[:1] == ["2"] else 2
            colour = ";".join([code, *each[:many]])
            del each[:many]
            front, back = (colour, back) if code == "38" else (front, colour)
        elif code == "39":
            front = ""
        elif code == "49":
            back = ""
        elif code in _ENDS:
            marks = tuple(mark for mark in marks if mark not in _ENDS[code])
        elif re.fullmatch(r"[39]\d", code):
            front = code
        elif re.fullmatch(r"4\d|10\d", code):
            back = code
        else:
            marks = tuple(sorted({*marks, code}))
    return marks, front, back
