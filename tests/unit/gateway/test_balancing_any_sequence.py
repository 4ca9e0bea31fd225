"""No sequence of tables, requests and failures gives a worker what it must not have."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.gateway.test_balancing import put_out, worker
from vllm_console.gateway.balancing import Balance, Slot


class AnySequence(RuleBasedStateMachine):
    """Tables, requests and failures in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.balance = Balance()
        self.running: list[tuple[Slot, float, float]] = []
        self.trials: dict[Slot, float] = {}
        self.out_s: dict[Slot, float] = {}
        self.configure([(0, 0, False), (1, 0, False), (2, 0, False), (3, 0, False)], {})

    def usable(self) -> Sequence[Slot]:
        return [slot for slot in self.balance.slots.values() if slot.usable]

    @rule(
        workers=st.lists(
            st.tuples(st.integers(0, 6), st.integers(0, 2), st.booleans()),
            max_size=6,
            unique_by=lambda each: each[0],
        ),
        weights=st.dictionaries(st.integers(0, 2), st.floats(0.0, 10.0), max_size=3),
    )
    def configure(self, workers: list[tuple[int, int, bool]], weights: dict[int, float]) -> None:
        table = [worker(number, rev, draining=drains) for number, rev, drains in workers]
        kept = {slot.id: slot for slot, _, _ in self.running}
        self.balance.configure(table, weights, self.now)
        assert set(self.balance.slots) == {each.id for each in table} | set(kept)
        assert all(self.balance.slots[slot_id] is slot for slot_id, slot in kept.items())

    @rule(
        prefix=st.integers(0, 9),
        session=st.integers(0, 3),
        tokens=st.integers(0, 5000),
        skip=st.data(),
    )
    def send(self, prefix: int, session: int, tokens: int, skip: st.DataObject) -> None:
        usable = self.usable()
        tried = skip.draw(st.sets(st.sampled_from(usable), max_size=2)) if usable else set()
        slot = self.balance.pick(prefix, session, self.now, tuple(tried))
        left = [each for each in usable if each not in tried]
        if slot is None:
            assert not left
            return
        assert slot in left
        if slot.ejected and slot.out_for_s(self.now):
            assert all(each.ejected and each.out_for_s(self.now) for each in left)
        on_trial = slot.ejected and not slot.out_for_s(self.now)
        self.running.append((slot, float(tokens), slot.begin(float(tokens), self.now)))
        if on_trial:
            assert slot.out_for_s(self.now) > 0.0  # nobody else until it has told

    @precondition(lambda self: self.running)
    @rule(data=st.data(), outcome=st.sampled_from(["succeeded", "failed", "gone"]))
    def end(self, data: st.DataObject, outcome: str) -> None:
        slot, tokens, mark = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        if outcome == "succeeded":
            slot.succeeded(self.now)
        elif outcome == "failed":
            slot.failed(self.now)
        assert slot.end(tokens, mark, self.now) >= -1e-9

    @precondition(lambda self: self.usable())
    @rule(data=st.data())
    def fails(self, data: st.DataObject) -> None:
        put_out(data.draw(st.sampled_from(self.usable())), self.now)

    @rule(seconds=st.sampled_from([0.01, 1.0, 2.0, 30.0, 301.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def counts_agree(self) -> None:
        usable = self.usable()
        assert self.balance.out == sum(slot.ejected for slot in self.balance.slots.values())
        assert self.balance.out <= len(usable) // 2
        assert tuple(usable) == self.balance.usable
        assert self.balance.in_flight == len(self.running)
        for slot in self.balance.slots.values():
            mine = [tokens for each, tokens, _ in self.running if each is slot]
            assert slot.in_flight == len(mine)
            assert slot.tokens == pytest.approx(sum(mine))


AnySequence.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestAnySequence = AnySequence.TestCase
