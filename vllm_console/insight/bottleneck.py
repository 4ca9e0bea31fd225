"""The binding limit: what keeps a model from doing more, second by second."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

from vllm_console.snapshot import Limits

SPAN_S = 300.0
"""Shares are of the last so many seconds."""

KV_FULL = 0.95
"""Share of the KV cache from which on a waiting request waits for memory."""
BUDGET_FULL = 0.9
"""Mean tokens a step, as a share of the budget, from which on the steps are full."""
BUSY = 0.9
"""Utilisation from which on the hardware is what limits."""

KV_MEMORY = "kv-memory"
SEQUENCE_SLOTS = "sequence-slots"
TOKEN_BUDGET = "token-budget"
POWER = "power"
COMPUTE = "compute"
NETWORK = "network"
NONE = "none"
IDLE = "idle"
LIMITS = (KV_MEMORY, SEQUENCE_SLOTS, TOKEN_BUDGET, POWER, COMPUTE, NETWORK)
"""In the order in which they are asked: the first that holds is the one that binds."""


@dataclass(frozen=True, slots=True)
class Second:
    """What one second of one model looked like; `None` is unknown and binds nothing."""

    running: float
    waiting: float
    kv_cache_usage: float | None = None
    preempted: float | None = None
    """Requests pushed out in this second."""
    slots: int | None = None
    """max_num_seqs of all its workers together."""
    step_tokens: float | None = None
    """Mean tokens an engine step of this second."""
    step_budget: int | None = None
    """max_num_batched_tokens of one worker."""
    busy: float | None = None
    """Mean utilisation of its GPUs, or of the host's cores, 0..1."""
    throttled: bool = False
    """A GPU of it is slowed by heat or power."""
    fetching: float | None = None
    """Waiting requests whose KV cache is on its way from another instance."""


def binding(now: Second) -> str:
    """The limit that binds: one of `LIMITS`, or `NONE`, or `IDLE` without a request."""
    if not now.running and not now.waiting:
        return IDLE
    waits = now.waiting > 0
    if now.preempted or (waits and (now.kv_cache_usage or 0.0) >= KV_FULL):
        return KV_MEMORY
    if waits and now.slots and now.running >= now.slots:
        return SEQUENCE_SLOTS
    if now.step_budget and (now.step_tokens or 0.0) >= BUDGET_FULL * now.step_budget:
        return TOKEN_BUDGET
    if now.throttled:
        return POWER
    if (now.busy or 0.0) >= BUSY:
        return COMPUTE
    return NETWORK if now.fetching else NONE


class Binding:
    """The binding limits of one model over the last `SPAN_S`, one a second."""

    def __init__(self, span_s: float = SPAN_S) -> None:
        self._span_s = span_s
        self._kept: deque[tuple[float, str]] = deque()
        self._counts: Counter[str] = Counter()
        self._now: str | None = None

    def add(self, at: float, second: Second | None) -> None:
        """Take in one second, `None` where there was no sample; `at` grows."""
        self._now = None if second is None else binding(second)
        while self._kept and self._kept[0][0] <= at - self._span_s:
            self._counts[self._kept.popleft()[1]] -= 1
        if self._now is not None:
            self._kept.append((at, self._now))
            self._counts[self._now] += 1

    def limits(self, step_s: float = 1.0) -> Limits:
        """Shares of the seconds that were seen, the greatest first; those of 0 are left out."""
        total = len(self._kept)
        shares = {name: number / total for name, number in self._counts.most_common() if number}
        return Limits(self._span_s, total * step_s, self._now, shares or None)
