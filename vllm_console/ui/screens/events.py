"""The events screen: all that happened, and in a second tab who asked for what."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.binding import Binding

from vllm_console.snapshot import AuditEntry, Event
from vllm_console.ui.blocks.fleet_line import time_of
from vllm_console.ui.blocks.happenings import audit_row, audit_text, event_row, event_text
from vllm_console.ui.rows import Row, spread
from vllm_console.ui.screens.page import BACK, COPY, ENDS, FILTER, MOVES, Page, holds, tab_keys
from vllm_console.ui.view import View

_KEPT = 5000
_RANK = {"info": 0, "ok": 0, "warn": 1, "crit": 2}
_LEAST = ("every level", "warnings and failures", "failures")


class Events(Page):
    """Everything the daemon has written down, newest at the end."""

    TABS = ("events", "audit")
    follows = True
    BINDINGS: ClassVar = [
        BACK,
        *tab_keys(TABS),
        *MOVES,
        FILTER,
        Binding("v", "level", "level", tooltip="every level, warnings and failures, failures"),
        Binding("n", "jump(1)", "next failure", tooltip="to the next failure"),
        Binding("N", "jump(-1)", "failure before", show=False, key_display="N"),
        Binding("f", "follow", "follow", tooltip="stay at the newest"),
        Binding("enter", "subject", "details", key_display="↵", tooltip="of the event's subject"),
        COPY,
        *ENDS,
    ]

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[str, list[Any]] = {"events": [], "audit": []}
        self._least = 0

    def draw_title(self, view: View, width: int, height: int) -> list[Row]:
        """The tabs, what is left out, and the time."""
        first: Row = [*self.tabs(width), ("   ", "")]
        if self._least and not self.tab:
            first.append((_LEAST[self._least], "warn"))
        if self.words:
            first += [("  /", "warn"), (self.words, "warn")]
        return [spread(first, time_of(view), width)]

    def draw_one(self, item: Event | AuditEntry, width: int) -> Row:
        """An event or an audit entry."""
        zone = self.console_app.board.zone
        if isinstance(item, AuditEntry):
            return audit_row(item, width, zone)
        return event_row(item, width, zone)

    def text_of(self, item: Event | AuditEntry) -> str:
        """One line."""
        return audit_text(item) if isinstance(item, AuditEntry) else event_text(item)

    @property
    def _what(self) -> str:
        return self.TABS[self.tab]

    def read_on(self) -> None:
        """Ask for what is newer than what is here."""
        known = self._found[self._what]
        after = known[-1].seq if known else 0
        if self.tab:
            self.fetch("audit", lambda client: client.audit(after))
        else:
            self.fetch("events", lambda client: client.events(after))

    def arrived(self, what: str, value: list[Any]) -> None:
        """Take what is new."""
        known = self._found[what]
        newer = [entry for entry in value if not known or entry.seq > known[-1].seq]
        self.listing.empty = ("nothing happened yet", "")
        if newer or not known:
            self._found[what] = [*known, *newer][-_KEPT:]
            self.refill()

    def refill(self) -> None:
        """The entries that the filter leaves."""
        found = [
            entry for entry in self._found[self._what] if holds(self.words, self.text_of(entry))
        ]
        if self._least and not self.tab:
            found = [entry for entry in found if _RANK.get(entry.level, 0) >= self._least]
        if self._found[self._what] and not found:
            self.listing.empty = ("no line is left", "esc clears the filter, v the level")
        self.listing.fill(found)

    def action_level(self) -> None:
        """Show less, then all again."""
        self._least = (self._least + 1) % 3
        self.refill()
        self.console_app.paint()

    def action_follow(self) -> None:
        """Stay at the newest."""
        self.listing.move(10**9)

    def action_jump(self, step: int) -> None:
        """To the next failure, or the one before."""
        items, at = self.listing.items, self.listing.cursor
        bad = [i for i, entry in enumerate(items) if _failed(entry)]
        beyond = [i for i in bad if (i > at if step > 0 else i < at)]
        if not bad:
            self.say("info", "no failure here")
        elif beyond:
            self.listing.go(beyond[0] if step > 0 else beyond[-1])
        else:
            self.listing.go(bad[0] if step > 0 else bad[-1])

    def on_listing_opened(self) -> None:
        """An event was clicked twice."""
        self.action_subject()

    def action_subject(self) -> None:
        """Show the worker or model that the event is about."""
        item, snapshot = self.listing.item, self.console_app.view.snapshot
        subject = item.subject if isinstance(item, Event) else None
        if isinstance(item, AuditEntry):
            subject = str(item.arguments.get("model", ""))
        for model in snapshot.models if snapshot else ():
            if subject == model.name:
                self.console_app.open("details", f"model/{model.name}")
                return
            if any(worker.id == subject for worker in model.workers):
                self.console_app.open("details", f"worker/{subject}")
                return
        self.say("info", f"{subject or 'this'} is no model or worker of the fleet now")


def _failed(entry: Event | AuditEntry) -> bool:
    return entry.outcome != "ok" if isinstance(entry, AuditEntry) else entry.level == "crit"
