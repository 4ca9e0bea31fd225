"""Who may use the endpoint: keys found by the hash of their secret, and what each has left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence

from vllm_console.fleet.key_names import ANONYMOUS
from vllm_console.gateway.budgets import Bucket, Month
from vllm_console.gateway.refusals import Refused, refused
from vllm_console.history.account_rows import NOBODY, KeyRow, Terms, hash_of

PREFIX = b"vc-"
"""How every secret begins that `keys create` makes."""
_BUSY_RETRY_S = 1.0
"""Nobody knows when one of a key's own requests ends; most take about this long or longer."""
_CLOSED_RETRY_S = 5.0
_BEARER = b"bearer "
_CHALLENGE = ((b"www-authenticate", b"Bearer"),)
"""A 401 has to say how to authenticate (RFC 9110 section 11.6.1)."""


class Key:
    """A client's key with its live counters; the same object for as long as the key holds.

    Times `now` are seconds of a clock that never goes back, `wall` and `expires` of the epoch.
    """

    __slots__ = (
        "_month", "_requests", "_tokens", "_unlimited", "budget", "concurrency", "expires", "id",
        "in_flight", "max_class", "models", "name",
    )  # fmt: skip

    def __init__(self, number: int, name: str, terms: Terms, now: float, wall: float) -> None:
        self.id = number
        self.name = name
        self.in_flight = 0
        self._requests: Bucket | None = None
        self._tokens: Bucket | None = None
        self._month = Month(wall)
        self.agree(terms, now)

    def agree(self, terms: Terms, now: float) -> None:
        """Hold to these terms from now on; what runs and what was used stays counted."""
        self.models = None if terms.models is None else frozenset(terms.models)
        self.max_class = terms.max_class
        self.concurrency = terms.concurrency
        self.budget = terms.budget
        self.expires = terms.expires
        self._requests = _resized(self._requests, terms.rpm, now)
        self._tokens = _resized(self._tokens, terms.tpm, now)
        self._unlimited = all(
            limit is None for limit in (self.concurrency, self.budget, self._requests, self._tokens)
        )

    def allows(self, model: str) -> bool:
        """Whether it may use a model, by the name it has in the fleet."""
        return self.models is None or model in self.models

    def admit(self, estimate: int, now: float, wall: float) -> Refused | None:
        """Count one more request of about so many tokens, or say why it may not be.

        All of it or nothing is reserved. Each request that was admitted is settled once.
        """
        if self._unlimited:
            self.in_flight += 1
            return None
        if self.budget is not None and self._month.at(wall) >= self.budget:
            return self._out_of_quota()
        if self.concurrency is not None and self.in_flight >= self.concurrency:
            return self._slow_down(f"{self.concurrency} requests at a time", _BUSY_RETRY_S)
        requests, tokens = self._requests, self._tokens
        if tokens is not None:
            if estimate > tokens.burst:
                return self._too_large(estimate, tokens.burst)
            if (seconds := tokens.lacks(estimate, now)) > 0.0:
                return self._slow_down(f"{tokens.burst:.0f} tokens a minute", seconds)
        if requests is not None:
            if (seconds := requests.lacks(1.0, now)) > 0.0:
                return self._slow_down(f"{requests.burst:.0f} requests a minute", seconds)
            requests.take(1.0)
        if tokens is not None:
            tokens.take(estimate)
        self.in_flight += 1
        return None

    def settle(self, estimate: int, used: int, cost: float, now: float) -> None:
        """One request is over: it used so many tokens in truth, more than estimated perhaps.

        A request that was refused after all, or never reached a worker, used 0.
        """
        self.in_flight -= 1
        if self._tokens is not None and estimate != used:
            self._tokens.lacks(0.0, now)
            self._tokens.take(used - estimate)
        if cost:
            self._month.spent += cost

    def spent(self, wall: float) -> float:
        """$ in the UTC month of this time."""
        return self._month.at(wall)

    def learn(self, spent: float, wall: float) -> None:
        """What the file says it spent this month: another process may have counted some of it."""
        self._month.at_least(spent, wall)

    def _slow_down(self, limit: str, seconds: float) -> Refused:
        wait = max(1, math.ceil(seconds))
        return refused(
            429,
            f"the key {self.name} may have {limit}; try again in {wait} s",
            retry_after=wait,
        )

    def _too_large(self, estimate: int, most: float) -> Refused:
        return refused(
            400,
            f"the request may take {estimate} tokens, and the key {self.name} has {most:.0f} a "
            "minute: it can never run; shorten it, or ask for less max_tokens",
            code="tokens_exceed_limit",
        )

    def _out_of_quota(self) -> Refused:
        return Refused(
            429,
            f"the key {self.name} has used up its ${self.budget:g} of this month (UTC)",
            type="insufficient_quota",
            code="insufficient_quota",
        )


