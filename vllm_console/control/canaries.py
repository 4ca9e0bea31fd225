"""Tries a revision beside the one that serves: begins a canary, moves its share, ends it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, Protocol

from vllm_console.control.canary import Canary, CanaryFile, Kept
from vllm_console.control.revisions import Revisions
from vllm_console.control.rollout import Rollout
from vllm_console.control.roster import Roster
from vllm_console.control.routing import adapters
from vllm_console.control.served import Actor, ServedModel
from vllm_console.errors import ConsoleError, InvalidInput
from vllm_console.fleet.model import ModelConfig
from vllm_console.fleet.revision import as_it_runs, fingerprint
from vllm_console.snapshot import Worker as WorkerView
from vllm_console.workers.states import State

_GIVEN_UP = (State.FAILED, State.CRASH_LOOP)


class Trying(Protocol):
    """What canaries ask of the daemon."""

    models: Roster
    revisions: Revisions
    rollout: Rollout

    def tell(self, level: str, subject: str, text: str) -> None:
        """Record an event."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside; an error of it becomes an event."""

    async def retire(self, model: ServedModel, worker: Actor) -> None:
        """Unload one worker and forget it."""


class Canaries:
    """The canaries of a fleet, one a model at most. Lives in one event loop."""

    def __init__(
        self,
        daemon: Trying,
        file: CanaryFile,
        *,
        has_room: Callable[[ModelConfig], bool],
        promoted: Callable[[ServedModel, str], None],
        reroute: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`has_room` tells whether a worker of a configuration can run next to those there are.

        `promoted` hears of a worker, by its id, that is a canary no more; `reroute`, that shares
        of requests have changed. `clock` gives seconds since the epoch.
        """
        self._daemon = daemon
        self._file = file
        self._has_room = has_room
        self._promoted = promoted
        self._reroute = reroute
        self._clock = clock
        self._ending: dict[str, Kept] = {}
        """By model, those that have not gone yet."""

    # -- what a person asks for ----------------------------------------------------------------

    def give(self, model: ServedModel, share: float) -> Canary:
        """Give the canary of a model this share of the requests; begin one if there is none.

        Raises `ConsoleError` with the one line that says why none can be begun, or that fleet.toml
        has a third revision by now.
        """
        if model.canary is None:
            return self._begin(model, self._as_the_file_says(model), share)
        self._refuse_a_third(model, model.canary)
        model.canary = replace(model.canary, share=share)
        self.note()
        self._reroute()
        if model.canary.served:
            self._tell_share(model, model.canary)
        return model.canary

    def dismiss(self, model: ServedModel) -> Canary:
        """Begin to end a canary: nothing new comes to it, then it stops.

        Raises `ConsoleError` where there is none.
        """
        canary = model.canary
        if canary is None:
            raise ConsoleError(f"{model.name} has no canary")
        self._daemon.spawn(self.end(model))
        return canary

    # -- what a rollout and the daemon ask for ---------------------------------------------------

    async def end(self, model: ServedModel) -> None:
        """End the canary of a model, if it has one: drained and stopped."""
        canary = model.canary
        if canary is None:
            return
        self._ending[model.name] = replace(_kept(model, canary), ends=True)
        worker = model.end_canary()
        self.gone(model, canary)
        if worker is not None:
            await self._daemon.retire(model, worker)
        self._ending.pop(model.name, None)
        self.note()

    def gone(self, model: ServedModel, canary: Canary) -> None:
        """Tell, and note, that a model has ended its canary."""
        self.note()
        self._reroute()
        text = f"canary: revision {canary.revision} ends"
        rest = f"; revision {model.revision} has all requests"
        text += rest if model.wanted else " with its model"
        self._daemon.tell("info", model.name, text)

    def promote(self, model: ServedModel) -> Actor | None:
        """Make the canary a worker like the others; returns it."""
        canary, model.canary = model.canary, None
        worker = model.workers.get(canary.worker) if canary is not None else None
        self.note()
        self._reroute()
        if worker is not None:
            self._promoted(model, worker.id)
        return worker

    def heard(self, worker: Actor, view: WorkerView) -> None:
        """Hear of a change of a worker: a canary that is ready counts, one that fails goes."""
        model = self._daemon.models.get(worker.model)
        canary = model.canary if model is not None else None
        if model is None or canary is None or canary.worker != worker.id:
            return
        if view.state == State.READY and not canary.served:
            model.canary = replace(canary, served=True, since=self._clock())
            self.note()
            self._tell_share(model, model.canary)
        elif view.state in _GIVEN_UP or (view.state == State.BACKOFF and not canary.served):
            model.end_canary()
            self.note()
            what = "is given up" if canary.served else "did not become ready"
            text = f"canary: revision {canary.revision} {what} ({_why(view)})"
            text += f"; revision {model.revision} has all requests"
            self._daemon.tell("crit", model.name, text)
            self._daemon.spawn(self._daemon.retire(model, worker))

    def restore(self, wanted: Mapping[str, int] | None) -> None:
        """Go on with what an earlier daemon kept, before its workers are adopted.

        The models have the configuration of the file until then; `wanted` is how many workers each
        had, as far as that is known.
        """
        for name, kept in self._file.read().items():
            model = self._daemon.models.get(name)
            if model is None or model.config.attached or (wanted or {}).get(name) == 0:
                continue
            base = self._daemon.revisions.config(name, kept.base)
            tried = self._daemon.revisions.config(name, kept.revision)
            if base is None or tried is None:
                unknown = kept.base if base is None else kept.revision
                text = f"canary: given up, as revision {unknown} cannot be read any more"
                self._daemon.tell("warn", name, text)
                continue
            says = model.config
            model.config, model.revision = as_it_runs(base, says), kept.base
            model.canary = Canary(
                as_it_runs(tried, says),
                kept.revision,
                kept.share,
                kept.worker,
                kept.since,
                kept.served,
            )
            if kept.ends:
                self._ending[name] = kept

    def resume(self, start: bool) -> None:
        """Start the canaries that have ended meanwhile, or without `start` forget those.

        One that the earlier daemon was about to end goes.
        """
        for model in self._daemon.models.values():
            canary = model.canary
            if canary is None:
                continue
            if model.name in self._ending:
                self._daemon.spawn(self.end(model))
                continue
            if canary.worker not in model.workers:
                if not (start and model.wanted):
                    model.canary = None
                    continue
                model.add_worker(canary.worker).load()
            text = f"canary: goes on, revision {canary.revision} with {_percent(canary.share)}"
            self._daemon.tell("info", model.name, f"{text} of the requests")
        self.note()

    def note(self) -> None:
        """Write down what there is now."""
        there = {
            name: _kept(model, model.canary)
            for name, model in self._daemon.models.items()
            if model.canary is not None
        }
        self._file.write({**self._ending, **there})

    def forget(self) -> None:
        """Keep nothing: the fleet was taken down on purpose."""
        self._ending.clear()
        self._file.write({})

    # -- behind it -----------------------------------------------------------------------------

    def _begin(self, model: ServedModel, config: ModelConfig, share: float) -> Canary:
        revision = self._daemon.revisions.number(config)
        canary = Canary(config, revision, share, model.free_id(), self._clock())
        model.canary = canary
        self.note()
        text = f"canary: revision {revision} starts beside revision {model.revision}"
        self._daemon.tell("info", model.name, text)
        model.add_worker(canary.worker).load()
        return canary

    def _refuse_a_third(self, model: ServedModel, canary: Canary) -> None:
        try:
            says = self._daemon.rollout.read().models.get(model.name)
        except ConsoleError:  # a share moves whatever is being written there
            return
        known = {fingerprint(model.config), fingerprint(canary.config)}
        if says is not None and fingerprint(says) not in known:
            raise InvalidInput(
                f"{model.name} has revision {canary.revision} as its canary, and fleet.toml says "
                f"another by now: `vllm-console canary {model.name} --end`, then try that one"
            )

    def _as_the_file_says(self, model: ServedModel) -> ModelConfig:
        """The configuration to try; raises `ConsoleError` where that cannot be."""
        name = model.name
        if model.config.attached:
            where = model.config.url
            raise InvalidInput(f"{name} is attached ({where}): try a revision where it runs")
        if self._daemon.rollout.busy:
            raise ConsoleError("the fleet file is being applied: try again once that is done")
        if model.state is State.ASLEEP:
            raise ConsoleError(f"{name} is asleep: `vllm-console wake {name}` comes first")
        if not model.ready:
            raise ConsoleError(f"{name} is {model.state}: a canary needs a ready worker beside it")
        config = self._daemon.rollout.read().models.get(name)
        if config is None:
            raise InvalidInput(f"{name} is no longer in the fleet file")
        if config.attached:
            raise InvalidInput(f"{name} is attached in the fleet file: nothing is started for it")
        if fingerprint(config) == fingerprint(model.config):
            raise InvalidInput(
                f"the fleet file changes nothing of {name} that needs a new worker: there is no "
                "other revision to try; `vllm-console apply` takes up the rest"
            )
        lost = sorted(_names(model.config) - _names(config))
        if lost:
            raise InvalidInput(
                f"{name} would no longer answer to {', '.join(lost)}, which clients may ask for: "
                "a canary needs every name that its model has"
            )
        if not self._has_room(config):
            raise ConsoleError(f"{name} has no room for one more worker: {_no_room(config)}")
        return config

    def _tell_share(self, model: ServedModel, canary: Canary) -> None:
        text = f"canary: revision {canary.revision} has {_percent(canary.share)} of the requests"
        self._daemon.tell("ok", model.name, text)


def share_of(value: object) -> float:
    """A share of requests as a command gives it, 0..1; raises `InvalidInput` for any other."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidInput("a canary needs a share of the requests, from 0 to 1")
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise InvalidInput(f"a canary has a share of the requests from 0 to 1, not {value}")
    return float(value)


def _kept(model: ServedModel, canary: Canary) -> Kept:
    return Kept(
        model.revision, canary.revision, canary.share, canary.worker, canary.since, canary.served
    )


def _names(config: ModelConfig) -> set[str]:
    return {*config.aliases, *adapters(config.options.get("lora_modules"))}


def _no_room(config: ModelConfig) -> str:
    if config.devices:
        return "devices = […] names the GPUs of all its workers; gpus = N lets one start beside"
    return "unload another model, or `vllm-console apply` without trying it first"


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def _why(view: WorkerView) -> str:
    failure = view.failure
    return f"{failure.cause}: {failure.line}" if failure is not None else view.state
