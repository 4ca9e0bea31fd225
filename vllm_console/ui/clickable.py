"""The lines of the dashboard that lead somewhere when they are clicked: alerts and events."""

from __future__ import annotations

from textual import events

from vllm_console.ui.blocks import alert_line
from vllm_console.ui.blocks import events as event_rows
from vllm_console.ui.lines import Lines
from vllm_console.ui.messages import EntryChosen
from vllm_console.ui.rows import Row
from vllm_console.ui.view import View


class AlertLine(Lines):
    """What is wrong; a click goes to the model of the next alert."""

    def draw(self, view: View, width: int, height: int) -> list[Row]:
        """One row, or none."""
        return alert_line.draw(view, width, height)

    async def on_click(self) -> None:
        """As the key for it."""
        await self.screen.run_action("alert")


class EventLines(Lines):
    """What happened; a click selects the model or worker that it happened to."""

    def draw(self, view: View, width: int, height: int) -> list[Row]:
        """One row an event."""
        return event_rows.draw(view, width, height)

    def on_click(self, event: events.Click) -> None:
        """Select the subject, if it is a row of the model list."""
        offset, snapshot = event.get_content_offset(self), self._view.snapshot
        if offset is None or snapshot is None or offset.y >= len(snapshot.events):
            return
        subject = snapshot.events[offset.y].subject
        found = None
        for entry in self._view.entries:
            if entry.worker is not None and entry.worker.id == subject:
                found = entry
                break
            if entry.worker is None and subject in (
                entry.model.name,
                *(worker.id for worker in entry.model.workers),
            ):
                found = entry
        if found is not None:
            self.post_message(EntryChosen(found.key))
