"""The fingerprint of a model's effective configuration: equal means the workers may stay."""

from __future__ import annotations

import hashlib
import json

from vllm_console.fleet.model import ModelConfig

_NEEDS_NO_RESTART = {
    "name",
    "autostart",
    "pinned",
    "idle_unload_s",
    "start_timeout_s",
    "stall_after_s",
    "on_stall",
    "sampling",
    "slo",
    "scale",
    "limits",
    "on_demand",
    "weights",
}


def as_it_runs(former: ModelConfig, wanted: ModelConfig) -> ModelConfig:
    """`former`, with what `wanted` says of all that takes effect without a new worker."""
    return former.model_copy(update={key: getattr(wanted, key) for key in _NEEDS_NO_RESTART})


def fingerprint(model: ModelConfig) -> str:
    """16 hex digits that change when a running worker no longer is what the model wants.

    Secrets count by their reference, so a rotated value leaves it as it is. A field at its built-in
    value does not count, so an upgrade that adds fields restarts nothing.
    """
    wanted = model.model_dump(mode="json", exclude=_NEEDS_NO_RESTART, exclude_defaults=True)
    text = json.dumps(wanted, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
