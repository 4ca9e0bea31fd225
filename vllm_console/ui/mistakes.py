"""Mistakes in files that a user wrote: where they are and what was likely meant."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class Mistake(Exception):
    """One line about what is wrong; `line` counts from 1, `None` where it is the whole file."""

    def __init__(self, text: str, line: int | None = None) -> None:
        super().__init__(text)
        self.line = line

    def at(self, path: Path) -> str:
        """The line with its place before it."""
        return f"{path}:{self.line}: {self}" if self.line else f"{path}: {self}"


def read_toml(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A TOML file as data and as lines; raises `Mistake` where it is none."""
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text), text.splitlines()
    except tomllib.TOMLDecodeError as error:
        said, _, where = str(error).partition(" (at line ")
        number = where.partition(",")[0]
        raise Mistake(said, int(number) if number.isdigit() else None) from None
    except UnicodeDecodeError:
        raise Mistake("cannot be read: it is not UTF-8") from None
    except OSError as error:
        raise Mistake(f"cannot be read: {error.strerror}") from None


def known_keys(
    data: Mapping[str, Any], known: tuple[str, ...], lines: list[str], start: int = 0
) -> None:
    """Raise `Mistake` for a key that means nothing here."""
    for key in data:
        if key not in known:
            raise Mistake(no_such("key", key, known), line_of(lines, start, key))


def no_such(what: str, word: Any, known: Iterable[Any]) -> str:
    """That there is no such thing, and the nearest that there is."""
    names = [str(name) for name in known]
    near = difflib.get_close_matches(str(word), names, n=1)
    ask = f'did you mean "{near[0]}"?' if near else "one of " + ", ".join(names)
    return f'no {what} "{word}"; {ask}'


def line_of(lines: list[str], start: int, key: str) -> int | None:
    """The number of the first line after `start` that sets `key` or is that table's header."""
    for number, line in enumerate(lines[start:], start + 1):
        bare = line.strip()
        if bare.startswith(key) and (key.startswith("[") or bare[len(key) :].lstrip()[:1] in "=."):
            return number
    return start or None
