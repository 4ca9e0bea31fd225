"""Which worker gets a request: load, affinity, weights, ejection, retries and GPU-seconds."""

from __future__ import annotations

import random
from collections import Counter
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_console.gateway.balancing import LOAD_BOUND, OUT_MOST_S, STRIKES, Balance, Slot
from vllm_console.gateway.table import Worker


def worker(number: int, revision: int = 1, **fields: int | bool) -> Worker:
    base = {"port": 9000 + number, "gpus": 1, "slots": 8} | fields
    return Worker(id=f"m-{number}", revision=revision, **base)  # type: ignore[arg-type]


def balance(*workers: Worker, weights: dict[int, float] | None = None) -> Balance:
    made = Balance()
    made.configure(workers, weights or {}, 0.0)
    return made


def of(count: int) -> Balance:
    return balance(*(worker(number) for number in range(count)))


def picked(where: Balance, *, prefix: int = 0, session: int = 0, now: float = 0.0) -> Slot:
    slot = where.pick(prefix, session, now)
    assert slot is not None
    return slot


def put_out(slot: Slot, now: float) -> None:
    for _ in range(STRIKES):
        slot.failed(now)


# ---------------------------------------------------------------------- load


def test_without_a_worker_none_is_picked() -> None:
    assert Balance().pick(1, 2, 0.0) is None
    assert balance(worker(0, draining=True)).pick(0, 0, 0.0) is None


def test_a_single_worker_gets_everything_unless_it_was_tried() -> None:
    one = of(1)
    slot = picked(one, prefix=7)
    assert slot.id == "m-0"
    assert one.pick(7, 0, 0.0, (slot,)) is None


def test_the_one_with_the_fewest_outstanding_tokens_is_picked_not_the_one_with_few_requests() -> (
    None
):
    where = of(2)
    long, short = where.slots.values()
    long.begin(50_000.0, 0.0)
    for _ in range(4):
        short.begin(100.0, 0.0)
    assert picked(where) is short


def test_equal_ones_take_turns() -> None:
    where = of(3)
    ids = []
    for second in range(6):
        slot = picked(where, now=float(second))
        slot.end(10.0, slot.begin(10.0, second + 0.1), second + 0.2)
        ids.append(slot.id)
    assert ids == ["m-0", "m-1", "m-2"] * 2


def test_a_draining_worker_is_given_nothing_and_its_requests_are_still_counted() -> None:
    where = of(2)
    first, second = where.slots.values()
    mark = first.begin(10.0, 0.0)
    where.configure([worker(0, draining=True), worker(1)], {}, 1.0)
    assert where.slots["m-0"] is first
    assert {picked(where, prefix=number) for number in range(50)} == {second}
    assert (where.in_flight, where.capacity) == (1, 8)
    where.configure([worker(1)], {}, 2.0)
    assert where.slots["m-0"] is first
    assert first.end(10.0, mark, 3.0) == 3.0
    where.configure([worker(1)], {}, 4.0)
    assert list(where.slots) == ["m-1"]


# ---------------------------------------------------------------------- affinity


def test_a_prefix_goes_where_it_went_before_also_after_a_restart() -> None:
    first, second = of(4), of(4)
    for prefix in range(1, 200):
        slot = picked(first, prefix=prefix)
        assert picked(first, prefix=prefix) is slot
        assert picked(second, prefix=prefix).id == slot.id


def test_a_session_goes_before_a_prefix() -> None:
    where = of(8)
    assert len({picked(where, prefix=prefix, session=77).id for prefix in range(1, 100)}) == 1


@pytest.mark.parametrize("count", [2, 3, 4, 8, 16])
def test_prefixes_are_spread_evenly(count: int) -> None:
    where = of(count)
    spread = Counter(
        picked(where, prefix=crc32(b"you are a helpful assistant %d" % each)).id
        for each in range(8000)
    )
    mean = 8000 / count
    assert min(spread.values()) > 0.75 * mean
    assert max(spread.values()) < 1.25 * mean


def test_a_worker_that_goes_moves_only_its_own_prefixes() -> None:
    where = of(5)
    before = {prefix: picked(where, prefix=prefix).id for prefix in range(1, 2000)}
    where.configure([worker(number) for number in range(4)], {}, 1.0)
    for prefix, slot_id in before.items():
        if slot_id != "m-4":
            assert picked(where, prefix=prefix).id == slot_id


def test_what_one_worker_cannot_take_goes_to_the_next_in_the_order_of_the_prefix() -> None:
    where = of(4)
    order = []
    for _ in range(4):
        slot = picked(where, prefix=12345)
        slot.begin(100.0, 0.0)
        order.append(slot.id)
    assert len(set(order)) == 4
    again = of(4)
    for expected in order:
        slot = picked(again, prefix=12345)
        assert slot.id == expected
        slot.begin(100.0, 0.0)


