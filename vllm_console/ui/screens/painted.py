"""What every screen of the console has in common: it is painted with a view, and keys act on it."""

from __future__ import annotations

from textual import events
from textual.binding import Binding
from textual.reactive import Reactive
from textual.screen import Screen
from textual.widget import Widget

from vllm_console.ui.application import Application, application
from vllm_console.ui.blocks.key_line import Notice
from vllm_console.ui.key_line import KeyLine
from vllm_console.ui.states import refusal
from vllm_console.ui.view import View

CHANGING = frozenset(
    {"load", "unload", "restart", "scale", "sleep", "wake", "pin", "edit", "apply"}
)
"""Actions that change the fleet."""
ON_A_MODEL = frozenset({"load", "unload", "restart", "scale", "sleep", "wake"})

CHANGES = (
    Binding("l", "load", "load", tooltip="start the model"),
    Binding("u", "unload", "unload", tooltip="drain and stop the model, after a question"),
    Binding("r", "restart", "restart", tooltip="stop and start the model, after a question"),
)
_SCALE = "one worker more, or fewer, as scale.min and max allow"
SCALES = (
    Binding(
        "plus,equals_sign",
        "scale(1)",
        "scale",
        key_display="+/-",
        tooltip=_SCALE,
    ),
    Binding("minus", "scale(-1)", "scale", show=False, key_display="+/-", tooltip=_SCALE),
    Binding("s", "sleep", "sleep", tooltip="take the model's weights off the GPU"),
    Binding("w", "wake", "wake", tooltip="bring a sleeping model back"),
)
SCREENS = (
    Binding("L", "open('log')", "log", show=False, key_display="L", tooltip="the worker's log"),
    Binding("E", "open('events')", "events", show=False, key_display="E", tooltip="all events"),
    Binding(
        "H", "open('history')", "history", show=False, key_display="H",
        tooltip="percentiles of any span of the past",
    ),
    Binding(
        "P", "open('plan')", "plan", show=False, key_display="P",
        tooltip="what a load would take, before it is done",
    ),
    Binding(
        "F", "open('file')", "fleet file", show=False, key_display="F",
        tooltip="the fleet file with its problems",
    ),
)  # fmt: skip
"""Small letters act, capital ones show."""


class Painted(Screen[None]):
    """A screen that draws the newest view."""

    focused: Reactive[Widget | None] = Reactive(None, repaint=False)
    """What has the keys. Both widgets draw themselves when it changes; the rest stays as it is."""

    def paint(self, view: View) -> None:
        """Bring every widget up to date with the view."""

    def say(self, level: str, text: str) -> None:
        """One line about what a key did; no text brings the keys back."""
        for line in self.query(KeyLine):
            line.say(Notice(level, text) if text else None)

    @property
    def composed(self) -> bool:
        """Whether its widgets are there: a screen that was just opened has none yet."""
        return bool(self.query(KeyLine))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A read-only console has no key that changes the fleet."""
        return not (action in CHANGING and self.console_app.readonly)

    @property
    def console_app(self) -> Application:
        """The application, typed."""
        return application(self)

    @property
    def about(self) -> View:
        """The newest view, with what this screen is about selected in it."""
        return self.console_app.view

    def on_resize(self, event: events.Resize) -> None:
        """What comes now is drawn whole."""
        self.console_app.laid_out()

    def on_screen_resume(self) -> None:
        """What changed while another screen covered this one is painted now."""
        self.call_after_refresh(self.console_app.paint)

    def standing(self, action: str, parameters: tuple[object, ...] = ()) -> str:
        """Whether a key's action is "live", "grey" as it would do nothing, or "absent"."""
        if action not in ON_A_MODEL:
            return "live"
        model = self.about.model
        if action in ("sleep", "wake") and (model is None or not model.can_sleep):
            return "absent"
        if model is None or self.console_app.refused is not None:
            return "grey"
        if action == "scale":
            scale = model.scale
            return "live" if scale.max > scale.min and scale.max > 1 else "grey"
        return "live" if refusal(action, model) is None else "grey"

    def action_load(self) -> None:
        """Start the model's workers."""
        self.console_app.act("load", self.about.model)

    def action_unload(self) -> None:
        """Drain and stop the model's workers, after a question."""
        self.console_app.act("unload", self.about.model)

    def action_restart(self) -> None:
        """Stop and start the model's workers, after a question."""
        self.console_app.act("restart", self.about.model)

    def action_scale(self, step: int) -> None:
        """One worker more, or after a question one fewer."""
        model = self.about.model
        self.console_app.act("scale", model, None if model is None else model.wanted + step)

    def action_sleep(self) -> None:
        """Take the model's weights off the GPU."""
        self.console_app.act("sleep", self.about.model)

    def action_wake(self) -> None:
        """Bring a sleeping model back."""
        self.console_app.act("wake", self.about.model)

    def action_palette(self) -> None:
        """Every command, by its name."""
        self.console_app.open_palette()

    def action_open(self, what: str) -> None:
        """Show another screen about the same model or worker."""
        self.console_app.open(what, self.about.selected)
