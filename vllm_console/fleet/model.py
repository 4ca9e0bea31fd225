"""The fleet as it is wanted: frozen, checked values that every other room reads.

A field that ends in `_s` is a duration in seconds; in the file its key has no `_s` and its value is
a text such as "15m".
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    Strict,
    StringConstraints,
)

from vllm_console.fleet.duration import parse_duration
from vllm_console.fleet.problems import shown
from vllm_console.fleet.secrets import Secret
from vllm_console.fleet.size import parse_size

_HISTORY_MIN = 10 * 10**6
"""Less than this would hold no hour of a large fleet."""


def _seconds(value: object) -> object:
    """A duration's text as seconds; numbers, as they come from code and JSON, pass."""
    return parse_duration(value) if isinstance(value, str) else value


def _bytes(value: object) -> object:
    """A size's text as bytes; numbers are bytes already."""
    size = parse_size(value) if isinstance(value, str) else value
    if isinstance(size, int) and size < _HISTORY_MIN:
        raise ValueError(f"must be at least {_HISTORY_MIN // 10**6}MB")
    return size


def _amount(value: object) -> object:
    """A size's text as bytes, with no least."""
    return parse_size(value) if isinstance(value, str) else value


def _shares(value: object) -> object:
    """Shares by revision: a TOML key is a text, a revision a whole number."""
    if not isinstance(value, dict):
        return value
    wrong = [key for key in value if not re.fullmatch(r"[1-9][0-9]*", str(key))]
    if wrong:
        raise ValueError(f'"{wrong[0]}" is no revision; write {{ "4" = 10, "5" = 90 }}')
    return {int(key): share for key, share in value.items()}


def _gpus(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise ValueError(f'must be a number of GPUs or "auto", not {shown(value)}')


def _secret(value: object) -> object:
    """A reference to a secret; the message never repeats what stands there instead of one."""
    if isinstance(value, Secret):
        return value
    given = {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else {}
    match given:
        case {"file": str(file)} if len(given) == 1 and file:
            return Secret(file=file)
        case {"env": str(variable)} if len(given) == 1 and variable:
            return Secret(env=variable)
    raise ValueError('a secret is given as { file = "…" } or { env = "…" }')


def _variable(value: object) -> object:
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float)):
        raise ValueError("must be a text: put the value in quotes")
    return _secret(value)


