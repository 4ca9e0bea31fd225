"""The commands of the control API: what a person may ask of a running fleet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import closing
from dataclasses import asdict
from typing import Any, Protocol

from vllm_console.control import client_keys
from vllm_console.control.canaries import Canaries, share_of
from vllm_console.control.front import Front
from vllm_console.control.looking import Looking, configured
from vllm_console.control.pins import Pins
from vllm_console.control.revisions import Revisions
from vllm_console.control.rollout import CHANGED_SINCE, Rollout, stored
from vllm_console.control.roster import Roster
from vllm_console.control.served import Actor, ServedModel
from vllm_console.errors import ConsoleError, InvalidInput
from vllm_console.fleet.find import Place
from vllm_console.fleet.model import Fleet
from vllm_console.history.accounts import Accounts
from vllm_console.snapshot import to_json
from vllm_console.workers.states import ENDED

Answer = dict[str, Any]


class Commanded(Protocol):
    """What commands ask of the daemon."""

    place: Place
    fleet: Fleet
    models: Roster
    revisions: Revisions
    rollout: Rollout
    looking: Looking
    front: Front
    canaries: Canaries
    pins: Pins
    going_down: bool

    def load(self, model: ServedModel) -> list[Actor]:
        """Want a model's workers; returns those that start."""

    def unload(self, model: ServedModel) -> list[Actor]:
        """Want none of a model; returns the workers that go."""

    def scale(self, model: ServedModel, number: int) -> tuple[list[Actor], list[Actor]]:
        """Want exactly so many workers; returns those that start and those that go."""

    def restart(self, model: ServedModel) -> None:
        """Give each worker of a model a new process."""

    async def apply(self, agreed: str | None) -> None:
        """Bring the fleet to what its file says."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside; an error of it becomes an event."""

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
            "scale": self._scale,
            "sleep": self._sleep,
            "wake": self._wake,
            "canary": self._canary,
            "pin": self._pin,
            "unpin": self._unpin,
            "load-plan": self._load_plan,
            "config": self._config,
            "fleet-file": self._fleet_file,
            "plan": self._plan,
            "apply": self._apply,
            "revisions": self._revisions,
            "rollback": self._rollback,
            "down": self._down,
            "gateway-restart": self._gateway_restart,
            **{verb: self._keys(verb) for verb in client_keys.COMMANDS},
        }

    async def carry_out(self, verb: str, args: Mapping[str, Any]) -> Answer:
        """Carry out one command; its answer is what the client gets as JSON.

        load, unload, restart, scale, sleep, wake, canary and down return once accepted, apply,
        rollback and gateway-restart once they are done; with `wait` false apply once the plan is
        still what was agreed to, rollback once there is such a revision. Raises `ConsoleError` with
        the one line that says why not.
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

    async def _gateway_restart(self, _: Mapping[str, Any]) -> Answer:
        await self._daemon.front.restart()
        return {"ok": True}

    async def _load(self, args: Mapping[str, Any]) -> Answer:
        model = self._model(args)
        started = self._daemon.load(model)
        model.call()
        return _done(model, [worker.id for worker in started])

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

    async def _scale(self, args: Mapping[str, Any]) -> Answer:
        model = self._model(args)
        started, surplus = self._daemon.scale(model, wanted_workers(model, args.get("workers")))
        answer = _done(model, [worker.id for worker in started])
        return {**answer, "wanted": model.wanted, "gone": [worker.id for worker in surplus]}

    async def _sleep(self, args: Mapping[str, Any]) -> Answer:
        model = self._model(args)
        if not model.can_sleep:
            raise InvalidInput(why_no_sleep(model))
        workers = model.sleep()
        if not workers:
            raise ConsoleError(f"{model.name} is {model.state}: only a ready model can sleep")
        return _done(model, [worker.id for worker in workers])

    async def _wake(self, args: Mapping[str, Any]) -> Answer:
        model = self._model(args)
        workers = model.wake()
        if not workers and not model.ready:
            remedy = f"`vllm-console load {model.name}` starts it"
            raise ConsoleError(f"{model.name} is {model.state} and does not sleep; {remedy}")
        return _done(model, [worker.id for worker in workers])

    async def _canary(self, args: Mapping[str, Any]) -> Answer:
        model, canaries = self._model(args), self._daemon.canaries
        if args.get("end"):
            canary = canaries.dismiss(model)
        else:
            canary = canaries.give(model, share_of(args.get("share")))
        answer = _done(model, [canary.worker])
        return {**answer, "revision": canary.revision, "base": model.revision}

    async def _pin(self, args: Mapping[str, Any]) -> Answer:
        return self._pinned(self._model(args), True)

    async def _unpin(self, args: Mapping[str, Any]) -> Answer:
        return self._pinned(self._model(args), False)

    def _pinned(self, model: ServedModel, pin: bool) -> Answer:
        self._daemon.pins.put(model, pin)
        return {**_done(model, []), "pinned": model.pinned}

    async def _load_plan(self, args: Mapping[str, Any]) -> Answer:
        return dict(to_json(await self._daemon.looking.load_plan(self._model(args))))

    async def _config(self, args: Mapping[str, Any]) -> Answer:
        return dict(to_json(configured(self._daemon.fleet, self._model(args))))

    async def _fleet_file(self, _: Mapping[str, Any]) -> Answer:
        return dict(to_json(await self._daemon.looking.fleet_file()))

    async def _plan(self, _: Mapping[str, Any]) -> Answer:
        return self._daemon.rollout.plan()

    async def _apply(self, args: Mapping[str, Any]) -> Answer:
        agreed = args.get("digest")
        if args.get("wait", True):
            await self._daemon.apply(agreed)
            return {"ok": True}
        if agreed is not None and agreed != self._daemon.rollout.plan()["digest"]:
            raise ConsoleError(CHANGED_SINCE)
        self._daemon.spawn(self._daemon.apply(agreed))
        return {"ok": True}

    async def _revisions(self, args: Mapping[str, Any]) -> Answer:
        model = self._model(args)
        kept = [asdict(revision) for revision in self._daemon.revisions.of(model.name)]
        return {"model": model.name, "revision": model.revision, "revisions": kept}

    async def _rollback(self, args: Mapping[str, Any]) -> Answer:
        model = self._model(args)
        config = stored(self._daemon.revisions.of(model.name), model, args.get("revision"))
        replaced = self._daemon.rollout.replace(model, config)
        if args.get("wait", True):
            await replaced
            return {"ok": True, "model": model.name, "revision": model.revision}
        self._daemon.spawn(replaced)
        return {"ok": True, "model": model.name}

    def _keys(self, verb: str) -> Callable[[Mapping[str, Any]], Awaitable[Answer]]:
        def written(args: Mapping[str, Any]) -> Answer:
            with closing(Accounts(self._daemon.place.accounts)) as accounts:
                return client_keys.COMMANDS[verb](accounts, args, time.time())

        return lambda args: asyncio.to_thread(written, args)

    def _model(self, args: Mapping[str, Any]) -> ServedModel:
        name = args.get("model")
        if not isinstance(name, str):
            raise InvalidInput("the command needs a model")
        model = self._daemon.models.named(name)
        if model is None:
            raise self._daemon.models.unknown(name, "model")
        return model


def wanted_workers(model: ServedModel, number: object) -> int:
    """A number of workers that a model may have; raises `InvalidInput` for any other."""
    config = model.config
    if config.attached:
        raise InvalidInput(f"{model.name} is attached ({config.url}): scale it where it runs")
    low, high = (config.scale.min, config.scale.max) if config.scale else (0, 1)
    if isinstance(number, bool) or not isinstance(number, int):
        raise InvalidInput("scale needs a number of workers")
    if not low <= number <= high:
        raise InvalidInput(
            f"{model.name} may have {low} to {high} workers, not {number}: "
            f"scale.min and scale.max of models.{model.name} in the fleet file say so"
        )
    return number


def why_no_sleep(model: ServedModel) -> str:
    """Why a model's workers cannot be put to sleep, and what would change that."""
    if model.config.attached:
        return f"{model.name} is attached ({model.config.url}): put it to sleep where it runs"
    if model.config.sleep_level is None:
        return f"{model.name} cannot sleep: set models.{model.name}.sleep_level = 1, then apply"
    if not model.workers or model.state in ENDED:
        return f"{model.name} is {model.state}: only a ready model can sleep"
    return f"{model.name} cannot sleep: it was started without sleep_level; restart it"


def _done(model: ServedModel, workers: list[str]) -> Answer:
    return {"ok": True, "model": model.name, "workers": workers}
