"""What an overload by one class means for the others: a simulation in virtual time."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from vllm_console.gateway.admission import HIGH, LOW, NORMAL, Queue, Waiting
from vllm_console.gateway.table import Limits

CLASSES = (HIGH, NORMAL, LOW)


@dataclass
class Seen:
    """What a simulation came to, its first minute left out."""

    waits: tuple[list[float], ...] = ([], [], [])
    busy: float = 0.0
    """Part of all places that was taken."""
    offered: tuple[int, ...] = (0, 0, 0)

    def p95(self, cls: int) -> float:
        return sorted(self.waits[cls])[int(0.95 * len(self.waits[cls]))]

    def waited(self, cls: int) -> float:
        return sum(wait > 0 for wait in self.waits[cls]) / len(self.waits[cls])


def simulated(
    capacity: int,
    load: tuple[float, float, float],
    *,
    service: Callable[[random.Random], float] = lambda rng: rng.expovariate(0.5),
    seconds: float = 600.0,
    batch: int = 1,
) -> Seen:
    """Poisson arrivals (of high ones `batch` at a time) of `load` times what the places can serve.

    A request takes 2 s on average; time is virtual, and the seed always the same.
    """
    rng = random.Random(capacity * 1000 + batch)
    queue = Queue()
    queue.configure(capacity, Limits(), 0.0)
    rates = [part * capacity / 2.0 for part in load]
    rates[HIGH] /= batch
    waits: tuple[list[float], ...] = ([], [], [])
    offered = [0, 0, 0]
    events: list[tuple[float, int, str, int]] = []
    count, now, busy = 0, 0.0, 0.0

    def at(when: float, what: str, cls: int = 0) -> None:
        nonlocal count
        count += 1
        heapq.heappush(events, (when, count, what, cls))

    def begin(cls: int, since: float) -> None:
        if since >= 60.0:
            waits[cls].append(now - since)
        at(now + service(rng), "end")

    def waiting(cls: int, since: float) -> Waiting:
        return Waiting(cls, 1000, since, lambda: begin(cls, since), lambda _: None)

    for cls in CLASSES:
        if rates[cls]:
            at(rng.expovariate(rates[cls]), "come", cls)
    at(0.5, "sweep")
    while events[0][0] < seconds:
        before = now
        now, _, what, cls = heapq.heappop(events)
        if now >= 60.0:
            busy += queue.in_flight * (now - max(before, 60.0))
        if what == "come":
            at(now + rng.expovariate(rates[cls]), "come", cls)
            for _ in range(batch if cls == HIGH else 1):
                offered[cls] += now >= 60.0
                if queue.enter(cls, now):
                    begin(cls, now)
                else:
                    queue.wait(waiting(cls, now))
        elif what == "end":
            queue.done(now)
        else:
            queue.expire(now)
            at(now + 0.5, "sweep")
    return Seen(waits, busy / (capacity * (seconds - 60.0)), tuple(offered))


LENGTHS: dict[str, Callable[[random.Random], float]] = {
    "exponential": lambda rng: rng.expovariate(0.5),
    "equal": lambda rng: 2.0,
    "heavy-tailed": lambda rng: rng.lognormvariate(-0.027, 1.2),
}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("capacity", [32, 64])
def test_high_does_not_notice_a_threefold_overload_by_low(capacity: int, length: str) -> None:
    seen = simulated(capacity, (0.2, 0.0, 3.0), service=LENGTHS[length])
    assert seen.p95(HIGH) == 0.0
    assert seen.waited(HIGH) < 0.035
    assert max(seen.waits[HIGH]) < 1.0
    assert seen.busy > 0.90
    assert len(seen.waits[LOW]) > 0.6 * capacity / 2.0 * 540.0
    assert len(seen.waits[HIGH]) == seen.offered[HIGH]


def test_a_large_worker_gives_up_almost_nothing() -> None:
    seen = simulated(256, (0.2, 0.0, 3.0), seconds=240.0)
    assert seen.p95(HIGH) == 0.0
    assert seen.busy > 0.98


def test_the_guard_widens_for_high_requests_that_come_in_batches() -> None:
    seen = simulated(64, (0.2, 0.0, 3.0), batch=8)
    assert seen.waited(HIGH) < 0.06
    assert seen.p95(HIGH) < 0.1
    assert seen.busy > 0.75


def test_a_small_worker_keeps_one_place_and_high_waits_for_the_end_of_one_request_at_most() -> None:
    seen = simulated(4, (0.2, 0.0, 3.0))
    assert seen.p95(HIGH) < 2.0
    assert seen.waited(HIGH) < 0.25
    assert seen.busy > 0.70


def test_normal_is_kept_from_low_as_high_is_from_both() -> None:
    seen = simulated(64, (0.2, 0.2, 3.0))
    assert seen.p95(HIGH) == 0.0
    assert seen.p95(NORMAL) < 0.05
    assert seen.busy > 0.80
    assert len(seen.waits[LOW]) > 0.3 * 32.0 * 540.0


def test_high_in_excess_of_everything_still_leaves_the_others_their_shares() -> None:
    seen = simulated(32, (1.5, 1.0, 1.0))
    total = sum(map(len, seen.waits))
    assert len(seen.waits[NORMAL]) >= 0.10 * total
    assert len(seen.waits[LOW]) >= 0.05 * total
    assert len(seen.waits[HIGH]) > 0.5 * total
    assert seen.busy > 0.999


def test_without_high_and_normal_low_has_all() -> None:
    seen = simulated(16, (0.0, 0.0, 3.0), seconds=200.0)
    assert seen.busy > 0.999
