"""A worker that somebody else started: watched at its address, never signalled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from vllm_console import snapshot
from vllm_console.errors import ConsoleError, InvalidInput
from vllm_console.http1 import HttpError, Pool, Response
from vllm_console.workers.launch import LaunchSpec, iso
from vllm_console.workers.states import SERVING, State

PROBE_S = 2.0
"""Seconds between two looks at /health; also how long one may take."""


class AttachedWorker:
    """Stands where a `Worker` stands for a model with engine = "attach".

    `load` begins to watch, `unload` ends it; the server itself is left alone. While it does not
    answer its state is queued, with the reason: it is ready by itself once it answers again.
    """

    def __init__(
        self,
        worker_id: str,
        model: str,
        url: str,
        *,
        http: Pool,
        on_change: Callable[[AttachedWorker, snapshot.Worker], None],
        api_key: Callable[[], str | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`api_key` is read anew before each question, in a thread; it may raise `ConsoleError`."""
        self.id = worker_id
        self.model = model
        self.engine = snapshot.Engine()
        self.spec: LaunchSpec | None = None
        """Nothing was launched."""
        self.state = State.STOPPED
        self._url = url.rstrip("/")
        self._http = http
        self._on_change = on_change
        self._api_key = api_key
        self._clock = clock
        self._reason: str | None = None
        self._since = clock()
        self._started_at: str | None = None
        self._watch: asyncio.Task[None] | None = None
        self._judged = False
        """Whether it has been asked at least once since it is watched."""

    @property
    def view(self) -> snapshot.Worker:
        """The lifecycle part of the snapshot; the process behind the address is not known."""
        return snapshot.Worker(
            id=self.id,
            state=self.state.value,
            reason=self._reason,
            url=self._url,
            elapsed_s=self._clock() - self._since if self.state in SERVING else None,
            started_at=self._started_at,
        )

    @property
    def serves(self) -> bool:
        """It can be asked now: it answers, or nobody has looked yet."""
        return self.state in SERVING or (self._watch is not None and not self._judged)

    def tree(self) -> list[int]:
        """No process of it is ours."""
        return []

    def load(self) -> None:
        """Begin to watch; nothing happens when it is watched already."""
        if self._watch is None:
            self._become(State.QUEUED, f"waits for an answer from {self._url}")
            self._watch = asyncio.get_running_loop().create_task(self._probe_for_ever())

    async def unload(self) -> None:
        """End watching; the server serves on."""
        await self.close()
        self._become(State.STOPPED, None)

    async def restart(self) -> None:
        """Raises `InvalidInput`: it is not ours to restart."""
        raise InvalidInput(f"{self.id} is attached ({self._url}): restart it where it runs")

    def stalled(self, reason: str) -> None:
        """Hear that requests run and no iteration finishes."""
        if self.state is State.READY:
            self._become(State.STALLED, reason)

    def resumed(self) -> None:
        """Hear that iterations finish again."""
        if self.state is State.STALLED:
            self._become(State.READY, None)

    async def close(self) -> None:
        """End the actor only."""
        watch, self._watch, self._judged = self._watch, None, False
        if watch is not None:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _probe_for_ever(self) -> None:
        while True:
            trouble = await self._probe()
            self._judged = True
            if trouble is None and self.state not in SERVING:
                self._become(State.READY, None)
            elif trouble is not None:
                self._become(State.QUEUED, f"{self._url}: {trouble}")
            await asyncio.sleep(PROBE_S)

    async def _probe(self) -> str | None:
        """Why it cannot serve; `None` when /health says 200 and /v1 takes our key, if it wants one.

        vLLM's `--api-key` guards /v1 alone: without the list a wrong key would look healthy.
        """
        try:
            key = await asyncio.to_thread(self._api_key)
            health = await self._ask("/health", None)
            if health.status != 200:
                return f"/health says HTTP {health.status}"
            listed = await self._ask("/v1/models", key)
        except (ConsoleError, HttpError) as error:
            return str(error)
        if listed.status not in (401, 403):
            return None
        if key is None:
            return 'needs an api key: set api_key = { file = "…" }'
        return "refuses the api key: look at api_key"

    async def _ask(self, path: str, key: str | None) -> Response:
        headers = [] if key is None else [("authorization", f"Bearer {key}")]
        return await self._http.request(
            "GET", f"{self._url}{path}", headers=headers, timeout=PROBE_S
        )

    def _become(self, state: State, reason: str | None) -> None:
        if (state, reason) == (self.state, self._reason):
            return
        if state is State.READY and self.state is not State.STALLED:
            self._since = self._clock()
            self._started_at = iso(time.time())
        self.state, self._reason = state, reason
        self._on_change(self, self.view)
