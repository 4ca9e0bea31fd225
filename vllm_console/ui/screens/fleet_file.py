"""The fleet file with its problems under their lines, and what applying it would do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from textual.binding import Binding

from vllm_console.looks import FleetFile
from vllm_console.snapshot import from_json
from vllm_console.ui.blocks.fleet_line import time_of
from vllm_console.ui.blocks.toml import toml_row
from vllm_console.ui.rows import Row, cut_left, right, spread
from vllm_console.ui.screens.agree import Agree
from vllm_console.ui.screens.page import BACK, COPY, ENDS, FILTER, MOVES, Page, holds
from vllm_console.ui.view import View

_EVERY = 3
"""Seconds between two looks at the file."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the file, or under it what is wrong with it."""

    number: int | None
    text: str
    trouble: bool = False


class FleetFilePage(Page):
    """The file as it lies on the disk; `edit` opens the editor at once, `apply` asks at once."""

    BINDINGS: ClassVar = [
        BACK,
        *MOVES,
        FILTER,
        Binding("n", "jump(1)", "next problem", tooltip="to the next problem"),
        Binding("N", "jump(-1)", "problem before", show=False, key_display="N"),
        Binding("e", "edit", "edit", tooltip="open the file in $EDITOR"),
        Binding("enter", "apply", "apply", key_display="↵", tooltip="show the plan, then ask"),
        COPY,
        *ENDS,
    ]

    def __init__(self, *, edit: bool = False, apply: bool = False) -> None:
        super().__init__()
        self._edit = edit
        self._apply = apply
        self._edited = False
        self._seconds = 0
        self._edits = 0
        self._file: FleetFile | None = None

    def draw_title(self, view: View, width: int, height: int) -> list[Row]:
        """The path, and whether the file holds and is applied."""
        found = self._file
        if found is None:
            return [spread([("fleet file", "label")], time_of(view), width)]
        first: Row = [(cut_left(found.path, max(20, width // 2)), "engines!"), ("   ", "")]
        many, changes = len(found.problems), len(found.changes)
        if many:
            first.append((f"✖ {many} problem{'s' if many > 1 else ''}", "crit!"))
        elif changes:
            first.append((f"▲ {changes} change{'s' if changes > 1 else ''} not applied", "warn!"))
            first.append((" · ↵ applies", "label"))
        else:
            first += [("● ", "ok!"), ("the fleet runs what it says", "label")]
        return [spread(first, time_of(view), width)]

    def draw_one(self, item: Line, width: int) -> Row:
        """A numbered line, or a problem."""
        if item.trouble:
            return [(right("", 5), ""), ("✖ ", "crit!"), (item.text, "crit")]
        return [(right(str(item.number or ""), 5) + "  ", "dim"), *toml_row(item.text)]

    def text_of(self, item: Line) -> str:
        """The line."""
        return item.text

    def read_on(self) -> None:
        """Read the file again, every few seconds: another editor may have written it."""
        self._seconds += 1
        if self._seconds % _EVERY == 1 or self._edited:
            self._look()

    def _look(self) -> None:
        self.fetch(f"fleet-file {self._edits}", lambda client: client.command("fleet-file"))

    def arrived(self, what: str, value: dict[str, Any]) -> None:
        """Show it; after an edit, its first problem, or what applying it would do."""
        if what != f"fleet-file {self._edits}":
            return  # of before the edit
        found = from_json(FleetFile, value)
        if found != self._file:
            self._file = found
            self.refill()
            self.console_app.paint()
        if self._edit:
            self._edit = False
            self.action_edit()
        elif self._apply:
            self._apply = False
            self.action_apply()
        elif self._edited:
            self._edited = False
            self._after_the_edit(found)

    def _after_the_edit(self, found: FleetFile) -> None:
        if found.problems:
            self.action_jump(1)
            many = len(found.problems)
            self.say("crit", f"{many} problem{'s' if many > 1 else ''}: nothing is applied")
        elif found.changes:
            self.action_apply()
        else:
            self.say("ok", "the file holds, and the fleet runs what it says")

    def refill(self) -> None:
        """Lines, each with its problems under it; those without a line stand first."""
        found = self._file
        if found is None:
            return
        lines = [_trouble(p.key, p.text) for p in found.problems if p.line is None]
        for number, text in enumerate(found.lines, 1):
            if holds(self.words, text):
                lines.append(Line(number, text))
            lines += [_trouble(p.key, p.text) for p in found.problems if p.line == number]
        lines += [Line(None, f"# {note}") for note in found.notes]
        self.listing.border_title = "fleet file"
        self.listing.empty = ("no line is left", "esc clears the filter")
        self.listing.fill(lines)

    def action_jump(self, step: int) -> None:
        """To the next problem, or the one before."""
        items, at = self.listing.items, self.listing.cursor
        bad = [i for i, line in enumerate(items) if line.trouble]
        if not bad:
            self.say("info", "the file has no problem")
            return
        beyond = [i for i in bad if (i > at if step > 0 else i < at)]
        self.listing.go((beyond or bad)[0 if step > 0 else -1])

    def action_edit(self) -> None:
        """Lend the terminal to the editor; what it wrote is checked, then the plan is shown."""
        if self._file is None:
            return
        if why := self.console_app.refused:
            self.say("info", why)
            return
        if why := self.console_app.edit(self._file.path):
            self.say("crit", why)
            return
        self._edited = True
        self._edits += 1
        self.read_on()

    def action_apply(self) -> None:
        """Show what applying the file would do, and ask."""
        found = self._file
        if self.console_app.readonly:
            self.say("info", "this console is read-only")
        elif found is None or found.problems:
            self.say("info", "a file with problems is not applied")
        elif not found.changes:
            self.say("info", "there is nothing to apply: the fleet runs what the file says")
        else:
            self.app.push_screen(Agree(found))


def _trouble(key: str, text: str) -> Line:
    return Line(None, f"{key}: {text}" if key else text, trouble=True)
