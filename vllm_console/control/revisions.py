"""Which revision of a model a configuration is: numbers that only grow, kept in the state."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_console.control.events import now_iso
from vllm_console.fleet.model import ModelConfig
from vllm_console.fleet.revision import fingerprint


@dataclass(frozen=True, slots=True)
class Revision:
    """One configuration a model has had."""

    number: int
    fingerprint: str
    at: str
    """When it was first seen, ISO 8601 UTC."""
    config: Mapping[str, Any]
    """As `ModelConfig.model_dump` gives it; secrets by their reference."""


class Revisions:
    """Keeps every configuration of every model; the same one keeps its number."""

    def __init__(self, path: Path, clock: Callable[[], str] = now_iso) -> None:
        self._path = path
        self._clock = clock
        self._known: dict[str, list[dict[str, Any]]] = {}
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            for model, kept in data.items():
                self._known[str(model)] = [_checked(entry) for entry in kept]
        except (OSError, ValueError, AttributeError, TypeError, KeyError):
            self._known = {}  # no file yet, or one damaged by a crash: numbering starts again

    def number(self, config: ModelConfig) -> int:
        """The revision of this configuration, 1 for a model's first; new ones are written down."""
        kept = self._known.setdefault(config.name, [])
        mark = fingerprint(config)
        for number, entry in enumerate(kept, 1):
            if entry["fingerprint"] == mark:
                return number
        dump = config.model_dump(mode="json")
        kept.append({"fingerprint": mark, "at": self._clock(), "config": dump})
        write_atomic(self._path, json.dumps(self._known, ensure_ascii=False))
        return len(kept)

    def of(self, model: str) -> list[Revision]:
        """Every revision of a model, oldest first."""
        return [
            Revision(number, entry["fingerprint"], entry["at"], entry["config"])
            for number, entry in enumerate(self._known.get(model, ()), 1)
        ]


def _checked(entry: Any) -> dict[str, Any]:
    """One entry of the file, with all its parts; raises `KeyError` or `TypeError` without."""
    return {
        "fingerprint": str(entry["fingerprint"]),
        "at": str(entry["at"]),
        "config": dict(entry["config"]),
    }


class WantedModels:
    """How many workers each model shall have, kept so that a restarted daemon goes on with it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, int] | None:
        """Workers wanted by model, or `None` after a clean `down` (then autostart decides)."""
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
            return {str(m): int(n) for m, n in data.items()}
        except (OSError, ValueError, AttributeError, TypeError, OverflowError):
            return None

    def write(self, wanted: dict[str, int]) -> None:
        """Note what is wanted now."""
        write_atomic(self._path, json.dumps(wanted))

    def clear(self) -> None:
        """Forget it: the fleet was taken down on purpose."""
        with contextlib.suppress(OSError):  # a disk turned read-only must not keep the fleet up
            self._path.unlink()


def write_atomic(path: Path, text: str) -> None:
    """Replace a small state file in one step; a disk that is full leaves the old one."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.chmod(partial, 0o600)
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
