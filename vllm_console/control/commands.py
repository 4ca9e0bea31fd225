"""The commands of the control API: what a person may ask of a running fleet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

from vllm_console.control.revisions import Revisions
from vllm_console.control.rollout import Rollout, stored
from vllm_console.control.roster import Roster
from vllm_console.control.served import Actor, ServedModel
from vllm_console.errors import ConsoleError, InvalidInput
from vllm_console.fleet.model import Fleet

Answer = dict[str, Any]


class Commanded(Protocol):
    """What commands ask of the daemon."""

    fleet: Fleet
    models: Roster
    revisions: Revisions
    rollout: Rollout
    going_down: bool

    def load(self, model: ServedModel) -> list[Actor]:
        """Want a model's workers; returns those that start."""

    def unload(self, model: ServedModel) -> list[Actor]:
        """Want none of a model; returns the workers that go."""

    def restart(self, model: ServedModel) -> None:
        """Give each worker of a model a new process."""

    async def apply(self, agreed: str | None) -> None:
        """Bring the fleet to what its file says."""

    def begin_down(self) -> None:
        """Stop every worker, then the daemon; returns at once."""


class Commands:
    """Carries commands out, each by the verb's name."""

    def __init__(self, daemon: Commanded) -> None:
        self._daemon = daemon
        self._verbs: dict[str, Callable[[Mapping[str, Any]], Awaitable[Answer]]] = {
            "load": self._load,
            "unload": self._unload,
            "restart": self._restart,
            "plan": self._plan,
            "apply": self._apply,
            "revisions": self._revisions,
            "rollback": self._rollback,
            "down": self._down,
        }

    async def carry_out(self, verb: str, args: Mapping[str, Any]) -> Answer:
        """Carry out one command; its answer is what the client gets as JSON.

        load, unload, restart and down return once they are accepted, apply and rollback once they
        are done. Raises `ConsoleError` with the one line that says why not.
        """
        daemon = self._daemon
        if daemon.going_down and verb != "down":
            raise ConsoleError(f"{daemon.fleet.name} is going down; `vllm-console up -d` starts it")
        if verb not in self._verbs:
            raise InvalidInput(f"no command {verb}; there are {', '.join(self._verbs)}")
        return await self._verbs[verb](args)

    async def _down(self, _: Mapping[str, Any]) -> Answer:
        self._daemon.begin_down()
        return {"ok": True}

    async def _load(self, args: Mapping[str, Any]) -> Answer:
        model = self._model(args)
        return _done(model, [worker.id for worker in self._daemon.load(model)])

    async def _unload(self, args: Mapping[str, Any]) -> Answer:
        model = self._model(args)
        return _done(model, [worker.id for worker in self._daemon.unload(model)])

    async def _restart(self, args: Mapping[str, Any]) -> Answer:
        model = self._model(args)
        if model.config.attached:
            raise InvalidInput(
                f"{model.name} is attached ({model.config.url}): restart it where it runs"
            )
        self._daemon.restart(model)
        return _done(model, list(model.workers))

    async def _plan(self, _: Mapping[str, Any]) -> Answer:
        return self._daemon.rollout.plan()

    async def _apply(self, args: Mapping[str, Any]) -> Answer:
        await self._daemon.apply(args.get("digest"))
        return {"ok": True}

    async def _revisions(self, args: Mapping[str, Any]) -> Answer:
        model = self._model(args)
        kept = [asdict(revision) for revision in self._daemon.revisions.of(model.name)]
        return {"model": model.name, "revision": model.revision, "revisions": kept}

    async def _rollback(self, args: Mapping[str, Any]) -> Answer:
        model = self._model(args)
        config = stored(self._daemon.revisions.of(model.name), model, args.get("revision"))
        await self._daemon.rollout.replace(model, config)
        return {"ok": True, "model": model.name, "revision": model.revision}

    def _model(self, args: Mapping[str, Any]) -> ServedModel:
        name = args.get("model")
        if not isinstance(name, str):
            raise InvalidInput("the command needs a model")
        model = self._daemon.models.named(name)
        if model is None:
            raise self._daemon.models.unknown(name, "model")
        return model


def _done(model: ServedModel, workers: list[str]) -> Answer:
    return {"ok": True, "model": model.name, "workers": workers}
