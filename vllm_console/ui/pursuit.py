"""What becomes of a command: followed from the key to the state it was meant to bring about."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_console.snapshot import Failure, Model, Snapshot
from vllm_console.ui.format import uptime
from vllm_console.ui.states import look

DOING = {
    "load": "loading",
    "unload": "unloading",
    "restart": "restarting",
    "scale": "scaling",
    "sleep": "putting to sleep",
    "wake": "waking",
    "pin": "pinning",
    "unpin": "unpinning",
    "apply": "applying",
}
"""What each verb does, as the line says it."""
_APPLIED = "fleet file applied"
FILE = ""
"""The key of the fleet file's pursuit, beside those of models."""


@dataclass(slots=True)
class Pursuit:
    """One command that was accepted, and what its model was like then."""

    verb: str
    model: str
    failure: Failure | None
    """Of its worker when the key was pressed: that one is no news."""
    workers: int | None = None
    left: bool = False
    """Whether its model was seen in another state than ready since."""

    def outcome(self, snapshot: Snapshot) -> tuple[str, str] | None:
        """Level and line once it is decided; `None` until then."""
        model = next((m for m in snapshot.models if m.name == self.model), None)
        if model is None:
            return "info", f"{self.model} is no longer in the fleet"
        group = look(model.state).group
        self.left = self.left or model.state != "ready"
        failure = failure_of(model)
        if group == "failed" and failure != self.failure:
            why = f": {failure.cause}; {failure.remedy}" if failure else ""
            return "crit", f"{self.model} {model.state}{why}"
        if verb_failed := self._rest_failed(model):
            return "warn", verb_failed
        own = len(model.workers) - (model.canary is not None)
        done = {
            "load": model.wanted > 0 and model.ready >= model.wanted,
            "unload": model.state == "stopped",
            "restart": self.left and model.wanted > 0 and model.ready >= model.wanted,
            "scale": self.workers == own == model.ready,
            "sleep": model.state == "asleep",
            "wake": model.state == "ready",
            "pin": model.pinned,
            "unpin": not model.pinned,
        }
        return ("ok", _done(self.verb, model)) if done.get(self.verb, True) else None

    def _rest_failed(self, model: Model) -> str | None:
        """That it did not go to sleep, or was not woken, and why."""
        why = next((worker.reason for worker in model.workers if worker.reason), None)
        over = {
            "sleep": model.state == "stopped" or (self.left and model.state == "ready"),
            "wake": model.state == "stopped" or (model.state == "asleep" and why is not None),
        }
        if not over.get(self.verb):
            return None
        return f"{model.name} is {model.state}" + (f": {why}" if why else "")


@dataclass(slots=True)
class FilePursuit:
    """An accepted plan of the fleet file, followed to the event that says what came of it."""

    after: int
    """The newest event when the key was pressed."""
    verb: str = "apply"

    def outcome(self, snapshot: Snapshot) -> tuple[str, str] | None:
        """Level and line once an event tells; `None` until then."""
        for event in reversed(snapshot.events):
            if event.seq <= self.after or event.subject not in ("fleet", "daemon"):
                continue
            if event.text.startswith(_APPLIED) or event.level in ("warn", "crit"):
                return event.level, event.text
        return None


def failure_of(model: Model) -> Failure | None:
    """The failure that a model's workers tell, the newest of several."""
    failures = [worker.failure for worker in model.workers if worker.failure is not None]
    return max(failures, key=lambda failure: failure.at, default=None)


def _done(verb: str, model: Model) -> str:
    if verb == "unload":
        return f"{model.name} is stopped"
    if verb == "scale":
        return f"{model.name} has {model.ready} of {model.wanted} workers ready"
    if verb == "sleep":
        return f"{model.name} sleeps"
    if verb == "pin":
        return f"{model.name} is pinned: nothing evicts it"
    if verb == "unpin":
        return f"{model.name} is no longer pinned"
    up = [w.elapsed_s for w in model.workers if w.state == "ready" and w.elapsed_s is not None]
    since = f", up {' '.join(uptime(min(up)))}" if up else ""
    return f"{model.name} is ready{since}"
