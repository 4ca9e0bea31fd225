"""The models a daemon runs: found by name, alias or worker, or named as unknown."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from vllm_console.control.served import Actor, ServedModel
from vllm_console.errors import NotFound


class Roster(dict[str, ServedModel]):
    """Models by name, in the order of the fleet file; those it lists no more come last."""

    def workers(self) -> Iterator[tuple[ServedModel, Actor]]:
        """Every worker there is, with its model; safe against changes on the way."""
        for model in list(self.values()):
            for worker in list(model.workers.values()):
                yield model, worker

    def named(self, name: str) -> ServedModel | None:
        """The model of that name or alias."""
        for model in self.values():
            if name == model.name or name in model.config.aliases:
                return model
        return None

    def worker(self, name: str) -> Actor | None:
        """The worker of that id, or the first worker of the model of that name or alias."""
        for _, worker in self.workers():
            if worker.id == name:
                return worker
        model = self.named(name)
        return next(iter(model.workers.values()), None) if model else None

    def unknown(self, name: str, kind: str) -> NotFound:
        """The error for a model or worker (`kind`) that is not here, with the nearest name."""
        known = list(self)
        if kind == "worker":
            known += [worker.id for _, worker in self.workers()]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(known) or 'none'}"
        return NotFound(f'no {kind} "{name}"; {hint}')
