"""Why a request gets no answer from a worker, or not all of it: the refusals that routing gives."""

from __future__ import annotations

from vllm_console.gateway.admission import Reason
from vllm_console.gateway.refusals import Refused, refused, shown
from vllm_console.gateway.routes import Live

PATIENCE_S = 30.0
"""Said to wait for a model of which nobody knows when it is ready."""
SOON_S = 1.0
"""Said to wait for what is over in a moment, as a rule."""

_TEXTS: dict[Reason, tuple[str, str]] = {
    "full": ("queue_full", "too many requests wait for model {name}"),
    "bytes": ("queue_full", "too many bytes of requests wait for model {name}"),
    "timeout": ("queue_timeout", "model {name} had no free place for {queue_s:g} s"),
    "cold-timeout": ("model_not_ready", "model {name} was not ready within {cold_s:g} s"),
    "no-worker": ("model_not_ready", "model {name} is not served: it is {state}"),
    "closing": ("shutting_down", "the gateway is shutting down"),
}


def not_served(reason: Reason, live: Live, cls: int) -> Refused:
    """503 for a request of that class which its model's queue does not take, or keep."""
    model, (code, text) = live.model, _TEXTS[reason]
    if reason == "no-worker" or reason == "cold-timeout":
        wait = model.ready_in_s or PATIENCE_S
    else:
        wait = live.queue.seconds_to_wait(cls)
    text = text.format(
        name=model.name,
        queue_s=model.limits.queue_s,
        cold_s=model.limits.cold_s,
        state=model.state if model.reason is None else f"{model.state}, {model.reason}",
    )
    return refused(503, text, code=code, retry_after=wait)


def not_allowed(key: str, model: str) -> Refused:
    """403 for a model that the key may not use."""
    text = f"the key {key} may not use model {shown(model)}"
    return refused(403, text, code="model_not_allowed", param="model")


def too_large(limit: int) -> Refused:
    """413 for a body of more bytes than the model, or any model, takes."""
    return refused(413, f"a body may have {limit} bytes")


def too_many_bodies() -> Refused:
    """503 for a body where those of all clients together fill the memory that is meant for them."""
    text = "too many bodies are being sent at once"
    return refused(503, text, code="too_many_bodies", retry_after=SOON_S)


def worker_lost(name: str) -> Refused:
    """503 where no worker of the model gave a single byte."""
    text = f"no worker of model {name} could be reached, or kept what it was given"
    return refused(503, text, code="worker_lost", retry_after=SOON_S)


def worker_died() -> Refused:
    """What a stream ends with whose worker broke it off."""
    return refused(502, "the worker broke off its answer", code="worker_died")


def overdue() -> Refused:
    """504 where the answer is not complete in the time that the model allows."""
    return refused(504, "the answer took longer than this model allows")


def shutting_down() -> Refused:
    """503 where the gateway ends before the answer does."""
    return refused(503, "the gateway is shutting down", code="shutting_down", retry_after=SOON_S)
