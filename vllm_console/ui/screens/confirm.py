"""The question before what destroys: y does it, everything else keeps things as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding

from vllm_console.snapshot import Model
from vllm_console.ui.application import application
from vllm_console.ui.format import count
from vllm_console.ui.lines import Lines
from vllm_console.ui.rows import Row, wrap
from vllm_console.ui.screens.modal import Modal
from vllm_console.ui.view import View


def consequence(verb: str, model: Model, to: int | None = None) -> str:
    """What happens to whom, in one sentence; `to` is how many workers are to be left."""
    workers = sum(worker.state not in ("stopped", "failed") for worker in model.workers)
    if not workers:
        return "no worker of it runs now"
    requests = (model.load.running or 0) + (model.load.waiting or 0)
    flight = f"{count(requests)} in flight" if requests else "nothing in flight"
    if to is not None:
        going = max(0, model.wanted - to)
        goes = "drains, then stops" if going == 1 else "drain, then stop"
        return f"{flight}; {going} of its {workers} workers {goes}"
    if workers == 1:
        then = "stops and starts again" if verb == "restart" else "stops"
        return f"{flight}; its worker drains, then {then}"
    then = "stop and start again" if verb == "restart" else "stop"
    return f"{flight}; its {workers} workers drain, then {then}"


class Confirm(Modal):
    """Asks once about one verb and one model; `yes` does what the verb alone would not."""

    BINDINGS: ClassVar = [
        Binding("y", "yes", "yes"),
        Binding("n,escape,enter,q", "dismiss", "no"),
    ]

    def __init__(
        self,
        verb: str,
        model: Model,
        workers: int | None = None,
        *,
        what: str | None = None,
        yes: Callable[[], None] | None = None,
    ) -> None:
        """`what` is what happens to whom, by default as the verb and the model tell."""
        super().__init__()
        self._what = consequence(verb, model, workers) if what is None else what
        self._yes = yes
        self._verb = verb
        self._model = model
        self._workers = workers

    def compose(self) -> ComposeResult:
        """One small box."""
        box = Lines(self._draw, classes="box question")
        box.border_title = self._verb
        yield box

    def _draw(self, view: View, width: int, height: int) -> list[Row]:
        to = "" if self._workers is None else f" to {self._workers}"
        return [
            [(f"{self._verb} ", "text"), (self._model.name, "value"), (f"{to}?", "text")],
            *wrap(self._what, width, "label", 2),
            [],
            [
                ("y", "warn!"),
                (f" {self._verb}", "text"),
                ("    ", ""),
                ("N", "engines!"),
                (" keep it", "label"),
            ],
        ]

    def action_yes(self) -> None:
        """Do it."""
        app = application(self)
        self.dismiss()
        if self._yes is not None:
            self._yes()
        else:
            app.command(self._verb, self._model.name, self._workers)

    def on_key(self, event: events.Key) -> None:
        """A capital letter answers like a small one."""
        if event.key == "N":
            self.dismiss()
        elif event.key == "Y":
            self.action_yes()