class Keyring:
    """Every key that holds, and whether one is needed at all.

    A secret is looked up by its SHA-256, so that the time that takes tells nothing about it.
    """

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._by_hash: dict[bytes, Key] = {}
        self._by_id: dict[int, Key] = {}
        self._numbers = {ANONYMOUS: NOBODY}
        self.allow_anonymous = False
        """Whether requests without a key are served."""
        self.anonymous = Key(NOBODY, ANONYMOUS, _ANYBODY, monotonic(), wall())
        """Who requests without a key are counted for; keys, where there are any, go before."""
        self.trouble: str | None = None
        """Why the stored keys cannot be read now; a key that is not known is then not refused
        for good, nor let in."""

    def __iter__(self) -> Iterator[Key]:
        """The keys that hold."""
        return iter(self._by_id.values())

    def find(self, authorization: bytes | None, x_api_key: bytes | None) -> Key | Refused:
        """The key that a request's headers show, or why there is none.

        Where no key is needed, one that is none of ours counts as none: clients that insist on
        sending something send a word such as EMPTY.
        """
        ours = known = False
        if authorization is not None and authorization[:7].lower() == _BEARER:
            secret = authorization[7:].strip()
            if (key := self._by_hash.get(hash_of(secret))) is not None:
                return key if key.expires is None else self._in_time(key)
            ours, known = secret.startswith(PREFIX), bool(secret)
        if x_api_key is not None:
            secret = x_api_key.strip()
            if (key := self._by_hash.get(hash_of(secret))) is not None:
                return key if key.expires is None else self._in_time(key)
            ours, known = ours or secret.startswith(PREFIX), known or bool(secret)
        if self.allow_anonymous and not ours:
            return self.anonymous
        return self._unknown() if known else _no_key()

    def number(self, name: str) -> int | None:
        """The number of the key of this name, of one that was just revoked too."""
        return self._numbers.get(name)

    def replace(self, rows: Sequence[KeyRow]) -> None:
        """Hold to these keys alone; the live counters of those that stay go on."""
        now, wall = self._monotonic(), self._wall()
        by_hash: dict[bytes, Key] = {}
        by_id: dict[int, Key] = {}
        for row in rows:
            if row.revoked is not None:
                continue
            key = self._by_id.get(row.id)
            if key is None:
                key = Key(row.id, row.name, row.terms, now, wall)
            else:
                key.agree(row.terms, now)
            key.learn(row.spent, wall)
            by_hash[row.hash] = by_id[row.id] = key
            self._numbers[row.name] = row.id
        self._by_hash, self._by_id = by_hash, by_id
        self.anonymous.max_class = 1 if by_id else 0

    def _in_time(self, key: Key) -> Key | Refused:
        if key.expires is None or self._wall() < key.expires:
            return key
        day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(key.expires))
        return refused(
            401,
            f"the key {key.name} expired on {day}",
            code="key_expired",
            headers=_CHALLENGE,
        )

    def _unknown(self) -> Refused:
        if self.trouble is None:
            return refused(
                401,
                "this key is not known, or was revoked",
                headers=_CHALLENGE,
            )
        return refused(
            503,
            "the keys cannot be read now, and this one is not among those known",
            code="keys_unavailable",
            retry_after=_CLOSED_RETRY_S,
        )


def _resized(bucket: Bucket | None, per_minute: int | None, now: float) -> Bucket | None:
    if per_minute is None:
        return None
    if bucket is None:
        return Bucket(per_minute, now)
    if bucket.burst != per_minute:
        bucket.resize(per_minute, now)
    return bucket


_ANYBODY = Terms(max_class=0)


def _no_key() -> Refused:
    return refused(
        401,
        "a key is needed: send it as `Authorization: Bearer …` or `x-api-key: …`",
        code="missing_api_key",
        headers=_CHALLENGE,
    )
