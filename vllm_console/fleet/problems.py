"""What is wrong with a fleet file: one line a problem, with its place, key and way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vllm_console.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that does not hold; `str()` is `fleet.toml:12: models.tiny.optoins: …`."""

    key: str
    """Dotted path, as written in the file; empty for the file as a whole."""
    line: int | None
    """Line in the fleet file, from 1; `None` for what does not stand in it."""
    text: str
    place: str = ""
    """The file, the environment variable or the command line option that says it."""

    def __str__(self) -> str:
        where = self.place if self.line is None else f"{self.place}:{self.line}"
        return ": ".join(part for part in (where, self.key, self.text) if part)


class FleetError(InvalidInput):
    """A fleet that does not hold. `str(error)` is the first problem; `problems` are all."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(str(self.problems[0]))


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known spelling closest to `word`, or `None` when none is close."""
    folded = {name.lower().replace("-", "_"): name for name in known}
    close = difflib.get_close_matches(word.lower().replace("-", "_"), folded, n=1, cutoff=0.7)
    return folded[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean "options"?`, or nothing when no spelling is close."""
    close = nearest(word, known)
    return f'; did you mean "{close}"?' if close else ""


def shown(value: object) -> str:
    """A value of a fleet file as a message shows it: TOML-like and short."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= 40 else f'"{value[:37]}…"'
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    return str(value)
