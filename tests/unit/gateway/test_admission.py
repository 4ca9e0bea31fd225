"""Who is let in: right of way, shares, guards and bounds, case by case."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vllm_console.gateway.admission import (
    GUARD_PART,
    GUARD_S,
    HIGH,
    LOW,
    NORMAL,
    SHARES,
    UNKNOWN_S,
    Queue,
    Reason,
    Waiting,
)
from vllm_console.gateway.table import Limits

CLASSES = (HIGH, NORMAL, LOW)


class Door:
    """A queue, and what became of each that came to it, by name."""

    def __init__(self, capacity: int = 1, now: float = 0.0, **limits: float) -> None:
        self.queue = Queue()
        self.now = now
        self.limits = Limits(**limits)  # type: ignore[arg-type]
        self.queue.configure(capacity, self.limits, now)
        self.in_flight: list[str] = []
        self.refused: dict[str, Reason] = {}
        self.waiting: dict[str, Waiting] = {}

    def come(self, name: str, cls: int = NORMAL, size: int = 1) -> None:
        if self.queue.enter(cls, self.now):
            self.in_flight.append(name)
            return

        def admitted() -> None:
            del self.waiting[name]
            self.in_flight.append(name)

        def refused(reason: Reason) -> None:
            del self.waiting[name]
            self.refused[name] = reason

        one = self.waiting[name] = Waiting(cls, size, self.now, admitted, refused)
        reason = self.queue.wait(one)
        if reason is not None:
            del self.waiting[name]
            self.refused[name] = reason

    def leave(self, name: str | None = None) -> None:
        self.in_flight.remove(name or self.in_flight[0])
        self.queue.done(self.now)

    def let_in(self, count: int) -> str:
        """Ends requests until so many of those that wait were let in; their names, in order."""
        names = ""
        for _ in range(count):
            self.leave()
            names += self.in_flight[-1]
        return names


# ---------------------------------------------------------------------- cases


def test_a_request_is_let_in_at_once_while_there_are_places() -> None:
    door = Door(2)
    for name in "abc":
        door.come(name)
    assert door.in_flight == ["a", "b"]
    assert list(door.waiting) == ["c"]
    assert door.queue.waiting == (0, 1, 0)
    assert door.queue.admitted == [0, 2, 0]


def test_high_goes_before_normal_before_low_and_each_in_order() -> None:
    door = Door(1)
    door.come("x")
    for name, cls in zip("lLnNhH", (LOW, LOW, NORMAL, NORMAL, HIGH, HIGH), strict=True):
        door.come(name, cls)
    assert door.let_in(6) == "hHnNlL"


def test_a_place_is_given_back_even_by_one_that_ends_as_it_is_let_in() -> None:
    queue = Queue()
    queue.configure(1, Limits(queue=5000), 0.0)
    seen: list[int] = []

    def fails_at_once(number: int) -> Callable[[], None]:
        def admitted() -> None:
            seen.append(number)
            queue.done(0.0)

        return admitted

    assert queue.enter(NORMAL, 0.0)
    for number in range(2000):  # deep enough to break a recursion
        assert queue.wait(Waiting(NORMAL, 1, 0.0, fails_at_once(number), pytest.fail)) is None
    queue.done(0.0)
    assert seen == list(range(2000))
    assert (queue.in_flight, queue.waiting, queue.waiting_bytes) == (0, (0, 0, 0), 0)


def test_nobody_passes_those_who_are_just_being_let_in() -> None:
    queue = Queue()
    queue.configure(1, Limits(), 0.0)
    order: list[str] = []

    def first() -> None:
        order.append("first")
        queue.done(0.0)
        assert not queue.enter(NORMAL, 0.0)
        queue.wait(Waiting(NORMAL, 1, 0.0, lambda: order.append("late"), pytest.fail))

    def second() -> None:
        order.append("second")
        queue.done(0.0)

    assert queue.enter(NORMAL, 0.0)
    queue.wait(Waiting(NORMAL, 1, 0.0, first, pytest.fail))
    queue.wait(Waiting(NORMAL, 1, 0.0, second, pytest.fail))
    queue.done(0.0)
    assert order == ["first", "second", "late"]


def test_more_capacity_lets_those_in_who_wait_and_less_interrupts_nobody() -> None:
    door = Door(0)
    for name in "abcd":
        door.come(name)
    door.queue.configure(3, door.limits, 0.0)
    assert door.in_flight == ["a", "b", "c"]
    door.queue.configure(1, door.limits, 0.0)
    assert door.queue.in_flight == 3
    door.leave()
    door.leave()
    assert "d" in door.waiting
    door.leave()
    assert door.in_flight == ["d"]


def test_who_waits_too_long_is_refused_and_the_next_deadline_is_told() -> None:
    door = Door(1, queue_s=10.0)
    door.come("x")
    door.come("a")
    door.now = 4.0
    door.come("b", HIGH)
    assert door.queue.expire(4.0) == 10.0
    assert door.queue.expire(9.9) == 10.0
    assert door.queue.expire(10.0) == 14.0
    assert door.refused == {"a": "timeout"}
    assert door.queue.expire(14.0) is None
    assert door.queue.refused["timeout"] == 2


def test_the_next_deadline_is_that_of_the_oldest_of_all_classes() -> None:
    door = Door(1, queue_s=10.0)
    door.come("x")
    for cls in (NORMAL, HIGH, LOW):
        door.come(f"{cls}", cls)
        door.now += 1.0
    assert door.queue.expire(3.0) == 10.0


def test_a_cold_model_is_waited_for_longer_and_the_load_does_not_count_once_it_is_there() -> None:
    door = Door(0, queue_s=10.0, cold_s=100.0)
    door.come("a")
    door.come("b")
    assert door.queue.expire(90.0) == 100.0
    door.queue.configure(1, door.limits, 90.0)
    assert door.in_flight == ["a"]
    assert door.queue.expire(99.0) == 100.0
    door.queue.expire(100.0)
    assert door.refused == {"b": "timeout"}


def test_a_model_that_never_comes_is_waited_for_no_longer_than_its_limit() -> None:
    door = Door(0, queue_s=10.0, cold_s=100.0)
    door.come("a")
    door.queue.expire(99.9)
    assert door.refused == {}
    door.queue.expire(100.0)
    assert door.refused == {"a": "cold-timeout"}


def test_a_model_that_comes_and_goes_does_not_stretch_the_wait_for_ever() -> None:
    door = Door(0, queue_s=10.0, cold_s=100.0)
    for _ in range(3):
        door.come(f"at {door.now}")
        door.now += 1.0
    for second in range(3, 120):
        door.queue.configure(0, door.limits, float(second))
        door.queue.configure(1, door.limits, second + 0.1)
        door.queue.expire(second + 0.2)
    assert door.refused == {"at 1.0": "timeout", "at 2.0": "timeout"}


def test_a_full_queue_refuses_and_a_higher_class_takes_the_place_of_the_newest_low_one() -> None:
    door = Door(1, queue=3)
    door.come("x")
    for name in "abcd":
        door.come(name, LOW)
    assert door.refused == {"d": "full"}
    door.come("n", NORMAL)
    door.come("h", HIGH)
    assert door.refused == {"d": "full", "c": "full", "b": "full"}
    assert list(door.waiting) == ["a", "n", "h"]
    door.come("l", LOW)
    door.come("h2", HIGH)
    assert door.refused["l"] == "full"
    assert door.refused["a"] == "full"
    door.come("h3", HIGH)
    assert door.refused["n"] == "full"
    door.come("h4", HIGH)
    assert door.refused["h4"] == "full"
    assert door.queue.refused["full"] == 7


def test_a_part_of_the_queue_is_a_class_s_own() -> None:
    door = Door(1, queue=100)
    door.come("x")
    for number in range(100):
        door.come(f"l{number}", LOW)
    for number in range(200):
        door.come(f"h{number}", HIGH)
    assert door.queue.waiting == (85, 0, 15)
    for number in range(20):
        door.come(f"n{number}", NORMAL)
    assert door.queue.waiting == (85, 10, 5)
    assert {name for name in door.waiting if name[0] == "l"} == {f"l{each}" for each in range(5)}


def test_a_class_that_waits_with_no_more_than_its_own_part_is_not_displaced() -> None:
    door = Door(1, queue=100)
    door.come("x")
    for number in range(5):
        door.come(f"l{number}", LOW)
    for number in range(95):
        door.come(f"n{number}", NORMAL)
    door.come("h", HIGH)
    assert door.queue.waiting == (1, 94, 5)
    assert door.refused == {"n94": "full"}


def test_the_bytes_that_wait_are_bounded_and_higher_classes_displace_lower_ones() -> None:
    door = Door(1, queue_bytes=100)
    door.come("x", size=10**9)
    door.come("big", LOW, size=101)
    assert door.refused == {"big": "bytes"}
    door.come("a", LOW, size=60)
    door.come("b", LOW, size=40)
    door.come("c", LOW, size=1)
    assert door.refused["c"] == "bytes"
    door.come("h", HIGH, size=50)
    assert door.refused["b"] == door.refused["a"] == "full"
    door.come("n", NORMAL, size=51)
    assert door.refused["n"] == "bytes"
    assert door.queue.waiting_bytes == 50


def test_one_whose_client_is_gone_is_forgotten() -> None:
    door = Door(1)
    for name in "xab":
        door.come(name)
    gone = door.waiting["a"]
    assert door.queue.withdraw(gone)
    assert not door.queue.withdraw(gone)
    assert (door.queue.waiting, door.queue.waiting_bytes) == ((0, 1, 0), 1)
    assert door.let_in(1) == "b"


def test_when_it_closes_those_who_wait_are_refused_and_the_rest_is_finished() -> None:
    door = Door(1)
    for name in "xab":
        door.come(name)
    door.queue.close()
    assert door.refused == {"a": "closing", "b": "closing"}
    door.come("c")
    door.queue.configure(5, door.limits, 0.0)
    door.come("d")
    assert door.refused["c"] == door.refused["d"] == "closing"
    assert door.in_flight == ["x"]
    door.leave()
    assert door.queue.in_flight == 0


def test_all_who_wait_for_a_model_that_failed_are_turned_away() -> None:
    door = Door(0)
    for name, cls in zip("abc", CLASSES, strict=True):
        door.come(name, cls)
    door.queue.turn_away("no-worker")
    assert door.refused == dict.fromkeys("abc", "no-worker")
    assert door.queue.waiting_bytes == 0


def test_the_oldest_of_all_classes_tells_how_long_one_waits() -> None:
    door = Door(1)
    assert door.queue.oldest_s(5.0) is None
    door.come("x")
    door.come("a", LOW)
    door.now = 3.0
    door.come("b", HIGH)
    assert door.queue.oldest_s(5.0) == 5.0


# ---------------------------------------------------------------------- shares and promotion


def admissions(door: Door, others: tuple[int, ...], count: int) -> list[int]:
    """How many of each class are let in out of `count`, when all always wait; 1 ms each."""
    classes = {}
    for number in range(count + 10):
        for cls in others:
            name = f"{number} {cls}"
            classes[name] = cls
            door.come(name, cls)
    before = list(door.queue.admitted)
    for _ in range(count):
        door.now += 0.001
        door.leave()
    return [new - old for new, old in zip(door.queue.admitted, before, strict=True)]


def test_each_class_has_its_share_while_it_waits() -> None:
    door = Door(8, queue=10**6)
    high, normal, low = admissions(door, CLASSES, 2000)
    assert normal == pytest.approx(200, abs=2)
    assert low == pytest.approx(100, abs=2)
    assert high == 2000 - normal - low


def test_a_share_is_held_also_against_those_who_are_let_in_without_waiting() -> None:
    door = Door(8)
    for number in range(8):
        door.come(f"{number}", HIGH)
    door.queue.expire(0.0)
    for number in range(20):
        door.come(f"low {number}", LOW)
    admitted = 0
    for number in range(400):
        door.leave(next(name for name in door.in_flight if "low" not in name))
        door.come(f"high {number}", HIGH)
        while any("low" in name for name in door.in_flight):
            admitted += 1
            door.leave(next(name for name in door.in_flight if "low" in name))
            door.come(f"high again {number} {admitted}", HIGH)
    assert admitted == pytest.approx(400 * SHARES[LOW], abs=2)


@pytest.mark.parametrize(("waited", "share"), [(1.0, 0.05), (16.0, 0.10), (31.0, 0.25), (59, 0.25)])
def test_who_has_waited_long_counts_as_a_class_higher(waited: float, share: float) -> None:
    door = Door(8, queue=10**6, queue_s=60.0)
    for number in range(600):
        door.come(f"high {number}", HIGH)
        door.come(f"low {number}", LOW)
    door.now = waited
    before = door.queue.admitted[LOW]
    for _ in range(400):
        door.leave()
    assert door.queue.admitted[LOW] - before == pytest.approx(400 * share, abs=2)


def test_a_class_that_had_its_part_before_cannot_be_starved_for_it() -> None:
    door = Door(1, queue=10**6)
    door.come("x", LOW)
    for number in range(500):
        door.come(f"low {number}", LOW)
    for _ in range(300):
        door.leave()
    for number in range(500):
        door.come(f"high {number}", HIGH)
    before = door.queue.admitted[LOW]
    for _ in range(60):
        door.leave()
    assert door.queue.admitted[LOW] > before


def test_what_one_was_owed_is_not_handed_down_when_its_client_goes() -> None:
    door = Door(8, queue=10**6)
    for number in range(100):
        door.come(f"high {number}", HIGH)
    door.come("first", LOW)
    for _ in range(15):
        door.leave()
    assert door.queue.withdraw(door.waiting.pop("first"))
    door.leave()
    door.come("second", LOW)
    for _ in range(15):
        door.leave()
    assert "second" in door.waiting
    for _ in range(6):
        door.leave()
    assert "second" in door.in_flight


# ---------------------------------------------------------------------- guards


def test_nothing_is_kept_free_until_a_higher_class_was_seen() -> None:
    door = Door(8)
    for number in range(9):
        door.come(f"low {number}", LOW)
    assert len(door.in_flight) == 8


def test_a_place_is_kept_free_after_a_high_request_and_given_up_a_minute_later() -> None:
    door = Door(8, queue_s=600.0)
    for number in range(12):
        door.come(f"low {number}", LOW)
    door.come("high", HIGH)
    door.leave()
    assert door.in_flight[-1] == "high"
    kept = 2  # the one that is always kept, and one more since this one had to wait
    assert door.queue.kept_free == (kept, kept)
    for _ in range(3):
        door.leave("high" if "high" in door.in_flight else None)
    assert len(door.in_flight) == 8 - kept
    door.come("another", HIGH)
    assert "another" in door.in_flight
    door.leave("another")
    door.now = GUARD_S + 1.0
    door.queue.expire(door.now)
    assert door.queue.kept_free == (0, 0)
    assert len(door.in_flight) == 8


def test_normal_requests_are_guarded_against_low_ones_but_not_against_themselves() -> None:
    door = Door(8)
    door.come("n", NORMAL)
    door.queue.expire(0.0)
    assert door.queue.kept_free == (0, 1)
    for number in range(8):
        door.come(f"low {number}", LOW)
    assert len(door.in_flight) == 7
    door.come("n2", NORMAL)
    assert len(door.in_flight) == 8


def test_a_single_place_is_kept_free_for_nobody() -> None:
    door = Door(1)
    door.come("h", HIGH)
    door.queue.expire(0.0)
    door.leave()
    door.come("l", LOW)
    assert door.in_flight == ["l"]


def test_a_guard_starts_small_again_after_a_minute_without_its_class() -> None:
    door = Door(32)
    for number in range(100):
        door.come(f"high {number}", HIGH)
    assert door.queue.kept_free == (8, 8)
    door.now = 2 * GUARD_S
    door.queue.expire(door.now)
    assert door.queue.kept_free == (0, 0)
    door.come("later", HIGH)
    assert door.queue.kept_free == (2, 2)  # one, and one more since this one found no place


def test_a_guard_never_takes_more_than_a_quarter() -> None:
    door = Door(32, queue=10**6)
    for number in range(500):
        door.come(f"high {number}", HIGH)
        door.come(f"normal {number}", NORMAL)
    assert door.queue.kept_free == (8, 8)
    assert GUARD_PART == 4


# ---------------------------------------------------------------------- Retry-After


def test_the_wait_is_guessed_until_something_was_finished() -> None:
    assert Door(1).queue.seconds_to_wait(LOW) == UNKNOWN_S
    assert Door(1, queue_s=2.0).queue.seconds_to_wait(LOW) == 2.0


def test_the_wait_is_those_before_over_the_rate_of_what_is_finished() -> None:
    door = Door(10, queue_s=1000.0, queue=10**6)
    for number in range(400):
        door.come(f"{number}", NORMAL)
    for tick in range(200):  # four a second
        door.now = tick * 0.25
        door.leave()
        if tick % 2:
            door.queue.expire(door.now)
    waiting = len(door.waiting)
    assert door.queue.seconds_to_wait(NORMAL) == pytest.approx((waiting + 1) / 4.0, rel=0.05)
    assert door.queue.seconds_to_wait(HIGH) == 1.0
    # low gets what normal leaves, which is nothing but its share
    share = 4.0 * SHARES[LOW]
    expected = min((waiting + 1) / share, 1000.0)
    assert door.queue.seconds_to_wait(LOW) == pytest.approx(expected, rel=0.05)
