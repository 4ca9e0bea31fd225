"""The routing table: everything the gateway knows of the fleet, one immutable, numbered value.

The daemon makes it and sends it as JSON; the gateway keeps the newest, in memory and on disk, and
serves from it while no daemon runs. A key it does not know is passed over, a missing one defaulted,
so that daemon and gateway may be of neighbouring versions.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that may be given requests."""

    id: str
    host: str = "127.0.0.1"
    port: int
    revision: int
    slots: int = 256
    """Requests it runs side by side: its `max_num_seqs`."""
    gpus: int = 0
    """GPUs it holds; what GPU-seconds are counted from."""
    draining: bool = False
    """It finishes what it has and is given nothing new."""
    api_key: str | None = None
    """What it wants as its bearer; only attached servers do. Never written to a file."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one model lets in."""

    queue: int = 512
    """Requests that may wait, all classes together."""
    queue_bytes: int = 256 << 20
    """Bytes of bodies that may wait."""
    queue_s: float = 60.0
    """Seconds one may wait for a worker that is ready."""
    cold_s: float = 600.0
    """Seconds one may wait for a model that has to be loaded first."""
    request_s: float = 3600.0
    """Seconds an answer may take, from its first attempt to its last byte."""
    body: int = 64 << 20
    """Bytes of a request's body."""
    max_tokens: int | None = None
    """What a request may ask for as `max_tokens`; a greater or absent one becomes this."""
    concurrency: int | None = None
    """Requests in flight over all workers; `None` is the sum of their slots."""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the fleet, whether or not a worker of it runs."""

    name: str
    aliases: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    """LoRA adapters its workers serve, by the names clients use."""
    state: str = "stopped"
    """As in `status --json`: ready, starting, stopped, failed …"""
    reason: str | None = None
    """Why it is not ready, one line."""
    ready_in_s: float | None = None
    """Seconds until a start that goes on is expected to be ready."""
    on_demand: bool = True
    """Whether a request for it while it is not loaded loads it."""
    created: int = 0
    """Seconds since the epoch: since when this revision is known, for /v1/models."""
    max_model_len: int | None = None
    engine_priority: bool = False
    """Whether its engine schedules by priority, and is told the class."""
    sampling: dict[str, Any] = {}
    """Request parameters that are filled in where a request is silent."""
    weights: dict[int, float] = {}
    """Shares of requests by revision, where they are not to be equal."""
    limits: Limits = Limits()
    workers: tuple[Worker, ...] = ()


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """All models, and what holds for the endpoint as a whole."""

    version: int
    """Grows with each change; an older one never replaces a newer of the same daemon start."""
    fleet: str = "fleet"
    anonymous: bool = True
    """Whether requests without a key are served."""
    gpu_hour_cost: float | None = None
    """Price of one GPU for one hour."""
    cors: tuple[str, ...] = ()
    """Origins that browsers may call from; "*" is any."""
    access_log: bool = False
    """Whether each request is written, without its text, as a line of `access.jsonl`."""
    models: tuple[Model, ...] = ()


_DECODER = msgspec.json.Decoder(Table)


def encoded(table: Table) -> bytes:
    """The table as JSON."""
    return msgspec.json.encode(table)


def decoded(text: bytes) -> Table:
    """The table of a JSON text. Raises `ValueError` of one line where it is none."""
    try:
        return _DECODER.decode(text)
    except msgspec.DecodeError as error:  # a ValidationError is one too
        raise ValueError(f"not a routing table: {error}") from error
