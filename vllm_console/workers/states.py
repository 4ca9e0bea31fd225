"""The names of a worker's states and the groups they form. Stdlib only; depends on nothing."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a worker is in its life (also the state of a model: its most telling worker)."""

    STOPPED = "stopped"
    """Not running and not wanted."""
    QUEUED = "queued"
    """Wanted; waits for something named in `reason` (a GPU, another start on the same GPU)."""
    STARTING = "starting"
    """The process runs and is not ready; `stage` says how far vLLM got."""
    READY = "ready"
    """/health 200, /v1/models lists the name, and the listening socket is ours."""
    STALLED = "stalled"
    """Requests are running and no iteration has finished for a while, though /health says 200."""
    ASLEEP = "asleep"
    """vLLM sleep mode: the process lives, its weights are off the GPU."""
    DRAINING = "draining"
    """No new requests; those in flight finish."""
    STOPPING = "stopping"
    """Signalled; waits until no process of the tree is left and its memory is back."""
    FAILED = "failed"
    """Ended by a cause that a retry cannot mend; `failure` says which."""
    BACKOFF = "backoff"
    """Ended unasked; starts again at the time in `reason`."""
    CRASH_LOOP = "crash-loop"
    """Three starts in a row never served; waits for a person or a new revision."""


RUNNING = frozenset(
    {State.STARTING, State.READY, State.STALLED, State.ASLEEP, State.DRAINING, State.STOPPING}
)
"""A process tree exists."""
SERVING = frozenset({State.READY, State.STALLED})
"""Has been ready and takes requests."""
LOADING = frozenset({State.QUEUED, State.STARTING, State.BACKOFF})
"""On its way to ready by itself."""
ENDED = frozenset({State.STOPPED, State.FAILED, State.CRASH_LOOP})
"""Stays as it is until somebody acts."""


class Cause(StrEnum):
    """Why a worker ended, as far as its exit and its log tell."""

    BAD_OPTION = "bad-option"
    PORT_IN_USE = "port-in-use"
    MODEL_NOT_FOUND = "model-not-found"
    GATED_MODEL = "gated-model"
    WEIGHTS_BROKEN = "weights-broken"
    UNSUPPORTED_MODEL = "unsupported-model"
    KV_TOO_SMALL = "kv-too-small"
    OUT_OF_MEMORY = "out-of-memory"
    ENGINE_DIED = "engine-died"
    ENGINE_MISSING = "engine-missing"
    ENGINE_UNFIT = "engine-unfit"
    """The engine was not built for this GPU or this driver."""
    GPU_FAULT = "gpu-fault"
    DRIVER_SILENT = "driver-silent"
    """The GPU driver owes an answer, so that nobody knows which GPUs are free."""
    NO_FREE_GPU = "no-free-gpu"
    """Other workers have the GPUs that it needs; it starts once enough of them are free."""
    NCCL_FAILED = "nccl-failed"
    """The GPUs of one worker do not reach each other."""
    DISK_FULL = "disk-full"
    HUB_UNREACHABLE = "hub-unreachable"
    KILLED = "killed"
    TIMED_OUT = "timed-out"
    UNKNOWN = "unknown"


PERMANENT = frozenset(
    {
        Cause.BAD_OPTION,
        Cause.MODEL_NOT_FOUND,
        Cause.GATED_MODEL,
        Cause.WEIGHTS_BROKEN,
        Cause.UNSUPPORTED_MODEL,
        Cause.KV_TOO_SMALL,
        Cause.ENGINE_MISSING,
        Cause.ENGINE_UNFIT,
    }
)
"""Configuration errors: starting again would end the same way."""

PASSING = frozenset({Cause.DRIVER_SILENT, Cause.NO_FREE_GPU})
"""Nothing of the worker's own: tried again for as long as it lasts, never a crash loop."""
