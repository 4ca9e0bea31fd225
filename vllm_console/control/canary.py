"""A canary: one worker of another revision beside a model's own, and its share of the requests."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vllm_console.control.revisions import write_atomic
from vllm_console.fleet.model import ModelConfig


@dataclass(frozen=True, slots=True)
class Canary:
    """A worker of a revision that is tried beside the one that serves."""

    config: ModelConfig
    revision: int
    share: float
    """Of the model's requests, 0..1."""
    worker: str
    """Its id."""
    since: float
    """When it became ready, or until then was begun; in seconds since the epoch."""
    served: bool = False
    """It has been ready: from then on an end is one to recover from."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is written down of a canary, for the next daemon."""

    base: int
    """The revision that serves the other requests."""
    revision: int
    share: float
    worker: str
    since: float
    served: bool
    ends: bool = False
    """It was told to go, and may not have gone yet."""


class CanaryFile:
    """The canaries of a fleet, kept so that a restarted daemon goes on with them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: dict[str, Kept] | None = None

    def read(self) -> dict[str, Kept]:
        """What was kept, by model; what cannot be read is no canary."""
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
            return {str(model): _kept(entry) for model, entry in data.items()}
        except (OSError, ValueError, AttributeError, TypeError, KeyError, OverflowError):
            return {}

    def write(self, canaries: Mapping[str, Kept]) -> None:
        """Note what there is now; without a canary there is no file."""
        if canaries == self._written:
            return
        self._written = dict(canaries)
        if not canaries:
            with contextlib.suppress(OSError):  # a disk turned read-only must not stop anything
                self._path.unlink()
            return
        plain = {model: asdict(kept) for model, kept in canaries.items()}
        write_atomic(self._path, json.dumps(plain))


def _kept(entry: Any) -> Kept:
    kept = Kept(
        int(entry["base"]),
        int(entry["revision"]),
        float(entry["share"]),
        str(entry["worker"]),
        float(entry["since"]),
        bool(entry["served"]),
        bool(entry.get("ends", False)),
    )
    if not (0.0 <= kept.share <= 1.0 and math.isfinite(kept.since)):
        raise ValueError(f"no share: {kept.share}")
    return kept
