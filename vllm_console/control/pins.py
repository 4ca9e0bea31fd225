"""Which models a person pinned, or unpinned, beside what fleet.toml says of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

from vllm_console.control.revisions import write_atomic
from vllm_console.control.roster import Roster
from vllm_console.control.served import ServedModel


class Pins:
    """Keeps what was said by key or verb, for the next daemon too. Lives in one event loop."""

    def __init__(self, path: Path, models: Roster, tell: Callable[[str, str, str], None]) -> None:
        """`tell` records an event: its level, its subject, its text."""
        self._path = path
        self._models = models
        self._tell = tell

    def restore(self) -> None:
        """Go on with what an earlier daemon kept; what cannot be read says nothing."""
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            said = {str(model): pin for model, pin in kept.items() if isinstance(pin, bool)}
        except (OSError, ValueError, AttributeError):
            return
        for name, pin in said.items():
            model = self._models.get(name)
            if model is not None:
                model.pin = pin
        self.settle()

    def put(self, model: ServedModel, pin: bool) -> None:
        """Pin a model, or take its pin away."""
        if model.pinned == pin:
            return
        model.pin = pin
        self.settle()
        text = "pinned: nothing evicts it" if pin else "no longer pinned"
        self._tell("info", model.name, text)

    def settle(self) -> None:
        """Forget what fleet.toml says by now anyway, and write down the rest."""
        said: dict[str, bool] = {}
        for name, model in self._models.items():
            if model.pin == model.config.pinned:
                model.pin = None
            if model.pin is not None:
                said[name] = model.pin
        if said:
            write_atomic(self._path, json.dumps(said))
        else:
            with contextlib.suppress(OSError):  # a disk turned read-only must not stop anything
                self._path.unlink()
