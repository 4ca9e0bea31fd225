"""Scrapes many workers side by side: one task a worker, so that a hung one slows nobody."""

from __future__ import annotations

import asyncio
import logging
import math
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Protocol

from vllm_console.http1 import BadResponse, HttpError, Response
from vllm_console.telemetry.filtered import WHOLE_PATH, Filter
from vllm_console.telemetry.parse import ParseError, Parser
from vllm_console.telemetry.sample import Miss, Sample, engines_changed, restarted

DEADLINE = 0.8
"""Share of the interval that a scrape may take before it counts as missed."""
MAX_TEXT = 4 << 20
"""Bytes of the largest text that is read: one of 32 engines with fine buckets has 3 MB."""
_HEADERS = (("Accept", "text/plain"), ("Accept-Encoding", "identity"))
_OK = 200
_EARLY_S = 0.001
"""A timer may fire this early and still be the one that was set."""

_log = logging.getLogger(__name__)


class Requests(Protocol):
    """The part of `http1.Pool` that scraping uses."""

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        timeout: float,  # noqa: ASYNC109
    ) -> Response:
        """One exchange, ended within `timeout` seconds; raises `HttpError`."""


class Scraper:
    """Asks every worker for its /metrics once an interval, for one event loop.

    Each worker has its own phase in the interval (by a hash of its id), so that scrapes spread
    out. A scrape that takes longer than `DEADLINE` of its interval is a miss; one that is due
    while the one before still runs is dropped, never queued. After `remove` or `close` returns,
    nothing more is reported of the workers concerned.

    The first text of a process is asked for whole, the next ones for our vocabulary alone; where
    such an answer is odd, the whole text follows at once, and is all that is asked for until the
    process ends. The first sample of another process, or of other engines, is a miss: what came
    between is not known.
    """

    def __init__(
        self,
        pool: Requests,
        *,
        interval_s: float = 1.0,
        on_sample: Callable[[str, Sample], None],
        on_miss: Callable[[str, Miss], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._interval_s = interval_s
        self._on_sample = on_sample
        self._on_miss = on_miss
        self._clock = clock
        self._targets: dict[str, _Target] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def add(self, worker_id: str, url: str) -> None:
        """Starts scraping a worker (base URL, as in "http://127.0.0.1:8000").

        A worker that is already scraped starts afresh at the new URL.
        """
        self.remove(worker_id)
        target = _Target(worker_id, url.rstrip("/"), self._interval_s)
        target.task = asyncio.get_running_loop().create_task(self._follow(target))
        self._targets[worker_id] = target

    def remove(self, worker_id: str) -> None:
        """Stops scraping a worker; nothing happens for one that is not scraped."""
        target = self._targets.pop(worker_id, None)
        if target is not None and target.task is not None:
            target.task.cancel()
            self._ending.add(target.task)
            target.task.add_done_callback(self._ending.discard)

    def set_interval(self, worker_id: str, interval_s: float) -> None:
        """Scrapes one worker every `interval_s` seconds from now on; unknown workers are ignored.

        A shorter interval holds at once, without waiting for the end of the longer one.
        """
        target = self._targets.get(worker_id)
        if target is not None and target.interval_s != interval_s:
            target.interval_s = interval_s
            target.wake()

    async def close(self) -> None:
        """Stops all scraping and returns when every task has ended."""
        for worker_id in tuple(self._targets):
            self.remove(worker_id)
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _follow(self, target: _Target) -> None:
        while True:
            await target.due()
            try:
                await self._scrape(target)
            except Exception:
                _log.exception("a scrape of %s could not be reported", target.worker_id)

    async def _scrape(self, target: _Target) -> None:
        allowed = DEADLINE * target.interval_s
        try:
            sample = await self._sample(target, allowed)
        except (HttpError, ParseError, _Odd) as error:
            reason = str(error)
        except TimeoutError:
            reason = f"timed out after {allowed:g} s"
        else:
            broken = target.interruption(sample)
            if broken is None:
                self._on_sample(target.worker_id, sample)
                return
            reason = broken
        self._on_miss(target.worker_id, Miss(self._clock(), reason))

    async def _sample(self, target: _Target, allowed: float) -> Sample:
        """One sample within `allowed` seconds, by the filtered path where there is one."""
        now = asyncio.get_running_loop().time
        end = now() + allowed
        path = target.filter.path
        if path is not None:
            try:
                _, sample = await self._ask(target, path, allowed)
                if target.filter.accepts(sample):
                    return sample
            except (BadResponse, ParseError, _Odd):
                pass  # whether it is the filter or the worker, the whole text will tell
            except (HttpError, TimeoutError):
                target.filter.unanswered()
                raise
        left = allowed if path is None else max(0.0, end - now())
        text, sample = await self._ask(target, WHOLE_PATH, left)
        if path is None:
            target.filter.learn(text, sample)
        else:
            target.filter.give_up()
        return sample

    async def _ask(self, target: _Target, path: str, allowed: float) -> tuple[bytes, Sample]:
        answer = await self._pool.request(
            "GET", target.url + path, headers=_HEADERS, timeout=allowed
        )
        if answer.status != _OK:
            raise _Odd(f"HTTP {answer.status}")
        if len(answer.body) > MAX_TEXT:
            raise _Odd(f"a text of {len(answer.body)} bytes is not read, only {MAX_TEXT}")
        return answer.body, target.parser.parse(answer.body, self._clock())


class _Odd(Exception):
    """An answer that is not worth parsing. `str(error)` says why."""


class _Target:
    """One worker: where it is, when it is due, and what its last text looked like."""

    def __init__(self, worker_id: str, url: str, interval_s: float) -> None:
        self.worker_id = worker_id
        self.url = url
        self.interval_s = interval_s
        self.parser = Parser()
        self.filter = Filter()
        self.task: asyncio.Task[None] | None = None
        self._phase = zlib.crc32(worker_id.encode()) / 2**32
        self._last = -math.inf
        self._newest: Sample | None = None
        self._waiter: asyncio.Future[None] | None = None

    def interruption(self, sample: Sample) -> str | None:
        """Takes in the newest sample; why it does not go on from the one before, if so."""
        old = self._newest
        if old is not None and sample.at < old.at:
            return f"the clock went back by {old.at - sample.at:.1f} s"
        self._newest = sample
        if old is None:
            return None
        if restarted(old, sample):
            self.filter.forget()
            return "another process answers: its counts begin anew"
        if engines_changed(old, sample):
            before, now = (len(one.engines) or 1 for one in (old, sample))
            return f"it has other engines than before: {now} after {before}"
        return None

    async def due(self) -> None:
        """Returns at the worker's next place in the interval."""
        loop = asyncio.get_running_loop()
        while True:
            at = self._next(loop.time())
            self._waiter = loop.create_future()
            timer = loop.call_at(at, self.wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
            if loop.time() >= at - _EARLY_S:
                self._last = at
                return

    def wake(self) -> None:
        """Ends the current wait, to look at the clock again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _next(self, now: float) -> float:
        """The next point of the worker's grid, at least half an interval after the last one."""
        after = max(now, self._last + self.interval_s / 2)
        phase = self._phase * self.interval_s
        return (math.floor((after - phase) / self.interval_s) + 1) * self.interval_s + phase
