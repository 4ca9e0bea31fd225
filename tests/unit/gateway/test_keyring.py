"""Who is let in: keys by their secrets, limits as they were promised, and nobody by mistake."""

from __future__ import annotations

from calendar import timegm
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vllm_console.gateway.keyring import Key, Keyring
from vllm_console.gateway.refusals import Refused, rendered
from vllm_console.history.account_rows import CREATED, NOBODY, KeyRow, Terms, hash_of

WALL = float(timegm((2026, 11, 21, 10, 0, 0)))
NEXT_MONTH = float(timegm((2026, 12, 1, 0, 0, 0)))


class Clock:
    """A fake clock that stands where it is put."""

    def __init__(self, at: float) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def row(
    name: str, secret: str | None = None, terms: Terms | None = None, number: int = 1
) -> KeyRow:
    hashed = hash_of((secret or f"vc-{name}").encode())
    return KeyRow(number, name, hashed, "vc-…", CREATED, 0, None, None, terms or Terms())


def ring(rows: Iterable[KeyRow] = (), *, anonymous: bool = False, wall: float = WALL) -> Keyring:
    made = Keyring(monotonic=Clock(0.0), wall=Clock(wall))
    made.replace(list(rows))
    made.allow_anonymous = anonymous
    return made


def key(wall: float = WALL, **terms: object) -> Key:
    return Key(1, "ada", replace(Terms(), **terms), 0.0, wall)  # type: ignore[arg-type]


def found(keyring: Keyring, bearer: str | None = None, x_api_key: str | None = None) -> Key:
    asked = _headers(bearer, x_api_key)
    answer = keyring.find(*asked)
    assert isinstance(answer, Key)
    return answer


def refused(keyring: Keyring, bearer: str | None = None, x_api_key: str | None = None) -> Refused:
    answer = keyring.find(*_headers(bearer, x_api_key))
    assert isinstance(answer, Refused)
    return answer


def _headers(bearer: str | None, x_api_key: str | None) -> tuple[bytes | None, bytes | None]:
    return (
        None if bearer is None else f"Bearer {bearer}".encode(),
        None if x_api_key is None else x_api_key.encode(),
    )


def test_a_key_is_found_by_either_header() -> None:
    keyring = ring([row("ada")])
    assert found(keyring, "vc-ada").name == "ada"
    assert found(keyring, None, "vc-ada") is found(keyring, "vc-ada")
    assert found(keyring, "wrong", "vc-ada").name == "ada"
    assert isinstance(keyring.find(b"bEARER   vc-ada ", None), Key)


@pytest.mark.parametrize("sent", [b"Basic dmMtYWRh", b"vc-ada", b"Bearer", b"Bearer ", b""])
def test_what_is_no_bearer_is_no_key(sent: bytes) -> None:
    answer = ring([row("ada")]).find(sent, None)
    assert isinstance(answer, Refused)
    assert (answer.status, answer.code) == (401, "missing_api_key")


@pytest.mark.parametrize("sent", ["vc-ad", "vc-adaa", "VC-ADA", "EMPTY", "\xff"])
def test_a_wrong_key_is_401_and_says_how_to_authenticate(sent: str) -> None:
    answer = refused(ring([row("ada")]), sent)
    status, headers, body = rendered(answer, None)
    assert status == 401
    assert (b"www-authenticate", b"Bearer") in headers
    assert b'"invalid_api_key"' in body
    assert sent.encode() not in body


def test_without_keys_and_without_leave_nobody_is_let_in() -> None:
    keyring = ring()
    assert refused(keyring).status == refused(keyring, "vc-x").status == 401


def test_where_none_is_needed_a_word_that_clients_have_to_send_is_none() -> None:
    keyring = ring([row("ada")], anonymous=True)
    for sent in (None, "EMPTY", "sk-no-key-required"):
        assert found(keyring, sent) is keyring.anonymous
        assert found(keyring, None, sent) is keyring.anonymous
    assert found(keyring, "vc-ada").name == "ada"
    assert keyring.anonymous.id == NOBODY


def test_a_revoked_key_of_ours_is_refused_also_where_none_is_needed() -> None:
    keyring = ring([row("ada")], anonymous=True)
    keyring.replace([])
    assert refused(keyring, "vc-ada").status == 401
    assert refused(keyring, None, "vc-ada").status == 401


def test_whoever_comes_without_a_key_does_not_go_before_those_with_one() -> None:
    keyring = ring(anonymous=True)
    assert keyring.anonymous.max_class == 0
    keyring.replace([row("ada")])
    assert keyring.anonymous.max_class == 1


