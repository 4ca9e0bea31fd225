"""What goes to the terminal: only the cells that differ from those it shows, in few bytes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from functools import lru_cache

from rich.cells import cell_len
from textual.driver import Driver

SYNC_BEGINS, SYNC_ENDS = "\x1b[?2026h", "\x1b[?2026l"
"""Around one picture, where a terminal draws it at once."""
RESIZING_S = 0.5
"""Seconds after a new size in which nothing is left out: a picture of the old size may still come,
and what the terminal makes of it is its own affair."""

_POSITION = re.compile(r"\x1b\[(\d+;\d+)H")
_STYLED = re.compile(r"\[([\d;]+)m(.*)", re.DOTALL)
PLAIN = re.compile(r"[ -~\u00a1-\u00ac\u00ae-\u02ff\u2010-\u2027\u2500-\u25fc\u2800-\u28ff]*")
"""Text of which each character takes one cell; other text is measured."""
_NEAR = 4
"""Cells that stay as they are between two that change, up to which it is shorter to write on."""
_OFF = {"1": "22", "2": "22", "3": "23", "4": "24", "7": "27", "9": "29"}
"""What ends an attribute; one code ends both bold and faint (ECMA-48, 8.3.117)."""
_SEEN = frozenset({"4", "5", "6", "7", "9", "21", "53"})
"""Attributes that are seen on a space."""

_BLANK = " "
"""Begins the ink of spaces, which is that of their background."""
_UNKNOWN = "\x00"
_REST = ""
"""The second cell of a wide character."""


class Shown:
    """The cells of a terminal as they were last written; rows and columns count from 1."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._rows: dict[int, _Cells] = {}
        self._cursor = ""
        self._clock = clock
        self._settles = float("-inf")

    def resized(self) -> None:
        """The terminal has another size, and what it shows now is its own affair."""
        self._settles = self._clock() + RESIZING_S
        self.forget()

    def forget(self) -> None:
        """Know nothing: each cell that comes next is written."""
        self._rows.clear()
        self._cursor = ""

    def lean(self, update: str) -> str:
        """A picture as Textual writes it, without what the terminal shows already.

        What is not made of positions, styles and text is given back as it came, and nothing is
        known after it.
        """
        if self._clock() < self._settles:
            self.forget()
        parts = _POSITION.split(update)
        out: list[str] = []
        written = ""
        if parts[0] or len(parts) < 3:
            self.forget()
            return update
        for place, words in zip(parts[1::2], parts[2::2], strict=True):
            words = words.removesuffix("\n")  # each line begins with its position
            if not words:
                continue
            y, x = _numbers(place)
            row = self._rows.get(y)
            if row is None:
                row = self._rows[y] = _Cells()
            if row.has(x, words):
                continue
            read = _read(words)
            if read is None:
                self.forget()
                return update
            written = row.write(y, x, words, *read, written, out)
        if written:
            out.append("\x1b[0m")
        if parts[-1]:
            self._cursor = ""
        elif out or parts[-2] != self._cursor:
            self._cursor = parts[-2]
            out.append(f"\x1b[{self._cursor}H")
        return "".join(out)


_Run = tuple[str, Sequence[str]]
"""An ink, and the cells in it."""


def _read(words: str) -> tuple[list[str], list[str], list[_Run]] | None:
    """The cells of what stands after a position, the ink of each, and both run by run.

    `None` if that is not known.
    """
    cells: list[str] = []
    inks: list[str] = []
    runs: list[_Run] = []
    rest = True
    first, *parts = words.split("\x1b")
    if first:
        parts.insert(0, f"[0m{first}")
    for part in parts:
        if part == "[0m":
            rest = True
            continue
        read = _styled(part)
        if read is None or (read[0] and not rest):  # a style upon another is neither of them
            return None
        ink, text = read
        runs.append(read)
        cells += text
        inks += [ink] * len(text)
        rest = part.startswith("[0m")
    return cells, inks, runs


@lru_cache(maxsize=2048)
def _styled(part: str) -> _Run | None:
    """The ink and the cells of one style and the text in it; `None` for anything else."""
    found = _STYLED.fullmatch(part)
    if found is None:
        return None
    codes, text = found.groups()
    ink = "" if codes == "0" else codes
    cells = text if PLAIN.fullmatch(text) else _measured(text)
    return None if cells is None else (ink if text.strip(" ") else _ground(ink), cells)


def _measured(text: str) -> Sequence[str] | None:
    """The text's cells, a wide character in the first of its two; `None` if that is not known."""
    cells: list[str] = []
    for character in text:
        width = cell_len(character)
        if not character.isprintable() or width not in (0, 1, 2) or (not width and not cells):
            return None
        if width:
            cells += [character, _REST][:width]
        else:
            cells[-2 if cells[-1] == _REST else -1] += character
    return cells if len(cells) == cell_len(text) else None


@lru_cache(maxsize=1024)
def _numbers(position: str) -> tuple[int, int]:
    y, _, x = position.partition(";")
    return int(y), int(x)


