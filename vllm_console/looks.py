"""What one looks at before acting: a model's configuration, a load to come, the fleet file.

Wire types of the control API's commands that change nothing; `snapshot.from_json` reads them.
Unknown is `None`. Stdlib only, as the client of the control API imports it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of a model's effective configuration."""

    key: str
    """Dotted, as fleet.toml writes it: "options.max_num_seqs"."""
    value: str
    """As TOML; of a secret only where it lies."""
    origin: str
    """`fleet.toml:12`, a variable, `--set` or `built-in`."""
    layer: str
    """"built-in", "defaults", "model", "environment" or "command line"."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable that a worker gets from its model."""

    name: str
    value: str | None
    """`None` for a secret, or what looks like one: it is never told."""
    origin: str


@dataclass(frozen=True, slots=True)
class Configured:
    """What a model is set to, and where each value comes from."""

    model: str
    revision: int
    settings: tuple[Setting, ...]
    environment: tuple[Variable, ...]
    as_the_file: bool = True
    """Whether the workers' revision is what the fleet file said when it was last applied."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What a load would take of one GPU."""

    index: int
    name: str
    total_bytes: int | None
    used_bytes: int | None
    wanted_bytes: int | None
    """What vLLM would claim: `gpu_memory_utilization` of the whole."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What loading a model would take, before it is done."""

    model: str
    revision: int
    workers: int
    """Workers that would start."""
    gpus: tuple[Cut, ...] = ()
    """The GPUs of the first of them."""
    device: str = "gpu"
    """"gpu" or "cpu"."""
    weights_bytes: int | None = None
    """Of its files on this disk; `None` for what is still to be fetched."""
    host_free_bytes: int | None = None
    expected_s: float | None = None
    """Seconds that earlier starts of this revision took; `None` before the first."""
    waits_for: tuple[str, ...] = ()
    """Workers whose start or stop has to end first, as they use the same GPUs."""
    refused: tuple[str, ...] = ()
    """Why it could not start now, with what to do about each."""
    notes: tuple[str, ...] = ()
    """What could not be told beforehand."""
    engine: str | None = None
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trouble:
    """One problem of the fleet file."""

    line: int | None
    """From 1; `None` for what has no line."""
    key: str
    text: str


@dataclass(frozen=True, slots=True)
class FileChange:
    """What applying the file would do to one model."""

    model: str
    kind: str
    """"add", "remove", "restart", "update" or "end-canary"."""
    what: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FleetFile:
    """The fleet file as it lies on the disk, and what is wrong with it."""

    path: str
    lines: tuple[str, ...]
    problems: tuple[Trouble, ...] = ()
    notes: tuple[str, ...] = ()
    changes: tuple[FileChange, ...] = ()
    """What applying it would do; empty where it has problems."""
    digest: str | None = None
    """What agrees to these changes."""
