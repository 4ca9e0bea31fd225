"""The question before a fleet file is applied: what it would do to each model."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding

from vllm_console.looks import FleetFile
from vllm_console.ui.application import application
from vllm_console.ui.lines import Lines
from vllm_console.ui.rows import Row, clip
from vllm_console.ui.screens.modal import Modal
from vllm_console.ui.view import View

_SIGNS = {"add": ("+", "ok!"), "remove": ("-", "crit!"), "restart": ("~", "warn!")}
_MEANS = {
    "add": "new",
    "remove": "drained and stopped",
    "restart": "its workers are replaced, the new ones ready first where there is room",
    "update": "takes effect at once, no worker is touched",
    "end-canary": "its canary is drained and stopped, no other worker is touched",
}
_MOST = 16


def draw(found: FleetFile, width: int) -> list[Row]:
    """A row a model, under it what changes, then the question."""
    rows: list[Row] = []
    for change in found.changes:
        sign, ink = _SIGNS.get(change.kind, ("·", "label"))
        rows.append(
            [(sign + " ", ink), (change.model, "value"),
             (f"  {_MEANS.get(change.kind, change.kind)}", "label")]
        )  # fmt: skip
        rows += [[("    ", ""), (what, "text")] for what in change.what]
    if len(rows) > _MOST:
        rows = [*rows[: _MOST - 1], [(f"… and {len(rows) - _MOST + 1} more", "dim")]]
    keys: Row = [("y", "warn!"), (" apply", "text"), ("    ", "")]
    keys += [("N", "engines!"), (" leave everything as it runs", "label")]
    return [*(clip(row, width) for row in rows), [], keys]


class Agree(Modal):
    """Asks once about one plan; what was shown is what is carried out."""

    BINDINGS: ClassVar = [
        Binding("y", "yes", "yes"),
        Binding("n,escape,enter,q", "dismiss", "no"),
    ]

    def __init__(self, found: FleetFile) -> None:
        super().__init__()
        self._found = found

    def compose(self) -> ComposeResult:
        """One box as tall as the plan."""
        box = Lines(self._draw, classes="box question wide")
        box.border_title = "apply the fleet file"
        box.styles.height = len(draw(self._found, 60)) + 2
        yield box

    def _draw(self, view: View, width: int, height: int) -> list[Row]:
        return draw(self._found, width)

    def action_yes(self) -> None:
        """Do it."""
        app = application(self)
        self.dismiss()
        app.apply_file(self._found.digest)

    def on_key(self, event: events.Key) -> None:
        """A capital letter answers like a small one."""
        if event.key == "N":
            self.dismiss()
        elif event.key == "Y":
            self.action_yes()
