"""What a launcher takes and gives: the spec of one launch, and a handle on the tree that runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from vllm_console.errors import ConsoleError
from vllm_console.snapshot import Engine, Failure


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """Everything one launch needs, save the environment: that holds secrets and is handed over."""

    worker_id: str
    model: str
    revision: int
    argv: tuple[str, ...]
    port: int
    served_names: tuple[str, ...]
    gpus: tuple[int, ...] = ()
    cwd: str = "/"
    stop_grace_s: float = 40.0
    """Between SIGTERM and SIGKILL; longer than vLLM's own `--shutdown-timeout`."""
    start_timeout_s: float = 1800.0
    log_keep_bytes: int = 64 << 20
    sleep_level: int = 0
    """How deep its engine can be put to sleep, vLLM's levels 1 and 2; 0: not at all."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a main process ended. vLLM exits 0 when its engine dies: `asked` judges, never `rc`."""

    rc: int | None
    """Exit code, negative for a signal; `None` when nobody was there to see it."""
    asked: bool
    at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Served:
    """What is kept of a start that reached ready, for whoever adopts the tree later."""

    at: float
    """Seconds since the epoch when it became ready."""
    took_s: float | None
    """Seconds from launch to ready; `None` when nobody saw it become so."""
    engine: Engine


@dataclass(frozen=True, slots=True)
class Loss:
    """A worker that ended unasked while nobody watched."""

    worker_id: str
    exit: Exit | None
    """`None` when nothing tells how it ended."""
    rebooted: bool
    """The machine was started again since."""


class LaunchFailed(ConsoleError):
    """Nothing was started; `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.line}: {failure.remedy}")
        self.failure = failure


class Handle(Protocol):
    """One process tree that a launcher started, now or in an earlier life of the daemon."""

    @property
    def spec(self) -> LaunchSpec: ...

    @property
    def pid(self) -> int:
        """The main process (`vllm serve`)."""

    @property
    def started_at(self) -> float:
        """Seconds since the epoch."""

    @property
    def age_s(self) -> float:
        """Seconds since it was launched; a change of the wall clock does not move it."""

    @property
    def log(self) -> Path: ...

    @property
    def log_start(self) -> int:
        """Byte offset in `log` at which this start begins."""

    @property
    def served(self) -> Served | None:
        """Set when this tree has been ready before."""

    @property
    def asked(self) -> bool:
        """It had been asked to end when it was found."""

    def alive(self) -> bool:
        """The main process runs."""

    def tree(self) -> list[int]:
        """Pids of the tree, main process first, without the shim; empty when none is left."""

    def stop(self) -> None:
        """SIGTERM to the main process, `stop_grace_s`, SIGKILL to the tree. Returns at once."""

    def kill(self) -> None:
        """SIGKILL to the tree. Returns at once."""

    async def died(self) -> None:
        """Return when the main process has ended; others of the tree may still run."""

    async def gone(self) -> Exit:
        """Return when nothing of the tree is left."""

    def mark_served(self, served: Served) -> None:
        """Note that this tree became ready, and how long that took."""


class Launcher(Protocol):
    """Where workers run: this machine today, others behind the same calls."""

    async def launch(self, spec: LaunchSpec, environment: Mapping[str, str]) -> Handle:
        """Start a worker with exactly this environment; raises `LaunchFailed`.

        Never a second tree: refused while one of this `worker_id` still runs.
        """

    async def adopt(self) -> Sequence[Handle]:
        """Every tree of ours that still runs, ending ones included."""

    def losses(self) -> Sequence[Loss]:
        """What ended unasked while nobody watched; each is told once."""

    def expected_s(self, model: str, revision: int) -> float | None:
        """Seconds from launch to ready of earlier starts; `None` before the first."""

    def log_path(self, worker_id: str) -> Path:
        """The log of a worker, running or not; need not exist."""


def iso(at: float) -> str:
    """Seconds since the epoch as ISO 8601 UTC, whole milliseconds."""
    stamp = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return stamp.removesuffix("+00:00") + "Z"
