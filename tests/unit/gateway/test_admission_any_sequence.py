"""No sequence of events loses one who waits, tells one twice, or breaks a bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vllm_console.gateway.admission import (
    GUARD_PART,
    HIGH,
    LOW,
    NORMAL,
    SHARES,
    Queue,
    Reason,
    Waiting,
)
from vllm_console.gateway.table import Limits

CLASSES = (HIGH, NORMAL, LOW)


@dataclass
class Guest:
    number: int
    cls: int
    size: int
    since: float
    one: Waiting | None = None
    state: Literal["waiting", "in", "refused", "gone", "done"] = "waiting"
    reason: Reason | None = None
    quick: bool = False
    told: int = 0


class AnySequence(RuleBasedStateMachine):
    """Anything that may happen to a queue, in any order, with callbacks that call back."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.queue = Queue()
        self.guests: list[Guest] = []
        self.limits = Limits()
        self.longest = 0.0
        """Seconds that any of the limits so far let one wait."""
        self.closed = False
        self.configure(2, 4, 200, 10.0)

    def of(self, state: str) -> list[Guest]:
        return [guest for guest in self.guests if guest.state == state]

    @rule(
        capacity=st.integers(0, 9),
        queue=st.integers(0, 30),
        queue_bytes=st.integers(0, 300),
        queue_s=st.floats(1.0, 20.0),
    )
    def configure(self, capacity: int, queue: int, queue_bytes: int, queue_s: float) -> None:
        limits = Limits(queue=queue, queue_bytes=queue_bytes, queue_s=queue_s, cold_s=queue_s * 3)
        self.longest = max(self.longest, limits.queue_s + limits.cold_s)
        self.limits = limits
        self.queue.configure(capacity, limits, self.now)

    @rule(cls=st.sampled_from(CLASSES), size=st.integers(0, 120), quick=st.booleans())
    def come(self, cls: int, size: int, quick: bool) -> None:
        guest = Guest(len(self.guests), cls, size, self.now, quick=quick)
        self.guests.append(guest)
        before = self.queue.in_flight
        if self.queue.enter(cls, self.now):
            assert before < self.queue.capacity
            assert not any(each.cls <= cls for each in self.of("waiting") if each is not guest)
            guest.state = "in"
            return

        def admitted() -> None:
            guest.told += 1
            assert guest.state == "waiting"
            # first come first served, within a class
            assert not any(
                each.cls == cls and each.number < guest.number for each in self.of("waiting")
            )
            guest.state = "in"
            if guest.quick:
                self.leave(guest)

        def refused(reason: Reason) -> None:
            guest.told += 1
            assert guest.state == "waiting"
            guest.state, guest.reason = "refused", reason
            if reason in ("timeout", "cold-timeout"):
                assert self.now - guest.since >= self.limits.queue_s

        guest.one = Waiting(cls, size, self.now, admitted, refused)
        ahead = [g for g in self.of("waiting") if g is not guest and g.cls <= cls]
        reason = self.queue.wait(guest.one)
        if reason is not None:
            assert guest.told == 0
            # nobody is refused for the sake of a lower class, but for what is kept for it
            kept = sum(int(SHARES[lower] * self.limits.queue) for lower in CLASSES[cls + 1 :])
            of_bytes = sum(g.size for g in ahead) + size > self.limits.queue_bytes
            full = len(ahead) + kept >= self.limits.queue
            assert reason == ("closing" if self.closed else "bytes" if of_bytes else "full")
            assert self.closed or of_bytes or full
            guest.state, guest.reason = "refused", reason
            return
        assert sum(self.queue.waiting) <= self.limits.queue
        assert self.queue.waiting_bytes <= self.limits.queue_bytes

    def leave(self, guest: Guest) -> None:
        guest.state = "done"
        self.queue.done(self.now)

    @precondition(lambda self: self.of("in"))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.leave(data.draw(st.sampled_from(self.of("in"))))

    @precondition(lambda self: self.of("waiting"))
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        guest = data.draw(st.sampled_from(self.of("waiting")))
        assert guest.one is not None
        assert self.queue.withdraw(guest.one)
        guest.state = "gone"

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.5, 3.0, 61.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        next_at = self.queue.expire(self.now)
        assert next_at is None or next_at > self.now
        assert (next_at is None) == (not self.of("waiting"))
        assert all(self.now - guest.since <= self.longest for guest in self.of("waiting"))

    @precondition(lambda self: not self.closed)
    @rule(sure=st.integers(0, 20))
    def close(self, sure: int) -> None:
        if sure == 0:
            self.closed = True
            self.queue.close()
            assert not self.of("waiting")

    @rule()
    def turn_away(self) -> None:
        if len(self.of("waiting")) > 6:
            self.queue.turn_away("no-worker")
            assert not self.of("waiting")

    @invariant()
    def nobody_is_lost_or_told_twice(self) -> None:
        waiting = self.of("waiting")
        assert self.queue.in_flight == len(self.of("in"))
        assert sum(self.queue.waiting) == len(waiting)
        assert self.queue.waiting == tuple(sum(g.cls == cls for g in waiting) for cls in CLASSES)
        assert self.queue.waiting_bytes == sum(guest.size for guest in waiting)
        assert all(guest.told <= 1 for guest in self.guests)
        entered = [g for g in self.guests if g.state in ("in", "done")]
        assert self.queue.admitted == [sum(g.cls == cls for g in entered) for cls in CLASSES]
        assert sum(self.queue.refused.values()) == len(self.of("refused"))

    @invariant()
    def no_place_is_left_that_one_who_waits_may_take(self) -> None:
        free = self.queue.capacity - self.queue.in_flight
        if free > 0 and self.of("waiting"):
            assert not self.queue.waiting[HIGH]
            kept = dict(zip((NORMAL, LOW), self.queue.kept_free, strict=True))
            assert all(free <= kept[cls] for cls in (NORMAL, LOW) if self.queue.waiting[cls])
            assert free <= max(self.queue.capacity // GUARD_PART, 1)


AnySequence.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestAnySequence = AnySequence.TestCase