def test_the_second_choices_of_a_worker_s_prefixes_are_spread_over_the_others() -> None:
    where = of(4)
    busy = where.slots["m-0"]
    busy.begin(1000.0, 0.0)
    for slot in where.slots.values():
        slot.begin(100.0, 0.0)
    second: Counter[str] = Counter()
    for prefix in range(1, 4000):
        if picked(of(4), prefix=prefix).id == "m-0":
            second[picked(where, prefix=prefix).id] += 1
    assert set(second) == {"m-1", "m-2", "m-3"}
    assert min(second.values()) > 0.2 * second.total()


@given(
    loads=st.lists(st.integers(0, 10_000), min_size=2, max_size=9),
    prefix=st.integers(1, 2**32 - 1),
    session=st.integers(0, 2**32 - 1),
)
def test_affinity_is_bounded_by_the_mean_load(loads: list[int], prefix: int, session: int) -> None:
    where = of(len(loads))
    for slot, load in zip(where.slots.values(), loads, strict=True):
        slot.begin(float(load), 0.0)
    slot = picked(where, prefix=prefix, session=session)
    assert slot.tokens <= LOAD_BOUND * sum(loads) / len(loads)


def test_a_worker_with_no_place_free_is_passed_by_while_another_has_one() -> None:
    where = balance(worker(0, slots=2), worker(1, slots=2))
    full, free = where.slots.values()
    for _ in range(2):
        full.begin(1.0, 0.0)
    free.begin(1000.0, 0.0)
    assert {picked(where, prefix=prefix) for prefix in range(100)} == {free}
    free.begin(1000.0, 0.0)
    assert {picked(where, prefix=prefix) for prefix in range(100)} == {full}


def test_one_hot_prefix_does_not_load_one_worker() -> None:
    where = balance(*(worker(number, slots=64) for number in range(4)))
    rng = random.Random(4)
    running: list[tuple[Slot, float, float]] = []
    for second in range(4000):
        if len(running) >= 64:
            slot, tokens, mark = running.pop(rng.randrange(len(running)))
            slot.end(tokens, mark, float(second))
        tokens = float(rng.randrange(50, 2000))
        slot = picked(where, prefix=99, now=float(second))
        before = sum(each.tokens for each in where.slots.values()) / 4
        running.append((slot, tokens, slot.begin(tokens, float(second))))
        # no worker is ever above the bound by more than the request that took it there
        assert slot.tokens - tokens <= LOAD_BOUND * before + 1e-6


# ---------------------------------------------------------------------- revisions


def shares(where: Balance, count: int, sessions: bool = False) -> dict[int, float]:
    spread: Counter[int] = Counter()
    for each in range(count):
        session = crc32(b"session %d" % each) if sessions else 0
        spread[picked(where, prefix=each + 1, session=session).revision] += 1
    return {revision: number / count for revision, number in spread.items()}


def canary(weights: dict[int, float]) -> Balance:
    return balance(worker(0, 3), worker(1, 3), worker(2, 3), worker(3, 4), weights=weights)


def test_requests_follow_the_weights_of_revisions_whatever_the_number_of_workers() -> None:
    where = canary({3: 90.0, 4: 10.0})
    assert shares(where, 1000) == {3: 0.9, 4: 0.1}
    assert where.policy == "least outstanding, prefix affinity, by revision 3:90% 4:10%"


def test_weights_are_smooth() -> None:
    where = canary({3: 3.0, 4: 1.0})
    turns = [picked(where).revision for _ in range(400)]
    assert all(turns[start : start + 4].count(4) == 1 for start in range(0, 400, 4))


def test_a_session_stays_with_its_revision_and_sessions_follow_the_weights() -> None:
    where = canary({3: 80.0, 4: 20.0})
    for session in range(1, 100):
        assert len({picked(where, session=session).revision for _ in range(10)}) == 1
    assert shares(where, 5000, sessions=True)[4] == pytest.approx(0.2, abs=0.02)


def test_sessions_of_a_revision_are_spread_over_its_workers() -> None:
    where = canary({3: 60.0, 4: 40.0})
    spread = Counter(picked(where, session=crc32(b"s%d" % each)).id for each in range(9000))
    for number in range(3):
        assert spread[f"m-{number}"] == pytest.approx(0.2 * 9000, rel=0.3)


def test_a_revision_without_weight_is_given_nothing_while_there_is_another() -> None:
    where = canary({3: 1.0, 4: 0.0})
    assert shares(where, 100) == {3: 1.0}
    where.configure([worker(3, 4)], {3: 1.0, 4: 0.0}, 1.0)
    assert shares(where, 10) == {4: 1.0}


