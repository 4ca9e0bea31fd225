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


def refusal(verb: str, model: Model, workers: int | None = None) -> str | None:
    """Why `verb` does nothing on this model now; `None` if it may.

    load, unload, restart, sleep, wake, pin, unpin, and scale to a number of `workers`.
    """
    if verb in ("pin", "unpin"):
        told = "is pinned already" if model.pinned else "is not pinned"
        return f"{model.name} {told}" if model.pinned == (verb == "pin") else None
    state = model.state
    group = look(state).group
    if verb in ("sleep", "wake") and not model.can_sleep:
        return f"{model.name} cannot sleep: it runs without sleep_level in fleet.toml"
    if verb == "sleep" and state != "ready":
        return f"{model.name} is {state}: only a ready model can sleep"
    if verb == "wake" and state != "asleep":
        return f"{model.name} is {state}: it does not sleep"
    if verb == "scale" and workers is not None:
        low, high = model.scale.min, model.scale.max
        if not low <= workers <= high:
            some = f"{low} to {high} workers" if high > 1 else "one worker at most"
            return f"{model.name} has {some}: scale.min and scale.max in fleet.toml"
    if verb == "load":
        if group == "ready":
            return f"{model.name} is ready already"
        if state == "backoff":
            return f"{model.name} starts again by itself · r restarts it now"
        if group == "loading":
            return f"{model.name} is loading already"
        if group == "asleep":
            return f"{model.name} sleeps · w wakes it"
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
