"""Carries out a plan, one model at a time, the new revision ready before the old one drains."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NoReturn, Protocol

from vllm_console.control.attached import AttachedWorker
from vllm_console.control.plan import Change, Kind, digest, plan
from vllm_console.control.revisions import Revision
from vllm_console.control.roster import Roster
from vllm_console.control.served import Actor, ServedModel
from vllm_console.errors import ConsoleError, InvalidInput, TimedOut
from vllm_console.fleet.model import Fleet, ModelConfig
from vllm_console.fleet.revision import as_it_runs, fingerprint
from vllm_console.workers.states import ENDED, SERVING, State

_DECIDED = (*ENDED, State.READY, State.BACKOFF)
"""States in which a start has either worked or not."""
CHANGED_SINCE = "the fleet file changed since the plan was shown; look again"


class Tried(Protocol):
    """What a rollout asks of the canaries."""

    def promote(self, model: ServedModel) -> Actor | None:
        """Make a model's canary a worker like the others; returns it."""

    async def end(self, model: ServedModel) -> None:
        """Drain and stop a model's canary, if it has one."""


class Fleetwide(Protocol):
    """What a rollout asks of the daemon."""

    models: Roster

    @property
    def canaries(self) -> Tried:
        """The revisions that are tried beside those that serve."""

    def admit(self, config: ModelConfig) -> None:
        """Take in a model that is new in the file, and load it if it starts by itself."""

    def tell(self, level: str, subject: str, text: str) -> None:
        """Record an event."""

    def revise(self, model: ServedModel, config: ModelConfig) -> None:
        """Give a model a configuration and the revision that goes with it."""

    def has_room_beside(self, model: ServedModel) -> bool:
        """Whether one more worker of this model can run next to those there are."""

    async def retire(self, model: ServedModel, worker: Actor) -> None:
        """Unload one worker and forget it."""


class RolledBack(ConsoleError):
    """A revision did not become ready; the one before it serves."""


class Rollout:
    """Brings a fleet to what its file says; one at a time, however many ask."""

    def __init__(self, fleet: Fleetwide, read: Callable[[], Fleet]) -> None:
        self._fleet = fleet
        self.read = read
        """The fleet as its file says now; raises `InvalidInput`."""
        self._turn = asyncio.Lock()

    @property
    def busy(self) -> bool:
        """Whether workers are being replaced now."""
        return self._turn.locked()

    def plan(self) -> dict[str, Any]:
        """What would change, and the digest to agree to it with; raises `InvalidInput`."""
        changes = self._changes(self.read())
        return {"changes": [asdict(change) for change in changes], "digest": digest(changes)}

    async def apply(self, agreed: str | None = None) -> Fleet:
        """Carry out the plan and return the fleet as its file says.

        With `agreed`, the digest of a plan, only that plan is carried out. A model whose new
        revision does not become ready is rolled back and the others go on; raises `ConsoleError`
        at the end, naming each.
        """
        async with self._turn:
            wanted = self.read()
            changes = self._changes(wanted)
            if agreed is not None and agreed != digest(changes):
                raise ConsoleError(CHANGED_SINCE)
            failed = []
            for change in changes:
                try:
                    await self._carry_out(change, wanted)
                except ConsoleError as error:
                    failed.append(str(error))
        self._fleet.tell("warn" if failed else "ok", "fleet", _applied(changes, failed))
        if failed:
            raise ConsoleError("; ".join(failed))
        return wanted

    async def replace(self, model: ServedModel, config: ModelConfig) -> None:
        """Bring one model to a configuration; raises `RolledBack` when it does not serve."""
        async with self._turn:
            await replace_workers(self._fleet, model, config)

    def _changes(self, wanted: Fleet) -> tuple[Change, ...]:
        models = self._fleet.models
        runs = {name: model.config for name, model in models.items()}
        canaries = {name: m.canary for name, m in models.items() if m.canary is not None}
        return plan(runs, wanted.models, canaries)

    async def _carry_out(self, change: Change, wanted: Fleet) -> None:
        if change.kind is Kind.ADD:
            self._fleet.admit(wanted.models[change.model])
            return
        model = self._fleet.models[change.model]
        if change.kind is Kind.REMOVE:
            model.unload()
            await _retire_all(self._fleet, model)
            del self._fleet.models[change.model]
        elif change.kind in (Kind.UPDATE, Kind.END_CANARY):
            await self._fleet.canaries.end(model)
            model.config = wanted.models[change.model]
        else:
            await replace_workers(self._fleet, model, wanted.models[change.model])


def _applied(changes: Sequence[Change], failed: Sequence[str]) -> str:
    if not changes:
        return "fleet file applied: nothing to change"
    done = ", ".join(f"{change.kind} {change.model}" for change in changes)
    return f"fleet file applied: {done}" + (f"; {len(failed)} failed" if failed else "")


def stored(kept: Sequence[Revision], model: ServedModel, number: int | None) -> ModelConfig:
    """The configuration of a revision, by default the one before the present one.

    What takes effect without a new worker, such as limits and targets, is no part of a revision:
    it stays as it is now. Raises `InvalidInput` when there is no such revision, or this version
    cannot read it.
    """
    wanted = model.revision - 1 if number is None else number
    found = next((revision for revision in kept if revision.number == wanted), None)
    if found is None or wanted == model.revision:
        there = ", ".join(str(r.number) for r in kept if r.number != model.revision) or "no other"
        raise InvalidInput(
            f"{model.name} is at revision {model.revision}; to roll back to there is {there}"
        )
    try:
        return as_it_runs(ModelConfig.model_validate(found.config), model.config)
    except ValueError as error:
        raise InvalidInput(
            f"revision {wanted} of {model.name} is of another version: {error!r}"[:300]
        ) from None


