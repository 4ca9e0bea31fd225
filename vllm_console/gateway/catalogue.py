"""`/v1/models`: every model of the fleet, whether it is loaded or not, as OpenAI lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from vllm_console.gateway.table import Model, Table

OWNER = "vllm-console"
_FAILED = ("failed", "crash-loop")
"""States that a request does not end."""
Allows = Callable[[str], bool]
"""Whether a key may use a model, by the model's name."""
Entry = dict[str, Any]


def listing(table: Table, allows: Allows) -> Entry:
    """All names that requests may give as `model`, of the models that `allows` lets through.

    Beside OpenAI's fields each has `state` as in `status --json`, `ready` (whether a worker takes
    requests now), `max_model_len` as vLLM has it (`null` where that is not known), `root`, the
    model's own name, and `parent`, of a LoRA adapter the model that serves it.
    """
    found = [entry for model in table.models if allows(model.name) for entry in _entries(model)]
    return {"object": "list", "data": found}


def one(table: Table, name: str, allows: Allows) -> Entry | None:
    """The entry of one name; `None` where there is none, or the key may not see it."""
    for model in table.models:
        if name in (model.name, *model.aliases, *model.adapters):
            if not allows(model.name):
                return None
            return next(entry for entry in _entries(model) if entry["id"] == name)
    return None


def ready(table: Table) -> str | None:
    """Why no request could be served now, one line; `None` where one could.

    A model that a request loads counts: whoever asks for it waits and is answered.
    """
    if not table.models:
        return "no model is known yet"
    if any(_usable(m) or (m.on_demand and m.state not in _FAILED) for m in table.models):
        return None
    shown = [
        f"{m.name} is {m.state}" + (f" ({m.reason})" if m.reason else "") for m in table.models
    ]
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return "no model takes requests: " + ", ".join(shown[:3]) + more


def _entries(model: Model) -> Iterator[Entry]:
    base: Entry = {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": OWNER,
        "root": model.name,
        "parent": None,
        "max_model_len": model.max_model_len,
        "state": model.state,
        "ready": _usable(model),
    }
    yield base
    for alias in model.aliases:
        yield {**base, "id": alias}
    for adapter in model.adapters:
        yield {**base, "id": adapter, "root": adapter, "parent": model.name}


def _usable(model: Model) -> bool:
    return any(not worker.draining for worker in model.workers)
