"""Which line of a TOML text each key stands on, for messages and origins.

`tomllib` reads values but tells no positions. This scanner reads positions but no values: it
follows table headers, dotted and quoted keys, inline tables and arrays, and steps over strings and
comments. It expects a text that `tomllib` has accepted, so it checks nothing again.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_PLAIN = re.compile(r"[^,\]}#\r\n]*")
_STRINGS = {
    '"""': re.compile(r'"""(?:[^"\\]|\\[\s\S]|"(?!""))*"{3,5}'),
    "'''": re.compile(r"'''(?:[^']|'(?!''))*'{3,5}"),
    '"': re.compile(r'"(?:[^"\\]|\\.)*"'),
    "'": re.compile(r"'[^']*'"),
}


def key_lines(text: str) -> Mapping[Path, int]:
    """The line, from 1, of every key and table header of a valid TOML text.

    A path is the keys from the top; an index stands for an element of an array. A dotted key
    gives its inner tables the line on which they appear first.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self._line = 1
        self._counted = 0
        self._elements: dict[Path, int] = {}

    def document(self) -> None:
        table: Path = ()
        self._skip(_BLANK)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _header(self) -> Path:
        is_array = self.text.startswith("[[", self.at)
        self.at += 2 if is_array else 1
        keys = self._keys()
        self.at += 2 if is_array else 1
        path: Path = ()
        for key in keys[:-1]:
            path = self._open((*path, key))
        path = (*path, keys[-1])
        if is_array:
            self._elements[path] = self._elements.get(path, -1) + 1
            self._note(path)
            path = (*path, self._elements[path])
        self._note(path)
        return path

    def _open(self, path: Path) -> Path:
        """The table a header's inner key means: the newest element of an array of tables."""
        self._note(path)
        return (*path, self._elements[path]) if path in self._elements else path

    def _pair(self, table: Path) -> None:
        path = table
        for key in self._keys():
            path = (*path, key)
            self._note(path)
        self.at += 1  # "="
        self._skip(_SPACE)
        self._value(path)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            keys.append(self._key())
            self._skip(_SPACE)
            if not self.text.startswith(".", self.at):
                return keys
            self.at += 1

    def _key(self) -> str:
        if self.text[self.at] in "\"'":
            quoted = self._take(_STRINGS[self.text[self.at]])
            return next(iter(tomllib.loads(f"{quoted} = 0")))
        return self._take(_BARE)

    def _value(self, path: Path) -> None:
        first = self.text[self.at]
        if first == "{":
            self._inside("}", path, is_table=True)
        elif first == "[":
            self._inside("]", path, is_table=False)
        elif first in "\"'":
            triple = self.text[self.at : self.at + 3]
            self._take(_STRINGS[triple if triple in _STRINGS else first])
        else:
            self._take(_PLAIN)

    def _inside(self, end: str, path: Path, *, is_table: bool) -> None:
        self.at += 1
        index = 0
        self._skip(_BLANK)
        while self.text[self.at] != end:
            if is_table:
                self._pair(path)
            else:
                self._note((*path, index))
                self._value((*path, index))
                index += 1
            self._skip(_BLANK)
            if self.text[self.at] == ",":
                self.at += 1
                self._skip(_BLANK)
        self.at += 1

    def _note(self, path: Path) -> None:
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        self.lines.setdefault(path, self._line)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        self._take(pattern)

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(f"not TOML at offset {self.at}")
        self.at = match.end()
        return match.group()
