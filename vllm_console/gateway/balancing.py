"""Which worker of a model gets the next request.

Least outstanding tokens, with the prefix cache in mind: a request whose session or leading text is
known goes to the worker that this text always goes to, if that one has a place free and is not
loaded above 1.25 times the mean, else to the next in its order: consistent hashing with bounded
loads (Mirrokni, Thorup, Zadimoghaddam, 2016; KubeAI's CHWBL and its 125 %), here by rendezvous
hashing, which needs no ring and agrees with itself after a restart. A worker that fails is left out
for a while, as Envoy's outlier detection does, and comes back through one trial request.

Nothing here knows a clock or does I/O: `now` is `time.monotonic()`, in seconds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import final
from zlib import crc32

from vllm_console.gateway.table import Worker

LOAD_BOUND = 1.25
"""Affinity holds up to this many times the mean load; KubeAI's default."""
STRIKES = 3
"""Failures in a row that put a worker out."""
OUT_FIRST_S = 2.0
OUT_MOST_S = 60.0
"""How long it is out; doubled each time."""
FORGIVEN_S = 300.0
"""A worker that was in for so long starts again at the first of these."""
RETRY_PART = 0.2
"""Retries a request, in the long run."""
RETRIES_S = 3.0
"""Retries a second that are always allowed."""
RETRIES_KEPT = 30.0
"""Retries that may be saved up; more while more are in flight, for these may all lose a worker."""

_ODD = 2654435761
_LOW_32 = 0xFFFFFFFF
"""Multiplicative hashing by 2^32 over the golden ratio (Knuth, TAOCP 3, 6.4)."""


@final
class Slot:
    """A worker as the gateway sees it; the same one for as long as its id is in the table.

    >>> mark = slot.begin(tokens, now)
    >>> gpu_seconds = slot.end(tokens, mark, now)
    """

    __slots__ = (
        "_at",
        "_balance",
        "_level",
        "_out",
        "_returned",
        "_seed",
        "_shared",
        "_strikes",
        "_trial",
        "_until",
        "begun",
        "host",
        "id",
        "in_flight",
        "port",
        "revision",
        "tokens",
        "usable",
        "worker",
    )

    def __init__(self, worker: Worker, balance: Balance) -> None:
        self.id = worker.id
        self.worker = worker
        self.host = worker.host
        self.port = worker.port
        self.revision = worker.revision
        self.usable = False
        """It is in the table and not draining."""
        self.in_flight = 0
        self.tokens = 0.0
        """Estimated tokens of the requests in flight."""
        self.begun = 0.0
        """When it was last given one."""
        self._balance = balance
        self._seed = crc32(worker.id.encode())
        self._shared = 0.0
        self._at = 0.0
        self._strikes = 0
        self._out = False
        self._trial = False
        self._until = 0.0
        self._level = 0
        self._returned = 0.0

    def begin(self, tokens: float, now: float) -> float:
        """A request of so many tokens goes to it; the mark that `end` wants back.

        The mark is the GPU-seconds that one request would have been due that ran since ever: their
        integral is kept for all requests together, so that a share is a difference.
        """
        running = self.in_flight
        if running:
            self._shared += self.worker.gpus * (now - self._at) / running
        self._at = now
        self.in_flight = running + 1
        self.tokens += tokens
        self.begun = now
        if self._out and now >= self._until:
            self._trial = True  # the next one only when this one told, or as much later
            self._until = now + self.out_s
        return self._shared

    def end(self, tokens: float, mark: float, now: float) -> float:
        """The request is over; its share of the GPU-seconds since: gpus / in flight, integrated.

        The shares of all requests of a worker add up to the time it was busy, times its GPUs.
        """
        running = self.in_flight
        self._shared += self.worker.gpus * (now - self._at) / running
        self._at = now
        self.in_flight = running - 1
        self.tokens = self.tokens - tokens if running > 1 else 0.0
        return self._shared - mark

    def succeeded(self, now: float) -> None:
        """It has answered: failures are forgotten, and a trial lets it in again."""
        self._strikes = 0
        if self._trial:
            self._restore(now)

    def failed(self, now: float) -> None:
        """It could not be reached, broke off, or answered 502 or 503."""
        self._strikes += 1
        if self._out:
            if self._trial:
                self._put_out(now)
        elif self._strikes >= STRIKES and self._balance.spares(self, now):
            if now - self._returned > FORGIVEN_S:
                self._level = 0
            self._balance.out += 1
            self._put_out(now)

    @property
    def ejected(self) -> bool:
        """It has failed and is left out, or on trial."""
        return self._out

    @property
    def out_s(self) -> float:
        """Seconds for which the present ejection leaves it out."""
        return float(min(OUT_FIRST_S * 2 ** (self._level - 1), OUT_MOST_S))

    def out_for_s(self, now: float) -> float:
        """Seconds until it may be tried again; 0 when it is in, or may be tried now."""
        return max(self._until - now, 0.0) if self._out else 0.0

    def _put_out(self, now: float) -> None:
        self._out, self._trial = True, False
        self._level = min(self._level + 1, 16)
        self._until = now + self.out_s

    def _restore(self, now: float) -> None:
        if self._out:
            self._balance.out -= 1
        self._out = self._trial = False
        self._strikes = 0
        self._returned = now

    def _become(self, worker: Worker, now: float) -> None:
        """Takes what the table says of it now; a worker that started again has a clean record."""
        usable = not worker.draining
        if self.in_flight:
            self._shared += self.worker.gpus * (now - self._at) / self.in_flight
            self._at = now
        anew = (worker.host, worker.port) != (self.host, self.port)
        if anew or not usable or not self.usable:
            self._restore(now)
            self._level = 0
        self.worker = worker
        self.host, self.port, self.revision = worker.host, worker.port, worker.revision
        self.usable = usable