async def replace_workers(fleet: Fleetwide, model: ServedModel, config: ModelConfig) -> None:
    """Bring a model's workers to `config`, worker by worker.

    Where there is room the new worker is ready before the old one drains, so that the model never
    stops serving; else the old one makes way first. A model that is unloaded on the way has the new
    configuration and stays unloaded. Raises `RolledBack` when a new worker does not
    become ready: then the model has its former configuration and its workers back. A canary of
    this configuration is the first of the new workers; any other ends before anything else.
    """
    canary = await _canary_of(fleet, model, config)
    former = model.config
    replaced = 0
    before = model.revision
    if former.attached or config.attached:
        await _retire_all(fleet, model)
        fleet.revise(model, config)
        if model.wanted:
            model.load()
        return
    fleet.revise(model, config)
    olds = [w for w in model.workers.values() if w is not canary and w.state not in ENDED]
    if canary is not None:
        why = await _take_over(fleet, model, canary, config.start_timeout_s)
        if why is not None and model.wanted:
            await _roll_back(fleet, model, former, before, why)
        replaced += why is None
    for old in olds:
        if not model.wanted or old.id not in model.workers:
            continue  # it was unloaded meanwhile, and that holds
        if old.state is State.ASLEEP:  # its memory may be another's: it starts when it is asked for
            await old.unload()
            model.put_off.add(old.id)
            text = f"{old.id} slept and is stopped; revision {model.revision} starts when asked for"
            fleet.tell("info", model.name, text)
            continue
        swap = _beside if fleet.has_room_beside(model) else _in_place
        why = await swap(fleet, model, old, config.start_timeout_s)
        if why is not None and model.wanted:
            await _roll_back(fleet, model, former, before, why, old)
        replaced += 1
    if replaced:
        fleet.tell("ok", model.name, f"revision {model.revision} serves")


async def _canary_of(fleet: Fleetwide, model: ServedModel, config: ModelConfig) -> Actor | None:
    """The canary of this configuration, now one of the model's own workers; any other ends."""
    canary = model.canary
    if canary is not None and fingerprint(canary.config) == fingerprint(config):
        return fleet.canaries.promote(model)
    await fleet.canaries.end(model)
    return None


async def _take_over(
    fleet: Fleetwide, model: ServedModel, new: Actor, limit_s: float
) -> str | None:
    """Let a worker that was a canary replace another, by preference one that does not serve.

    `None` once it has, else why it cannot.
    """
    why = None if new.state is State.ASLEEP else await _outcome(new, limit_s)
    others = [worker for worker in model.workers.values() if worker is not new]
    old = min(others, key=lambda worker: worker.state in SERVING, default=None)
    gone = old if why is None else new
    if gone is not None and (model.wanted or gone is new):
        await fleet.retire(model, gone)
    return why


async def _roll_back(
    fleet: Fleetwide,
    model: ServedModel,
    former: ModelConfig,
    before: int,
    why: str,
    old: Actor | None = None,
) -> NoReturn:
    """Go back to the former configuration, and `old` to its work; raises `RolledBack`."""
    failed = model.revision
    fleet.revise(model, former)
    if old is not None:
        await _restore(fleet, model, old)
    text = f"revision {failed} did not become ready ({why}); revision {before} serves"
    fleet.tell("crit", model.name, text)
    raise RolledBack(f"{model.name}: {text}")


async def _retire_all(fleet: Fleetwide, model: ServedModel) -> None:
    """Retire every worker, those included that somebody loads meanwhile."""
    while model.workers:
        await fleet.retire(model, next(iter(model.workers.values())))


async def _beside(fleet: Fleetwide, model: ServedModel, old: Actor, limit_s: float) -> str | None:
    """Start a new worker next to the old one; `None` once it has taken over, else why not."""
    new = model.add_worker()
    new.load()
    model.leaving.add(old.id)  # whoever loads the model meanwhile does not count on it
    why = await _outcome(new, limit_s)
    if why is not None:
        model.leaving.discard(old.id)
    await fleet.retire(model, old if why is None else new)
    return why


async def _in_place(fleet: Fleetwide, model: ServedModel, old: Actor, limit_s: float) -> str | None:
    """Restart the worker with the new configuration; `None` once it serves, else why not."""
    await old.restart()
    return await _outcome(old, limit_s)


async def _restore(fleet: Fleetwide, model: ServedModel, old: Actor) -> None:
    """Make sure the old worker serves again, under the former configuration."""
    if old.state not in (State.READY, State.STALLED):
        await old.unload()
        old.load()


async def _outcome(worker: Actor, limit_s: float) -> str | None:
    """Wait for a start to be decided; `None` when it serves, else the reason in words."""
    assert not isinstance(worker, AttachedWorker)  # those are never replaced
    try:
        await worker.wait(_DECIDED, limit_s)
    except TimedOut:
        return f"not ready after {limit_s:g} s"
    view = worker.view
    if view.state == State.READY:
        return None
    return f"{view.failure.cause}: {view.failure.line}" if view.failure else view.state