def test_a_revision_that_is_not_named_counts_one() -> None:
    assert shares(canary({3: 3.0}), 400) == {3: 0.75, 4: 0.25}


def test_no_weight_at_all_is_the_same_as_no_weights() -> None:
    assert set(shares(canary({3: 0.0, 4: 0.0}), 100)) == {3, 4}


def test_while_a_revision_has_no_worker_left_to_try_the_others_take_its_part() -> None:
    where = canary({3: 1.0, 4: 99.0})
    tried = (where.slots["m-3"],)
    assert all(where.pick(0, 0, 0.0, tried) not in (None, *tried) for _ in range(20))
    three = balance(*(worker(each, each) for each in (1, 2, 3)), weights={1: 1.0, 2: 1.0, 3: 8.0})
    tried = (three.slots["m-3"],)
    slots = [three.pick(0, session, 0.0, tried) for session in range(200)]
    assert {slot and slot.id for slot in slots} == {"m-1", "m-2"}


# ---------------------------------------------------------------------- ejection


def test_three_failures_in_a_row_put_a_worker_out_and_a_success_between_forgives() -> None:
    where = of(2)
    bad = where.slots["m-0"]
    for _ in range(5):
        bad.failed(0.0)
        bad.failed(0.0)
        bad.succeeded(0.0)
    assert where.out == 0
    put_out(bad, 0.0)
    assert bad.ejected
    assert {picked(where, prefix=each, now=1.9).id for each in range(100)} == {"m-1"}
    assert bad.out_for_s(1.5) == 0.5


def test_an_ejected_worker_comes_back_by_one_trial() -> None:
    where = of(2)
    bad, good = where.slots.values()
    put_out(bad, 0.0)
    good.begin(1000.0, 0.0)
    assert picked(where, now=2.0) is bad
    bad.begin(10.0, 2.0)
    assert picked(where, now=2.1) is good
    bad.succeeded(2.2)
    assert not bad.ejected
    assert picked(where, now=2.3) is bad


def test_a_trial_that_fails_doubles_the_time_up_to_a_minute() -> None:
    where = of(2)
    bad = where.slots["m-0"]
    put_out(bad, 0.0)
    now, times = 0.0, []
    for _ in range(7):
        times.append(bad.out_for_s(now))
        now += times[-1]
        bad.begin(1.0, now)
        bad.failed(now)
    assert times == [2.0, 4.0, 8.0, 16.0, 32.0, OUT_MOST_S, OUT_MOST_S]


def test_a_trial_that_tells_nothing_is_followed_by_another() -> None:
    where = of(2)
    bad, good = where.slots.values()
    put_out(bad, 0.0)
    good.begin(1000.0, 0.0)
    bad.end(1.0, bad.begin(1.0, 2.0), 2.5)  # its client went away
    assert picked(where, now=3.9) is good
    assert picked(where, now=4.0) is bad


def test_stragglers_of_before_do_not_count_while_it_is_out() -> None:
    where = of(2)
    bad = where.slots["m-0"]
    for _ in range(50):
        bad.failed(0.0)
    assert bad.out_for_s(0.0) == 2.0
    bad.succeeded(1.0)
    assert bad.ejected


def test_after_a_good_while_it_starts_again_at_the_shortest_time() -> None:
    where = of(2)
    bad = where.slots["m-0"]
    for now in (0.0, 10.0):
        put_out(bad, now)
        bad.begin(1.0, now + 5.0)
        bad.succeeded(now + 5.0)
    put_out(bad, 16.0)
    assert bad.out_for_s(16.0) == 8.0
    bad.begin(1.0, 30.0)
    bad.succeeded(30.0)
    put_out(bad, 1000.0)
    assert bad.out_for_s(1000.0) == 2.0


@pytest.mark.parametrize(("count", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (8, 4)])
def test_no_more_than_half_of_the_workers_are_out(count: int, most: int) -> None:
    where = of(count)
    for slot in where.slots.values():
        put_out(slot, 0.0)
    assert where.out == sum(slot.ejected for slot in where.slots.values()) == most
    assert where.pick(0, 0, 0.0) is not None


def test_when_the_healthy_ones_go_the_first_of_the_ejected_is_let_in_again() -> None:
    where = of(4)
    put_out(where.slots["m-1"], 1.0)
    put_out(where.slots["m-0"], 0.0)
    where.configure([worker(0), worker(1)], {}, 1.1)
    assert not where.slots["m-0"].ejected
    assert where.slots["m-1"].ejected
    assert where.out == 1


