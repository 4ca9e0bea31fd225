"""The gateway's routing table, made of what the fleet file wants and of what runs."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from vllm_console.control.picture import engine_facts
from vllm_console.control.served import Actor, ServedModel
from vllm_console.errors import ConsoleError
from vllm_console.fleet.model import Fleet
from vllm_console.fleet.model import Limits as WantedLimits
from vllm_console.fleet.secrets import read_secret
from vllm_console.gateway.table import Limits, Model, Table, Worker
from vllm_console.history.account_rows import hash_of
from vllm_console.workers.states import State

SLOTS = 256
"""Requests side by side of an engine that does not tell; vLLM's own default `max_num_seqs`."""
_ETA_STEP_S = 5.0
"""What is left of a start is told in steps of this: each one is a new table."""
_NOTHING_NEW = frozenset({State.DRAINING, State.STALLED})
_PUBLISHED = {"https": 443, "http": 80}

Info = Callable[[str], Mapping[str, str]]
"""What a worker's /metrics says of its engine, by the worker's id."""
Created = Callable[[ServedModel], int]
"""Seconds since the epoch at which a model's revision was first known."""


def routing_table(
    fleet: Fleet,
    models: Iterable[ServedModel],
    *,
    version: int,
    info: Info,
    created: Created,
    key_of: Callable[[ServedModel], str | None],
    closing: bool = False,
) -> Table:
    """The table of this moment. `closing`: the fleet goes down, and nothing new is served.

    `key_of` gives the bearer that an attached server wants.
    """
    gateway = fleet.gateway
    return Table(
        version=version,
        fleet=fleet.name,
        anonymous=gateway.anonymous,
        gpu_hour_cost=fleet.gpu_hour_cost,
        cors=gateway.cors,
        access_log=gateway.access_log,
        models=tuple(_model(model, info, created, key_of, closing) for model in models),
    )


def same(one: Table | None, other: Table) -> bool:
    """Whether two tables differ in nothing but their version."""
    if one is None:
        return False
    return msgspec.structs.replace(one, version=other.version) == other


def key_hashes(
    fleet: Fleet, environ: Mapping[str, str] = os.environ
) -> tuple[dict[str, bytes | None], list[str]]:
    """Hashes of the secrets of `[gateway.keys]` by the names of their clients.

    `None`, and with them a line, for each secret that is missing.
    """
    base = fleet.path.parent if fleet.path is not None else Path("/")
    found: dict[str, bytes | None] = {}
    missing: list[str] = []
    for name, secret in fleet.gateway.keys.items():
        try:
            value = read_secret(f"gateway.keys.{name}", secret, base, environ)
        except ConsoleError as error:
            missing.append(str(error))
            found[name] = None
        else:
            found[name] = hash_of(value.encode())
    return found, missing


def attached_key(fleet: Fleet, model: ServedModel) -> str | None:
    """The bearer that the watched server of a model wants; `None` if none, or it is missing."""
    secret = model.config.api_key
    if secret is None or fleet.path is None:
        return None
    try:
        return read_secret(f"models.{model.name}.api_key", secret, fleet.path.parent)
    except ConsoleError:
        return None  # the worker's own state says so


def _model(
    served: ServedModel,
    info: Info,
    created: Created,
    key_of: Callable[[ServedModel], str | None],
    closing: bool,
) -> Model:
    config, options = served.config, served.config.options
    workers = tuple(_workers(served, info, key_of(served) if config.attached else None, closing))
    state, reason = (State.STOPPED, "the fleet goes down") if closing else _state(served)
    facts = [engine_facts(w, info(w.id), options) for w in served.own]
    longest = next((f.max_model_len for f in facts if f.max_model_len), None)
    return Model(
        name=served.name,
        aliases=tuple(config.aliases),
        adapters=adapters(options.get("lora_modules")),
        state=state.value,
        reason=reason,
        ready_in_s=_ready_in_s(served),
        on_demand=config.on_demand and not closing and not is_in_vain(served),
        created=created(served),
        max_model_len=longest,
        engine_priority=options.get("scheduling_policy") == "priority",
        sampling=dict(config.sampling),
        weights=_weights(served),
        limits=_limits(config.limits),
        workers=workers,
    )


