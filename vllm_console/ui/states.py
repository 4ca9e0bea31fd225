"""How a worker's state looks and what may be done in it: glyph, ink, words, legal actions."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_console.snapshot import Model


@dataclass(frozen=True, slots=True)
class Look:
    """A state on the screen."""

    glyph: str
    ink: str
    group: str
    """Under which word the fleet line counts it."""


READY = Look("●", "ok", "ready")
LOADING = Look("◐", "warn", "loading")
ENDING = Look("◒", "warn", "ending")
STALLED = Look("▲", "warn", "stalled")
ASLEEP = Look("◌", "label", "asleep")
STOPPED = Look("○", "dim", "stopped")
FAILED = Look("✖", "crit", "failed")

LOOKS = {
    "ready": READY,
    "stalled": STALLED,
    "queued": LOADING,
    "starting": LOADING,
    "backoff": LOADING,
    "asleep": ASLEEP,
    "draining": ENDING,
    "stopping": ENDING,
    "stopped": STOPPED,
    "failed": FAILED,
    "crash-loop": FAILED,
}
GROUPS = (READY, LOADING, ENDING, STALLED, ASLEEP, FAILED, STOPPED)
"""The order in which the fleet line counts."""

LEVELS = {"ok": ("●", "ok"), "info": ("·", "label"), "warn": ("▲", "warn"), "crit": ("✖", "crit")}
"""Glyph and ink of an event's or an alert's level."""

STAGES = ("import", "config", "weights", "compile", "kv-cache", "graphs", "serving")
"""vLLM's startup stages in its own order."""


def look(state: str) -> Look:
    """How a state looks; one that this version does not know looks neutral."""
    return LOOKS.get(state, Look("◌", "label", state))


def refusal(verb: str, model: Model) -> str | None:
    """Why `verb` (load, unload, restart) does nothing on this model now; `None` if it may."""
    state = model.state
    group = look(state).group
    if verb == "load":
        if group == "ready":
            return f"{model.name} is ready already"
        if state == "backoff":
            return f"{model.name} starts again by itself · r restarts it now"
        if group == "loading":
            return f"{model.name} is loading already"
        if group not in ("stopped", "failed"):
            return f"{model.name} is {state}: only a stopped or failed model can be loaded"
    elif verb == "unload":
        if state == "stopped":
            return f"{model.name} is stopped: there is nothing to unload"
        if group == "ending":
            return f"{model.name} is {state} already"
    elif verb == "restart":
        if state == "stopped":
            return f"{model.name} is stopped · l loads it"
        if group == "ending":
            return f"{model.name} is {state}: restart it when it has stopped"
    return None
