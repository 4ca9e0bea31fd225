"""The part of the console that goes through stored time and back to now."""

from __future__ import annotations

from vllm_console.ui.acting import Acting
from vllm_console.ui.messages import Recalled
from vllm_console.ui.panel import Panel
from vllm_console.ui.travel import (
    IN_THE_PAST,
    RECORDED,
    Found,
    Travel,
    look_up,
    seconds_of,
    written,
    written_for_people,
)


class Travelling(Acting):
    """What the dashboard asks of the console, as `application.Application` has it."""

    def __init__(self) -> None:
        super().__init__()
        self.journey = Travel()

    @property
    def refused(self) -> str | None:
        """Why nothing can be changed now; `None` when it can."""
        if self.board.recorded is not None:
            return RECORDED
        return IN_THE_PAST if self.board.past is not None else None

    def travel(self, spans: float) -> None:
        """Go back or forth in time by so many spans of the graphs."""
        newest, past = self.board.snapshot, self.board.past
        if newest is None:
            self.say("info", "nothing is known yet")
            return
        shown = past.snapshot if past else newest
        try:
            start = seconds_of(self.journey.wanted or shown.at)
        except ValueError:  # a time as a person wrote it is still looked up
            start = seconds_of(shown.at)
        span = max(panel.span(self.view) for panel in self.screen.query(Panel))
        moment = start + spans * (span or 60.0 * shown.interval_s)
        if moment < seconds_of(newest.at):
            self.travel_to(written(moment))
        elif not self.return_to_now():
            self.say("info", "this is the newest there is")

    def travel_to(self, moment: str) -> None:
        """Go to a time that a person wrote; the picture follows when it has been looked up."""
        self.say("info", f"looking up {written_for_people(moment, self.board.zone)} …")
        if self.journey.wish(moment):
            self._look_up(moment)

    def _look_up(self, moment: str) -> None:
        first = ("fleet", self.board.selected or "")

        def ask() -> None:
            for found in look_up(self.connect, moment, first):
                self.post_message(Recalled(found))
                if not found.last and self.journey.wanted != moment:
                    self.post_message(Recalled(Found("")))  # the rest would be for nobody
                    return

        self.run_worker(ask, name=f"past {moment}", group="past", thread=True)

    def on_recalled(self, message: Recalled) -> None:
        """Show the past that was asked for last, or say why there is none."""
        found, wanted = message.found, self.journey.wanted
        if following := self.journey.take(found):
            self._look_up(following)
        elif wanted is not None and wanted == found.asked:
            if found.last:
                self.journey.drop()
            if found.past is None:
                self.say("crit", found.reason)
                return
            self.board.show_past(found.past)
            self.say("", "")
            self.paint()

    def return_to_now(self) -> bool:
        """Show now again; whether it was the past."""
        there = self.board.past is not None or self.journey.wanted is not None
        self.journey.drop()
        if there:
            self.board.show_past(None)
            self.say("", "")
            self.paint()
        return there