@final
class Balance:
    """The workers of one model."""

    __slots__ = (
        "_credit",
        "_retries",
        "_retries_at",
        "_retries_picked",
        "_usable",
        "_weights",
        "out",
        "picked",
        "slots",
    )

    def __init__(self) -> None:
        self.slots: dict[str, Slot] = {}
        """By id: all of the table, and those gone from it that still have requests in flight."""
        self.out = 0
        """How many usable ones are ejected."""
        self.picked = 0
        self._usable: tuple[Slot, ...] = ()
        self._weights: dict[int, float] = {}
        self._credit: dict[int, float] = {}
        self._retries = RETRIES_KEPT
        self._retries_at: float | None = None
        self._retries_picked = 0

    def configure(
        self, workers: Sequence[Worker], weights: Mapping[int, float], now: float
    ) -> None:
        """Takes the workers of a new table; requests in flight are not touched.

        `weights` are shares of requests by revision, relative to each other: 1 where a revision is
        not named, and without effect while all workers are of one.
        """
        before, self.slots = self.slots, {}
        for worker in workers:
            slot = before.pop(worker.id, None) or Slot(worker, self)
            slot._become(worker, now)
            self.slots[worker.id] = slot
        for slot in before.values():
            slot._restore(now)
            slot.usable = False
            if slot.in_flight:
                self.slots[slot.id] = slot
        self._usable = tuple(slot for slot in self.slots.values() if slot.usable)
        out = sorted((slot for slot in self._usable if slot._out), key=lambda slot: slot._until)
        for slot in out[: max(len(out) - len(self._usable) // 2, 0)]:
            slot._restore(now)
        revisions = {slot.revision for slot in self._usable}
        self._weights = {}
        if weights and len(revisions) > 1:
            self._weights = {each: max(weights.get(each, 1.0), 0.0) for each in sorted(revisions)}
        self._credit = {each: self._credit.get(each, 0.0) for each in self._weights}

    @property
    def usable(self) -> tuple[Slot, ...]:
        """Those that may be picked, ejected ones among them."""
        return self._usable

    @property
    def capacity(self) -> int:
        """Requests that all usable ones run side by side."""
        return sum(slot.worker.slots for slot in self._usable)

    @property
    def in_flight(self) -> int:
        """Requests at all workers, draining and gone ones too."""
        return sum(slot.in_flight for slot in self.slots.values())

    @property
    def policy(self) -> str:
        """How requests are spread, for people."""
        if not self._weights:
            return "least outstanding, prefix affinity"
        total = sum(self._weights.values()) or 1.0
        shares = " ".join(f"{each}:{w / total:.0%}" for each, w in self._weights.items())
        return f"least outstanding, prefix affinity, by revision {shares}"

    def spares(self, slot: Slot, now: float) -> bool:
        """Whether one may be put out: never more than half of the usable ones are.

        Where that many are, the one that is due soonest comes back in its stead: what failed just
        now says more than what failed a while ago, and one that fails at once is always the least
        loaded.
        """
        most = len(self._usable) // 2
        if not slot.usable or not most:
            return False
        if self.out >= most:
            min((s for s in self._usable if s._out), key=lambda s: s._until)._restore(now)
        return True

    def pick(
        self, prefix: int, session: int, now: float, tried: Collection[Slot] = ()
    ) -> Slot | None:
        """The worker for a request; `None` when there is none but those `tried`.

        `prefix` and `session` are hashes of 32 bits, 0 where there is nothing to go by; a session
        goes before a prefix. An ejected worker is picked when it is due for its trial, or when
        there is no other. Weights of revisions go before places: a share is a share.
        """
        self.picked += 1
        slots: Sequence[Slot] = self._usable
        if self.out or tried:
            fresh = [slot for slot in slots if slot not in tried]
            slots = [slot for slot in fresh if not slot._out or slot._until <= now] or fresh
        if len(slots) < 2:
            return slots[0] if slots else None
        if self._weights:
            slots = self._of_a_revision(slots, session)
        key = session or prefix
        if not key:
            return _least(slots)
        total = 0.0
        best = slots[0]
        highest = -1
        for slot in slots:
            total += slot.tokens
            rank = (key ^ slot._seed) * _ODD & _LOW_32
            if rank > highest:
                best, highest = slot, rank
        bound = LOAD_BOUND * total / len(slots)
        if best.tokens <= bound and best.in_flight < best.worker.slots:
            return best
        ranked = sorted(slots, key=lambda slot: (key ^ slot._seed) * _ODD & _LOW_32, reverse=True)
        room = (s for s in ranked if s.tokens <= bound and s.in_flight < s.worker.slots)
        return next(room, None) or _least(slots)

    def may_retry(self, now: float) -> bool:
        """Whether one more request may be sent again; True takes it from the budget.

        The budget grows by a fifth of the requests and by 3 a second, and may be saved up to 30, or
        to the number in flight: when a worker dies, all that it had may move once, but what fails
        everywhere is not multiplied (as in Finagle's and Linkerd's retry budgets).
        """
        since = now if self._retries_at is None else self._retries_at
        earned = RETRIES_S * (now - since) + RETRY_PART * (self.picked - self._retries_picked)
        self._retries = min(self._retries + earned, max(RETRIES_KEPT, float(self.in_flight)))
        self._retries_at, self._retries_picked = now, self.picked
        if self._retries < 1.0:
            return False
        self._retries -= 1.0
        return True

    def _of_a_revision(self, slots: Sequence[Slot], session: int) -> Sequence[Slot]:
        """The slots of the revision whose turn it is.

        Without a session by smooth weighted round robin, as in nginx; a session stays with its own.
        """
        present = {slot.revision for slot in slots}
        if len(present) < 2:
            return slots
        weights = {each: weight for each, weight in self._weights.items() if each in present}
        total = sum(weights.values())
        if not total:
            return slots
        chosen = (
            _at(weights, (session * _ODD & _LOW_32) / (_LOW_32 + 1) * total)
            if session
            else self._turn(weights, total)
        )
        return [slot for slot in slots if slot.revision == chosen]

    def _turn(self, weights: Mapping[int, float], total: float) -> int:
        credit = self._credit
        for each, weight in weights.items():
            credit[each] += weight
        chosen = max(weights, key=credit.__getitem__)
        credit[chosen] -= total
        return chosen


def _least(slots: Iterable[Slot]) -> Slot:
    """The one with the least work before it; of equal ones the one that has rested longest.

    One with a place free goes before all that are full: there a request would wait behind others
    in the engine's own queue, which knows no classes.
    """
    return min(
        slots,
        key=lambda slot: (
            slot.in_flight >= slot.worker.slots,
            slot.tokens,
            slot.in_flight,
            slot.begun,
        ),
    )


def _at(weights: Mapping[int, float], point: float) -> int:
    """The revision whose part of the line from 0 to the sum of weights holds the point."""
    revision = 0
    for revision, weight in weights.items():
        if point < weight:
            return revision
        point -= weight
    return revision
