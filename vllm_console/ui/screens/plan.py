"""The plan of a load: what it would take and wait for, before it is done."""

from __future__ import annotations

import shlex
from typing import Any, ClassVar

from textual import events
from textual.binding import Binding

from vllm_console.looks import LoadPlan
from vllm_console.snapshot import from_json
from vllm_console.ui.blocks.fleet_line import time_of
from vllm_console.ui.blocks.load_plan import rows
from vllm_console.ui.rows import Row, clip, spread, text_of
from vllm_console.ui.screens.page import BACK, COPY, ENDS, MOVES, Page
from vllm_console.ui.screens.painted import CHANGES
from vllm_console.ui.view import View


class PlanPage(Page):
    """What loading one model would do now."""

    BINDINGS: ClassVar = [
        BACK,
        *MOVES,
        *CHANGES[:1],
        Binding("y", "copy", "copy", tooltip=COPY.tooltip),
        *ENDS,
    ]

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key
        self._plan: LoadPlan | None = None

    @property
    def about(self) -> View:
        """The newest view with this model selected."""
        from dataclasses import replace

        return replace(self.console_app.view, selected=self._key)

    def draw_title(self, view: View, width: int, height: int) -> list[Row]:
        """Of which model, and what to press."""
        model = self.about.model
        name = model.name if model else self._key.partition("/")[2]
        first: Row = [("plan ", "label"), (name, "engines!"), ("  nothing is started yet", "dim")]
        return [spread(first, time_of(view), width)]

    def draw_one(self, item: Any, width: int) -> Row:
        """A row as it is."""
        return clip(item, width)

    def text_of(self, item: Any) -> str:
        """The line's text; the command as a shell takes it."""
        text = text_of([item]).strip()
        whole = shlex.join(self._plan.command) if self._plan else ""
        return whole if self._plan and text and text in whole else text

    def read_on(self) -> None:
        """Look again: what is free changes."""
        model = self.about.model
        if model is None:
            self.missed("load-plan", "it is not in the fleet any more")
            return
        name = model.name
        self.fetch("load-plan", lambda client: client.command("load-plan", model=name))

    def arrived(self, what: str, value: dict[str, Any]) -> None:
        """Show it."""
        plan = from_json(LoadPlan, value)
        if plan != self._plan:
            self._plan = plan
            self.refill()

    def refill(self) -> None:
        """The plan in rows as wide as the list."""
        if self._plan is not None:
            wide = max(40, min(110, self.size.width - 6))
            self.listing.border_title = "what a load would do"
            self.listing.fill(rows(self._plan, wide))

    def on_resize(self, event: events.Resize) -> None:
        """Rows of another width."""
        self.refill()