def test_a_key_ends_when_it_expires() -> None:
    wall = Clock(WALL)
    keyring = Keyring(monotonic=Clock(0.0), wall=wall)
    keyring.replace([row("ada", terms=Terms(expires=int(WALL) + 10))])
    assert found(keyring, "vc-ada").name == "ada"
    wall.at = WALL + 10
    answer = refused(keyring, "vc-ada")
    assert (answer.status, answer.code) == (401, "key_expired")
    assert "2026-11-21 10:00 UTC" in answer.message
    assert answer.retry_after is None
    assert refused(keyring, None, "vc-ada").code == "key_expired"


def test_a_key_that_is_revoked_in_a_row_does_not_hold() -> None:
    keyring = ring([replace(row("ada"), revoked=5)])
    assert refused(keyring, "vc-ada").status == 401
    assert list(keyring) == []


def test_keys_that_cannot_be_read_let_nobody_new_in_and_known_ones_go_on() -> None:
    keyring = ring([row("ada")])
    keyring.trouble = "gateway.sqlite: is damaged"
    assert found(keyring, "vc-ada").name == "ada"
    answer = refused(keyring, "vc-bob")
    assert (answer.status, answer.code) == (503, "keys_unavailable")
    assert answer.retry_after is not None
    assert "sqlite" not in answer.message
    assert refused(keyring).status == 401


def test_counters_of_a_key_that_stays_go_on_through_a_change() -> None:
    keyring = ring([row("ada", terms=Terms(rpm=2, tpm=100, concurrency=5)), row("bob", number=2)])
    ada = found(keyring, "vc-ada")
    assert ada.admit(90, 0.0, WALL) is None
    keyring.replace([row("ada", "vc-new", terms=Terms(("chat",), 2, rpm=1, tpm=100))])
    assert found(keyring, "vc-new") is ada
    assert (ada.in_flight, ada.max_class, ada.allows("chat"), ada.allows("x")) == (
        1,
        2,
        True,
        False,
    )
    assert ada.admit(20, 0.0, WALL) is not None
    assert ada.admit(10, 0.0, WALL) is None
    assert refused(keyring, "vc-ada").status == refused(keyring, "vc-bob").status == 401
    assert [each.name for each in keyring] == ["ada"]


def test_a_key_revoked_while_its_request_runs_is_still_counted_for() -> None:
    keyring = ring([row("ada", number=7)])
    keyring.replace([])
    assert keyring.number("ada") == 7
    keyring.replace([row("ada", "vc-again", number=8)])
    assert keyring.number("ada") == 8
    assert keyring.number("anonymous") == NOBODY
    assert keyring.number("") is None


def test_what_was_spent_before_counts_after_a_restart() -> None:
    keyring = ring([replace(row("ada", terms=Terms(budget=5.0)), spent=4.5)])
    ada = found(keyring, "vc-ada")
    assert ada.admit(1, 0.0, WALL) is None
    ada.settle(1, 1, 0.5, 0.0)
    assert ada.spent(WALL) == 5.0
    answer = ada.admit(1, 0.0, WALL)
    assert answer is not None
    assert (answer.status, answer.type, answer.code) == (
        429,
        "insufficient_quota",
        "insufficient_quota",
    )
    assert answer.retry_after is None
    assert "$5" in answer.message
    assert ada.admit(1, 0.0, NEXT_MONTH) is None


def test_what_another_process_counted_is_learned_and_nothing_is_counted_twice() -> None:
    keyring = ring([row("ada", terms=Terms(budget=5.0))])
    ada = found(keyring, "vc-ada")
    ada.settle(0, 0, 2.0, 0.0)
    for stored, known in ((1.5, 2.0), (2.0, 2.0), (3.0, 3.0)):
        keyring.replace([replace(row("ada", terms=Terms(budget=5.0)), spent=stored)])
        assert ada.spent(WALL) == known


def test_a_key_without_limits_is_only_counted() -> None:
    ada = key()
    for _ in range(10_000):
        assert ada.admit(10**9, 0.0, WALL) is None
    assert ada.in_flight == 10_000
    assert ada.allows("anything")


def test_requests_a_minute_are_refused_with_the_wait_that_helps() -> None:
    ada = key(rpm=2)
    assert [ada.admit(1, 0.0, WALL) for _ in range(2)] == [None, None]
    answer = ada.admit(1, 0.0, WALL)
    assert answer is not None
    assert (answer.status, answer.code, answer.retry_after) == (429, "rate_limit_exceeded", 30)
    assert "2 requests a minute" in answer.message
    assert ada.admit(1, 29.0, WALL) is not None
    assert ada.admit(1, 30.0, WALL) is None


