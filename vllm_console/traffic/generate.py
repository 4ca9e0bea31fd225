"""An open-loop traffic generator: requests leave when they arrive, not when answers come."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from vllm_console.http1 import (
    BadResponse,
    ConnectFailed,
    Disconnected,
    HttpError,
    Pool,
    RequestTimedOut,
)
from vllm_console.traffic.lengths import Lengths
from vllm_console.traffic.prompts import Prompts
from vllm_console.traffic.summary import Summary, Tally

_KINDS: tuple[tuple[type[HttpError], str], ...] = (
    (ConnectFailed, "refused"),
    (RequestTimedOut, "timeout"),
    (Disconnected, "disconnected"),
    (BadResponse, "bad-response"),
)
_FIRST_GUESS = 4.0
"""Tokens a word before a model has answered once: high, so that no prompt is too long."""
_NEWEST = 0.2
"""Weight of the newest answer in what is known of a model's tokens a word."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests for a model can go now."""

    model: str
    url: str
    """Of the worker, without a path: http://127.0.0.1:8000"""
    context: int = 2048
    """Tokens of prompt and answer together that the model takes."""


class _Failed(Exception):
    """An answer that came and is no success; its text is the kind of error."""


class Generator:
    """Sends streamed chat completions to the targets in turn and counts what comes back.

    `targets` is asked at every arrival. An arrival beyond `max_in_flight` requests is dropped and
    counted, never queued: waiting would turn the open loop into a closed one and hide the load.
    """

    def __init__(
        self,
        pool: Pool,
        targets: Callable[[], Sequence[Target]],
        arrivals: Iterable[float],
        lengths: Iterable[Lengths],
        *,
        max_in_flight: int = 64,
        request_timeout: float = 120.0,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._pool = pool
        self._targets = targets
        self._arrivals = iter(arrivals)
        self._lengths = iter(lengths)
        self._max_in_flight = max_in_flight
        self._request_timeout = request_timeout
        self._clock = clock
        self._sleep = sleep
        self._prompts = Prompts(seed)
        self._tallies: dict[str, Tally] = {}
        self._tokens_per_word: dict[str, float] = {}
        self._in_flight: set[asyncio.Task[None]] = set()
        self._arriving: asyncio.Task[None] | None = None
        self._turn = 0
        self._dropped = 0
        self._unrouted = 0
        self._first_token_at: float | None = None
        self._started: float | None = None
        self._ended: float | None = None

    async def run(self, *, seconds: float | None = None, drain_s: float = 10.0) -> None:
        """Sends until `seconds` are over, the arrivals end or `stop` is called.

        Then waits up to `drain_s` seconds for the answers under way and gives up the rest, which
        count as errors of the kind "abandoned".
        """
        self._started = self._clock()
        self._arriving = asyncio.create_task(self._arrive(self._started, seconds))
        try:
            await asyncio.wait({self._arriving})
            self._ended = self._clock()
            if not self._arriving.cancelled():
                self._arriving.result()
            if self._in_flight:
                await asyncio.wait(set(self._in_flight), timeout=drain_s)
        finally:
            left = {self._arriving, *self._in_flight}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def stop(self) -> None:
        """Ends the arrivals; `run` returns when the answers under way are in."""
        if self._arriving is not None:
            self._arriving.cancel()

    def summary(self) -> Summary:
        """What has come back so far."""
        now = self._clock() if self._ended is None else self._ended
        return Summary(
            seconds=0.0 if self._started is None else now - self._started,
            in_flight=len(self._in_flight),
            dropped=self._dropped,
            unrouted=self._unrouted,
            first_token_at=self._first_token_at,
            models=tuple(tally.summary(name) for name, tally in sorted(self._tallies.items())),
        )

    async def _arrive(self, started: float, seconds: float | None) -> None:
        for at in self._arrivals:
            until = at if seconds is None else min(at, seconds)
            wait = started + until - self._clock()
            if wait > 0:
                await self._sleep(wait)
            if seconds is not None and at >= seconds:
                return
            self._dispatch(next(self._lengths))

    def _dispatch(self, lengths: Lengths) -> None:
        targets = self._targets()
        if not targets:
            self._unrouted += 1
            return
        if len(self._in_flight) >= self._max_in_flight:
            self._dropped += 1
            return
        target = targets[self._turn % len(targets)]
        self._turn += 1
        task = asyncio.create_task(self._request(target, lengths.within(target.context)))
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)

    async def _request(self, target: Target, lengths: Lengths) -> None:
        tally = self._tallies.setdefault(target.model, Tally())
        tally.sent += 1
        try:
            await self._exchange(target, lengths, tally)
            tally.ok += 1
        except _Failed as failed:
            tally.errors[str(failed)] += 1
        except HttpError as error:
            kind = next((name for cls, name in _KINDS if isinstance(error, cls)), "bad-request")
            tally.errors[kind] += 1
        except asyncio.CancelledError:
            tally.errors["abandoned"] += 1
            raise

    async def _exchange(self, target: Target, lengths: Lengths, tally: Tally) -> None:
        """One request; returns when its answer is complete."""
        per_word = self._tokens_per_word.get(target.model, _FIRST_GUESS)
        words = max(1, int(lengths.prompt / per_word))
        body = {
            "model": target.model,
            "messages": self._prompts.messages(words),
            "max_tokens": lengths.output,
            "temperature": 1.0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        sent = self._clock()
        async with self._pool.stream(
            "POST",
            f"{target.url.rstrip('/')}/v1/chat/completions",
            headers=[("content-type", "application/json")],
            body=json.dumps(body).encode(),
            timeout=self._request_timeout,
        ) as response:
            if response.status != 200:
                raise _Failed(f"http-{response.status}")
            buffer = b""
            usage: bytes | None = None
            first = done = False
            async for piece in response.chunks():
                *events, buffer = (buffer + piece).split(b"\n\n")
                for event in events:
                    if event.startswith(b'data: {"error"'):
                        raise _Failed("in-stream")
                    if not first and event.startswith(b"data: {"):
                        first = True
                        tally.ttft.add(self._clock() - sent)
                        if self._first_token_at is None:
                            self._first_token_at = time.time()
                    if b'"usage":{' in event:
                        usage = event
                    done = done or event == b"data: [DONE]"
        if not done or usage is None:
            raise _Failed("incomplete")
        tally.e2e.add(self._clock() - sent)
        prompt, output = _tokens(usage)
        tally.prompt_tokens += prompt
        tally.output_tokens += output
        seen = prompt / words
        known = self._tokens_per_word.get(target.model, seen)
        self._tokens_per_word[target.model] = max(0.1, known + _NEWEST * (seen - known))


def _tokens(event: bytes) -> tuple[int, int]:
    """Prompt and generated tokens of the event that carries the usage."""
    try:
        usage = json.loads(event.removeprefix(b"data: "))["usage"]
        return int(usage["prompt_tokens"]), int(usage["completion_tokens"])
    except (ValueError, KeyError, TypeError):
        raise _Failed("bad-response") from None