Duration = Annotated[float, Field(gt=0), BeforeValidator(_seconds)]
DurationOrZero = Annotated[float, Field(ge=0), BeforeValidator(_seconds)]
Size = Annotated[int, BeforeValidator(_bytes)]
Amount = Annotated[int, Field(ge=1), BeforeValidator(_amount)]
Share = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Folder = Annotated[Path, Strict(False)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Alias = Annotated[str, StringConstraints(pattern=r"^[^\s-]\S*$", max_length=200)]
Source = Annotated[str, StringConstraints(pattern=r"^([^\s-][^\n]*)?$")]
Port = Annotated[int, Field(ge=1, le=65535)]
AnyPort = Annotated[int, Field(ge=0, le=65535)]
Reference = Annotated[Secret, BeforeValidator(_secret)]
Variable = Annotated[str | Secret, BeforeValidator(_variable)]


def is_loopback(host: str) -> bool:
    """Whether an address is one that only this machine reaches."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class _Wanted(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Slo(_Wanted):
    """Latency targets in seconds; `None` where the file sets none."""

    ttft_p95_s: Duration | None = None
    itl_p95_s: Duration | None = None
    e2e_p95_s: Duration | None = None


class Scale(_Wanted):
    """How many workers a model may have."""

    min: Annotated[int, Field(ge=0)] = 1
    max: Annotated[int, Field(ge=1)] = 1
    target: Annotated[float, Field(gt=0)] | None = None
    """Requests in flight and queued a worker."""


class Limits(_Wanted):
    """What the gateway lets in for one model; the fields of `gateway.table.Limits`."""

    queue: Annotated[int, Field(ge=0)] = 512
    """Requests that may wait, all classes together."""
    queue_bytes: Amount = 256 << 20
    """Bytes of bodies that may wait."""
    queue_timeout_s: Duration = 60.0
    """How long one may wait for a worker that is ready."""
    cold_timeout_s: Duration = 600.0
    """How long one may wait for a model that has to be loaded first."""
    request_timeout_s: Duration = 3600.0
    """How long an answer may take."""
    body: Amount = 64 << 20
    """Bytes of a request's body."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """What a request may ask for; a greater or absent number becomes this."""
    concurrency: Annotated[int, Field(ge=1)] | None = None
    """Requests in flight over all workers; without it, what their engines batch."""


class Gateway(_Wanted):
    """The OpenAI endpoint of the fleet."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: AnyPort = 4000
    """0 is any that is free."""
    tls_cert: Folder | None = None
    """The file of the certificate and its chain (PEM); a changed one is read again."""
    tls_key: Folder | None = None
    cors: Annotated[tuple[str, ...], Strict(False)] = ()
    """Origins whose pages may call it; "*" is any."""
    access_log: bool = False
    """Whether each request is a line of access.jsonl, without its text."""
    keys: dict[str, Reference] = {}
    """Keys that clients may use, by a name that stands for the client."""
    allow_anonymous: bool | None = None
    """Whether requests without a key are served; unset, only where no other machine reaches."""

    @property
    def anonymous(self) -> bool:
        """Whether requests without a key are served."""
        return is_loopback(self.host) if self.allow_anonymous is None else self.allow_anonymous


class History(_Wanted):
    """What is kept of the past."""

    max_size: Size = 2 * 10**9
    """Bytes that history.sqlite may take; the finest of the oldest goes first."""


class Metrics(_Wanted):
    """The daemon's own /metrics for a Prometheus; always on the control socket."""

    port: Port | None = None
    """A port on 127.0.0.1 that answers /metrics, and nothing else, too."""


class Ui(_Wanted):
    """How the console looks."""

    panels: Folder | None = None
    """A folder of panel files in place of the ones that ship."""


class ModelConfig(_Wanted):
    """A named entry of the fleet: what to serve and how."""

    name: Name
    source: Source = ""
    """Hub id, local directory, or tiny:SIZE; empty for a worker that is only watched."""
    engine: Annotated[str, StringConstraints(min_length=1)] = "vllm"
    """An engine environment's name, a path to a `vllm` program, or "attach"."""
    url: str | None = None
    """Where the worker is that engine = "attach" watches."""
    api_key: Reference | None = None
    """The key that a watched server wants (its `--api-key`)."""
    aliases: Annotated[tuple[Alias, ...], Strict(False)] = ()
    gpus: Annotated[int | Literal["auto"], BeforeValidator(_gpus)] = "auto"
    """GPUs of one worker; "auto" is what the engine options ask for."""
    devices: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Strict(False)] | None = None
    """GPU indexes that its workers use, in place of `gpus`."""
    autostart: bool = True
    pinned: bool = False
    """Never evicted."""
    on_demand: bool = True
    """Whether a request for it loads it while it is not loaded."""
    idle_unload_s: Duration | None = None
    sleep_level: Literal[1, 2] | None = None
    """How deep its workers can be put to sleep: 1 keeps the weights in host memory, 2 does not."""
    trust_remote_code: bool = False
    drain_timeout_s: DurationOrZero = 30.0
    start_timeout_s: Duration = 1800.0
    stall_after_s: Duration = 30.0
    """A worker that finishes no iteration for this long while requests run is stalled."""
    on_stall: Literal["report", "restart"] = "report"
    options: dict[str, Any] = {}
    """`vllm serve` options, snake_case."""
    env: dict[str, Variable] = {}
    sampling: dict[str, Any] = {}
    """Request parameters that the gateway fills in where a request is silent."""
    slo: Slo = Slo()
    scale: Scale | None = None
    limits: Limits = Limits()
    weights: Annotated[dict[int, Share], BeforeValidator(_shares)] = {}
    """Shares of the requests by revision, where they are not to be equal."""

    @property
    def workers(self) -> int:
        """How many workers a load starts: `scale.min`, at least one."""
        return max(1, self.scale.min) if self.scale else 1

    @property
    def attached(self) -> bool:
        """Whether its worker is only watched, never started or stopped."""
        return self.engine == ATTACH


ATTACH = "attach"
"""The engine of a model whose worker somebody else runs."""


WATCHED_KEYS = ("source", "engine", "url", "api_key", "aliases", "sampling", "slo", "limits")
"""Keys with a meaning for a worker that is only watched."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from."""

    layer: Literal["built-in", "defaults", "model", "environment", "command line"]
    place: str
    """`fleet.toml:12`, `VLLM_CONSOLE_…`, `--set` or `built-in`."""
    line: int | None = None


BUILT_IN = Origin("built-in", "built-in")


class Fleet(_Wanted):
    """Everything one fleet.toml describes."""

    name: Name = "fleet"
    path: Folder | None = None
    """The file it was read from; relative paths in it start there."""
    state_dir: Folder | None = None
    gpu_hour_cost: Annotated[float, Field(ge=0)] | None = None
    """Price of one GPU for one hour."""
    gateway: Gateway = Gateway()
    history: History = History()
    metrics: Metrics = Metrics()
    ui: Ui = Ui()
    models: dict[str, ModelConfig] = {}

    _origins: dict[str, dict[tuple[str, ...], Origin]] = PrivateAttr(default_factory=dict)


DURATIONS = {
    field.removesuffix("_s"): field
    for kind in (ModelConfig, Slo, Limits)
    for field in kind.model_fields
    if field.endswith("_s")
}
"""Keys of the file whose values are durations, and the fields that hold them in seconds."""
_KEYS = {field: key for key, field in DURATIONS.items()}


def key_of(field: str) -> str:
    """The key in the file of a field: durations lose their `_s`."""
    return _KEYS.get(field, field)