def is_in_vain(served: ServedModel) -> bool:
    """Whether a request brings about nothing: watched already, or just found not to wake."""
    if served.config.attached:
        return bool(served.workers)
    return served.state is State.ASLEEP and any(w.view.reason for w in served.workers.values())


def _limits(wanted: WantedLimits) -> Limits:
    return Limits(
        queue=wanted.queue,
        queue_bytes=wanted.queue_bytes,
        queue_s=wanted.queue_timeout_s,
        cold_s=wanted.cold_timeout_s,
        request_s=wanted.request_timeout_s,
        body=wanted.body,
        max_tokens=wanted.max_tokens,
        concurrency=wanted.concurrency,
    )


def _workers(
    served: ServedModel, info: Info, api_key: str | None, closing: bool
) -> Iterator[Worker]:
    for actor in served.workers.values():
        if not (actor.serves or actor.state is State.DRAINING):
            continue
        place = _place(actor)
        if place is None:
            continue
        facts = engine_facts(actor, info(actor.id), served.config_of(actor.id)[0].options)
        spec = actor.spec
        yield Worker(
            id=actor.id,
            host=place[0],
            port=place[1],
            revision=spec.revision if spec is not None else served.revision,
            slots=facts.max_num_seqs or SLOTS,
            gpus=len(actor.view.gpus),
            draining=closing or actor.state in _NOTHING_NEW,
            api_key=api_key,
        )


def _weights(served: ServedModel) -> dict[int, float]:
    """Shares of requests by revision; beside a canary the others share what it leaves them.

    A worker that was adopted may be of an earlier revision than its model.
    """
    canary = served.canary
    if canary is None:
        return dict(served.config.weights)
    others = Counter(
        actor.spec.revision if actor.spec is not None else served.revision
        for actor in served.own
        if actor.serves
    )
    rest = (1.0 - canary.share) / (others.total() or 1)
    shares = {revision: count * rest for revision, count in others.items()}
    return {**shares, canary.revision: canary.share}


def _place(actor: Actor) -> tuple[str, int] | None:
    """Host and port of a worker; `None` where it is reached by TLS, which workers are not."""
    url = actor.view.url
    parts = urlsplit(url or "")
    if parts.scheme != "http" or parts.hostname is None:
        return None
    return parts.hostname, parts.port or _PUBLISHED[parts.scheme]


def _state(served: ServedModel) -> tuple[State, str | None]:
    """The state of a model as its clients are told it, and why it is not ready."""
    if any(actor.serves and actor.state not in _NOTHING_NEW for actor in served.workers.values()):
        if any(_place(actor) is not None for actor in served.workers.values()):
            return State.READY, None
        return State.FAILED, "its server is reached by https, which the gateway does not speak"
    state = served.state
    for actor in served.workers.values():
        view = actor.view
        if view.state == state:
            if view.failure is not None and state is not State.STARTING:
                return state, f"{view.failure.cause}: {view.failure.line}"
            return state, view.reason
    return state, None


def _ready_in_s(served: ServedModel) -> float | None:
    """Seconds that the soonest start still takes, by earlier ones; `None` if nobody knows."""
    left = []
    for actor in served.workers.values():
        view = actor.view
        if view.state == State.STARTING and view.expected_s and view.elapsed_s is not None:
            left.append(max(1.0, view.expected_s - view.elapsed_s))
    return math.ceil(min(left) / _ETA_STEP_S) * _ETA_STEP_S if left else None


def adapters(option: Any) -> tuple[str, ...]:
    """Names of the LoRA adapters in `lora_modules`: NAME=PATH, or JSON with a name (vLLM's own)."""
    given = option if isinstance(option, list) else [option]
    return tuple(name for one in given if (name := _adapter(one)) is not None)


def _adapter(one: Any) -> str | None:
    if isinstance(one, str) and one.lstrip().startswith("{"):
        try:
            one = json.loads(one)
        except ValueError:
            return None
    if isinstance(one, dict):
        name = one.get("name")
        return name if isinstance(name, str) else None
    if isinstance(one, str) and "=" in one:
        return one.partition("=")[0]
    return None


def since_epoch(at: str) -> int:
    """Whole seconds since the epoch of an ISO 8601 time; 0 for what is none."""
    try:
        return int(datetime.fromisoformat(at).timestamp())
    except ValueError:
        return 0