def test_tokens_are_reserved_by_the_estimate_and_settled_with_the_truth() -> None:
    ada = key(tpm=600)
    assert ada.admit(500, 0.0, WALL) is None
    answer = ada.admit(200, 0.0, WALL)
    assert answer is not None
    assert (answer.status, answer.retry_after) == (429, 10)
    ada.settle(500, 100, 0.0, 0.0)
    assert ada.admit(200, 0.0, WALL) is None
    ada.settle(200, 1100, 0.0, 0.0)
    answer = ada.admit(60, 0.0, WALL)
    assert answer is not None
    assert answer.retry_after == 66
    assert ada.admit(60, 66.0, WALL) is None


def test_a_request_that_was_refused_after_all_costs_no_tokens() -> None:
    ada = key(tpm=600)
    assert ada.admit(600, 0.0, WALL) is None
    ada.settle(600, 0, 0.0, 0.0)
    assert ada.admit(600, 0.0, WALL) is None


def test_what_can_never_fit_is_the_requests_mistake() -> None:
    ada = key(tpm=600, rpm=1)
    answer = ada.admit(601, 0.0, WALL)
    assert answer is not None
    assert (answer.status, answer.type, answer.retry_after) == (400, "invalid_request_error", None)
    assert ada.admit(600, 0.0, WALL) is None


def test_requests_at_a_time_are_bounded() -> None:
    ada = key(concurrency=1)
    assert ada.admit(1, 0.0, WALL) is None
    answer = ada.admit(1, 0.0, WALL)
    assert answer is not None
    assert (answer.status, answer.retry_after) == (429, 1)
    ada.settle(1, 1, 0.0, 0.0)
    assert ada.admit(1, 0.0, WALL) is None


@pytest.mark.parametrize("limit", ["concurrency", "budget", "tpm", "rpm"])
def test_a_refusal_reserves_nothing(limit: str) -> None:
    ada = key(concurrency=10, budget=10.0, tpm=100, rpm=20)
    tokens, cost = 100 * (limit == "tpm"), 10.0 * (limit == "budget")
    for _ in range({"concurrency": 10, "rpm": 20}.get(limit, 1)):
        assert ada.admit(tokens, 0.0, WALL) is None
        if limit != "concurrency":
            ada.settle(tokens, tokens, cost, 0.0)
    running = ada.in_flight
    waits = []
    for _ in range(5):
        answer = ada.admit(1, 0.0, WALL)
        assert answer is not None
        waits.append(answer.retry_after)
    assert len(set(waits)) == 1
    assert ada.in_flight == running


class Minutes(RuleBasedStateMachine):
    """A key under all limits at once against plain lists of what was let in."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.key = key(rpm=30, tpm=3000, concurrency=4)
        self.running: list[int] = []
        self.admitted: list[float] = []

    @rule(pause=st.floats(0, 30))
    def wait(self, pause: float) -> None:
        self.now += pause

    @rule(estimate=st.integers(0, 3500))
    def ask(self, estimate: int) -> None:
        answer = self.key.admit(estimate, self.now, WALL)
        if answer is None:
            self.running.append(estimate)
            self.admitted.append(self.now)
        elif estimate > 3000 and len(self.running) < 4:
            assert answer.status == 400
        else:
            assert answer.status == 429
            assert (answer.retry_after or 0) >= 1

    @precondition(lambda self: self.running)
    @rule(share=st.floats(0, 2))
    def end(self, share: float) -> None:
        estimate = self.running.pop()
        self.key.settle(estimate, int(estimate * share), 0.0, self.now)

    @precondition(lambda self: not self.running)
    @rule(estimate=st.integers(0, 3000))
    def ask_and_wait_as_told(self, estimate: int) -> None:
        answer = self.key.admit(estimate, self.now, WALL)
        if answer is not None:
            self.now += answer.retry_after or 0
            assert self.key.admit(estimate, self.now, WALL) is None
        self.running.append(estimate)
        self.admitted.append(self.now)

    @invariant()
    def as_many_as_were_let_in_are_running(self) -> None:
        assert self.key.in_flight == len(self.running) <= 4

    @invariant()
    def no_minute_sees_more_than_twice_its_requests(self) -> None:
        recent = [at for at in self.admitted if at > self.now - 60]
        assert len(recent) <= 60


TestMinutes = Minutes.TestCase
TestMinutes.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
