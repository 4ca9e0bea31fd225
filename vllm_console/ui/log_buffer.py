"""The part of a worker's log that is on hand: whole lines, without escape sequences."""

from __future__ import annotations

import re
from collections import deque

from vllm_console.ui.rows import Row

KEPT_LINES = 5000
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
_PREFIX = re.compile(
    r"(?P<process>\([^)]{1,60}\) )?(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL)"
    r"(?P<place>:? +(?:\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? )?(?:\[[^\]]{1,80}\] )?)"
)
"""How vLLM begins a line: `(EngineCore pid=7) INFO 11-20 12:04:31 [core.py:58] `."""
_INKS = {"WARNING": "warn", "ERROR": "crit", "CRITICAL": "crit"}
_TROUBLE = re.compile(r"(Traceback \(most recent|\w+(?:Error|Exception): )")


class LogBuffer:
    """Lines in the order they were written; the oldest go first."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.offset: int | None = None
        """The byte from which to read on; `None` before the first read."""
        self.levels: deque[int] = deque(maxlen=KEPT_LINES)
        """How bad each line is: 2 failure, 1 warning, 0 neither."""
        self._part = ""

    def add(self, text: str, offset: int, *, fresh: bool) -> int:
        """Take a piece; returns by how many lines it grew. A `fresh` one replaces all."""
        if fresh:
            self.lines.clear()
            self.levels.clear()
            self._part = ""
        self.offset = offset
        *whole, self._part = (self._part + text).split("\n")
        lines = [_clean(line) for line in whole]
        for line in lines:
            self.levels.append(severity(line, self.levels[-1] if self.levels else 0))
        self.lines.extend(lines)
        return len(lines)

    def failures(self) -> list[int]:
        """The first line of each failure, oldest first."""
        levels = list(self.levels)
        return [i for i, level in enumerate(levels) if level == 2 and (not i or levels[i - 1] < 2)]


def severity(line: str, before: int = 0) -> int:
    """How bad a line is: 2 failure, 1 warning, 0 neither; what is indented goes with its head."""
    match = _PREFIX.match(line)
    if match is not None:
        return {"WARNING": 1, "ERROR": 2, "CRITICAL": 2}.get(match["level"], 0)
    if _TROUBLE.search(line):
        return 2
    return before if line.startswith((" ", "\t")) else 0


def _clean(line: str) -> str:
    """What a terminal would show of a line: no escapes, of a progress bar its last state."""
    line = line.rstrip("\r")
    return _ESCAPES.sub("", line.rpartition("\r")[2]).expandtabs(4)


def inked(line: str) -> Row:
    """A line with its beginning dim, its level in the level's colour, its message readable."""
    match = _PREFIX.match(line)
    if match is None:
        return [(line, "crit" if _TROUBLE.search(line) else "label")]
    level = match["level"]
    ink = _INKS.get(level, "label")
    message = "text" if ink == "label" else ink
    return [
        (match["process"] or "", "dim"),
        (level, ink + "!" if ink in ("warn", "crit") else "dim"),
        (match["place"], "dim"),
        (line[match.end() :], message),
    ]