class _Cells:
    """One row: a character a cell, and in which ink it is, as the codes that choose it."""

    __slots__ = ("inks", "texts", "whole")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.inks: list[str] = []
        self.whole: dict[int, tuple[str, int]] = {}
        """What was written from which column on and still stands, and the column that follows."""

    def has(self, x: int, words: str) -> bool:
        """Whether this is what was written from there on last."""
        known = self.whole.get(x)
        return known is not None and known[0] == words

    def write(
        self,
        y: int,
        x: int,
        words: str,
        texts: list[str],
        inks: list[str],
        runs: Sequence[_Run],
        written: str,
        out: list[str],
    ) -> str:
        """Add to `out` what makes the cells from `x` on these; the value is the ink at its end.

        `words` is what makes them as it came, `written` the ink in which the terminal writes now.
        """
        begin, end = x - 1, x - 1 + len(texts)
        if gone := [at for at, (_, last) in self.whole.items() if at <= end and last > x]:
            for at in gone:
                del self.whole[at]
        lacking = end + 1 - len(self.texts)
        if lacking > 0:
            self.texts += [_UNKNOWN] * lacking
            self.inks += [""] * lacking
        old, old_inks = self.texts[begin:end], self.inks[begin:end]
        if old == texts and old_inks == inks:
            self.whole[x] = (words, end + 1)
            return written
        whole = lacking > len(texts) or _REST in texts or _REST in old
        if self.texts[begin] == _REST:  # half of a wide character goes, so the other goes too
            self.texts[begin - 1] = _UNKNOWN
            self.whole.clear()
        if self.texts[end] == _REST:
            self.texts[end] = _UNKNOWN
            self.whole.clear()
        self.texts[begin:end], self.inks[begin:end] = texts, inks
        self.whole[x] = (words, end + 1)
        if whole:
            out.append(f"\x1b[{y};{x}H")
            return _drawn(runs, written, out)
        place = "\x1b[{};{}H"
        for first, last in _spans(old, old_inks, texts, inks):
            out.append(place.format(y, x + first))
            place = "\x1b[{1}G"
            parts: list[_Run] = []
            at = first
            while at < last:
                ink, run = inks[at], at + 1
                while run < last and inks[run] == ink:
                    run += 1
                parts.append((ink, texts[at:run]))
                at = run
            written = _drawn(parts, written, out)
        return written


def _drawn(runs: Sequence[_Run], written: str, out: list[str]) -> str:
    """Add runs to `out`, after what is `written` already; the value is the ink at their end."""
    for ink, cells in runs:
        if ink != written:
            codes, written = change(written, ink)
            out.append(codes)
        out.append(cells if isinstance(cells, str) else "".join(cells))
    return written


def _spans(
    old: list[str], old_inks: list[str], texts: list[str], inks: list[str]
) -> list[tuple[int, int]]:
    """From where to where cells differ, those that are near each other in one."""
    spans: list[tuple[int, int]] = []
    first = last = -1
    cells = zip(old, old_inks, texts, inks, strict=True)
    for at, (was, was_ink, text, ink) in enumerate(cells):
        if was != text or was_ink != ink:
            if first < 0:
                first = at
            elif at - last > _NEAR:
                spans.append((first, last))
                first = at
            last = at + 1
    spans.append((first, last))
    return spans


@lru_cache(maxsize=1024)
def _ground(ink: str) -> str:
    """What is seen of an ink where nothing but spaces stands in it."""
    marks, _, back = _parts(ink)
    return ink if marks & _SEEN else f"{_BLANK}{back}"


@lru_cache(maxsize=4096)
def change(before: str, after: str) -> tuple[str, str]:
    """The shortest sequence that makes one ink of another, and the ink that is there then.

    Inks are SGR codes. For spaces the colour that is there is as good as any.
    """
    old_marks, old_front, old_back = _parts(before)
    marks, front, back = _parts(after.removeprefix(_BLANK))
    if after.startswith(_BLANK) and not old_marks & _SEEN:
        marks, front = old_marks, old_front
    ink = ";".join(part for part in (*sorted(marks), front, back) if part)
    anew = f"\x1b[0;{ink}m" if ink else "\x1b[0m"
    gone = old_marks - marks
    if any(mark not in _OFF for mark in gone):
        return anew, ink
    ends = {_OFF[mark] for mark in gone}
    codes = sorted(ends)
    codes += sorted(m for m in marks if m not in old_marks or _OFF.get(m) in ends)
    if front != old_front:
        codes.append(front or "39")
    if back != old_back:
        codes.append(back or "49")
    return min(f"\x1b[{';'.join(codes)}m", anew, key=len) if codes else "", ink


def _parts(ink: str) -> tuple[frozenset[str], str, str]:
    """The attributes of an ink, its colour and its background's, each as SGR codes."""
    marks, front, back = set[str](), "", ""
    codes = ink.split(";") if ink else []
    while codes:
        code = codes.pop(0)
        if code in ("38", "48"):
            many = 4 if codes[:1] == ["2"] else 2
            colour = ";".join([code, *codes[:many]])
            del codes[:many]
            front, back = (colour, back) if code == "38" else (front, colour)
        elif len(code) > 1 and code[:-1] in ("3", "9"):
            front = code
        elif len(code) > 1 and code[:-1] in ("4", "10"):
            back = code
        else:
            marks.add(code)
    return frozenset(marks), front, back


def terse(driver: type[Driver], shown: Shown) -> type[Driver]:
    """A driver that does as this one and leaves out what its terminal shows already."""

    class Terse(driver):  # type: ignore[misc, valid-type]
        """Between Textual and the terminal; a picture without news is not written."""

        _held = ""

        def write(self, data: str) -> None:
            """Write what is new."""
            if data == SYNC_BEGINS:
                self._held = data
                return
            if data == SYNC_ENDS:
                if not self._held:
                    super().write(data)
                self._held = ""
                return
            if data := shown.lean(data):
                held, self._held = self._held, ""
                super().write(held + data)

    return Terse