@pytest.mark.parametrize("how", ["a new port", "drained", "gone"])
def test_a_worker_that_started_again_has_a_clean_record(how: str) -> None:
    where = of(2)
    bad = where.slots["m-0"]
    bad.begin(1.0, 0.0)
    put_out(bad, 0.0)
    again = worker(0)
    if how == "a new port":
        again = worker(0, port=9999)
    elif how == "drained":
        where.configure([worker(0, draining=True), worker(1)], {}, 0.5)
    else:
        where.configure([worker(1)], {}, 0.5)
    where.configure([again, worker(1)], {}, 1.0)
    assert where.slots["m-0"] is bad
    assert (bad.ejected, bad.port, where.out) == (False, again.port, 0)
    put_out(bad, 1.0)
    assert bad.out_for_s(1.0) == 2.0


def test_a_new_table_that_says_the_same_leaves_an_ejection_as_it_is() -> None:
    where = of(2)
    put_out(where.slots["m-0"], 0.0)
    where.configure([worker(0), worker(1)], {}, 0.5)
    assert where.slots["m-0"].ejected
    assert where.out == 1


def test_an_ejected_one_is_tried_when_every_other_was() -> None:
    where = of(2)
    bad, good = where.slots.values()
    put_out(bad, 0.0)
    assert where.pick(0, 0, 0.1, (good,)) is bad
    assert where.pick(0, 0, 0.1, (good, bad)) is None


# ---------------------------------------------------------------------- retries


def spent(where: Balance, now: float) -> int:
    count = 0
    while where.may_retry(now):
        count += 1
    return count


def test_what_a_dead_worker_had_may_move_but_no_more_than_a_fifth_in_the_long_run() -> None:
    where = of(2)
    assert spent(where, 0.0) == 30
    assert spent(where, 0.0) == 0
    for each in range(1000):
        picked(where, prefix=each)
    assert spent(where, 0.0) == 30  # saved up to this
    for second in range(100):
        for _ in range(50):
            picked(where)
        assert spent(where, second + 1.0) == 50 / 5 + 3


def test_with_many_in_flight_as_many_may_be_sent_again() -> None:
    where = of(2)
    for each in range(1000):
        slot = picked(where, prefix=each)
        if each < 200:
            slot.begin(1.0, 0.0)
    assert spent(where, 0.0) == 200


def test_an_idle_model_may_still_retry_three_times_a_second() -> None:
    where = of(2)
    spent(where, 0.0)
    assert [spent(where, second + 1.0) for second in range(5)] == [3] * 5


# ---------------------------------------------------------------------- GPU-seconds


def test_a_request_alone_is_due_all_gpus_and_two_share_them() -> None:
    where = balance(worker(0, gpus=2))
    slot = where.slots["m-0"]
    first = slot.begin(1.0, 10.0)
    second = slot.begin(1.0, 13.0)
    assert slot.end(1.0, first, 15.0) == pytest.approx(2 * 3 + 2 * 2 / 2)
    assert slot.end(1.0, second, 16.0) == pytest.approx(2 * 2 / 2 + 2 * 1)


@given(st.lists(st.tuples(st.floats(0.0, 9.0), st.floats(0.0, 9.0)), min_size=1, max_size=40))
def test_the_shares_of_all_requests_are_the_busy_time_of_the_gpus(
    spans: list[tuple[float, float]],
) -> None:
    slot = balance(worker(0, gpus=4)).slots["m-0"]
    edges = sorted(
        [(at, 0, number) for number, (at, _) in enumerate(spans)]
        + [(at + length, 1, number) for number, (at, length) in enumerate(spans)]
    )
    marks: dict[int, float] = {}
    total = busy = before = 0.0
    for now, ends, number in edges:
        if slot.in_flight:
            busy += now - before
        before = now
        if ends:
            share = slot.end(0.1 * number, marks[number], now)
            assert -1e-9 <= share <= 4 * spans[number][1] + 1e-9
            total += share
        else:
            marks[number] = slot.begin(0.1 * number, now)
    assert total == pytest.approx(4 * busy)
    assert (slot.in_flight, slot.tokens) == (0, 0.0)


def test_gpus_that_change_count_from_the_change_on() -> None:
    where = balance(worker(0, gpus=1))
    slot = where.slots["m-0"]
    mark = slot.begin(1.0, 0.0)
    where.configure([worker(0, gpus=4)], {}, 10.0)
    assert slot.end(1.0, mark, 11.0) == pytest.approx(10.0 + 4.0)


def test_where_half_are_out_the_newest_failure_takes_the_place_of_the_one_due_soonest() -> None:
    where = of(4)
    first, second, third, _ = where.slots.values()
    put_out(first, 0.0)
    put_out(second, 1.0)
    put_out(third, 1.5)
    assert [slot.ejected for slot in (first, second, third)] == [False, True, True]
    assert where.out == 2
