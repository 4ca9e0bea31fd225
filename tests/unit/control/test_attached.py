"""A worker somebody else started: followed by its answers alone, never touched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from vllm_console import http1, snapshot
from vllm_console.control import attached
from vllm_console.control.attached import AttachedWorker
from vllm_console.errors import InvalidInput
from vllm_console.workers.states import State


class FakeServer(http1.Pool):
    """Answers /health with a status that tests change; `None` refuses the connection.

    With a `key` it guards /v1 as `vllm serve --api-key` does.
    """

    def __init__(self, status: int | None) -> None:
        super().__init__()
        self.status = status
        self.key: str | None = None
        self.asked: list[tuple[str, str]] = []
        self.told: list[str] = []
        """The credentials it was sent."""

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        timeout: float,  # noqa: ASYNC109 - the pool's own signature
    ) -> http1.Response:
        self.asked.append((method, url))
        if self.status is None:
            raise http1.ConnectFailed("connection refused")
        sent = dict(headers).get("authorization")
        self.told += [sent] if sent else []
        if self.key is not None and "/v1/" in url and sent != f"Bearer {self.key}":
            return http1.Response(401, [], b"")
        return http1.Response(self.status, [], b"")


class Followed:
    """An attached worker and the states it went through."""

    def __init__(
        self, status: int | None, api_key: Callable[[], str | None] = lambda: None
    ) -> None:
        self.server = FakeServer(status)
        self.states: list[tuple[str, str | None]] = []
        self.worker = AttachedWorker(
            "old-1",
            "old",
            "http://10.0.0.7:8000/",
            http=self.server,
            on_change=self._changed,
            api_key=api_key,
        )

    def _changed(self, worker: AttachedWorker, view: snapshot.Worker) -> None:
        self.states.append((view.state, view.reason))

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():  # noqa: ASYNC110 - the probe tells nobody
                await asyncio.sleep(0.01)


def test_it_is_ready_when_it_answers_and_serves_on_when_it_is_unloaded() -> None:
    async def scenario() -> Followed:
        followed = Followed(200)
        followed.worker.load()
        await followed.until(lambda: followed.worker.state is State.READY)
        assert followed.worker.view.elapsed_s is not None
        assert followed.worker.tree() == []
        await followed.worker.unload()
        return followed

    followed = asyncio.run(scenario())
    assert [state for state, _ in followed.states] == ["queued", "ready", "stopped"]
    assert {method for method, _ in followed.server.asked} == {"GET"}
    assert followed.server.asked[0][1] == "http://10.0.0.7:8000/health"


def test_one_that_does_not_answer_waits_with_the_reason_and_is_ready_by_itself() -> None:
    async def scenario() -> Followed:
        followed = Followed(None)
        followed.worker.load()
        await followed.until(lambda: "refused" in (followed.worker.view.reason or ""))
        assert followed.worker.view.started_at is None
        followed.server.status = 503
        await followed.until(lambda: "HTTP 503" in (followed.worker.view.reason or ""))
        followed.server.status = 200
        await followed.until(lambda: followed.worker.state is State.READY)
        await followed.worker.close()
        return followed

    followed = asyncio.run(scenario())
    assert followed.states[-1] == ("ready", None)
    assert all(state == "queued" for state, _ in followed.states[:-1])


def test_it_cannot_be_restarted_from_here() -> None:
    async def scenario() -> None:
        await Followed(200).worker.restart()

    with pytest.raises(InvalidInput, match="restart it where it runs"):
        asyncio.run(scenario())


def test_a_stall_is_told_and_mended_by_progress() -> None:
    async def scenario() -> list[tuple[str, str | None]]:
        followed = Followed(200)
        followed.worker.stalled("too early")
        followed.worker.load()
        await followed.until(lambda: followed.worker.state is State.READY)
        followed.worker.stalled("no iteration for 30 s")
        followed.worker.resumed()
        await followed.worker.close()
        return followed.states

    assert asyncio.run(scenario())[1:] == [
        ("ready", None),
        ("stalled", "no iteration for 30 s"),
        ("ready", None),
    ]


def test_a_server_that_wants_a_key_says_so_and_is_ready_once_it_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attached, "PROBE_S", 0.01)
    given: list[str | None] = [None]

    async def scenario() -> Followed:
        followed = Followed(200, lambda: given[0])
        followed.server.key = "sesame"
        followed.worker.load()
        await followed.until(lambda: "needs an api key" in (followed.worker.view.reason or ""))
        given[0] = "wrong"
        await followed.until(lambda: "refuses the api key" in (followed.worker.view.reason or ""))
        given[0] = "sesame"
        await followed.until(lambda: followed.worker.state is State.READY)
        await followed.worker.close()
        return followed

    followed = asyncio.run(scenario())
    reasons = [reason or "" for _, reason in followed.states]
    assert 'http://10.0.0.7:8000: needs an api key: set api_key = { file = "…" }' in reasons
    assert not [reason for reason in reasons if "sesame" in reason or "wrong" in reason]
    assert set(followed.server.told) == {"Bearer wrong", "Bearer sesame"}
    assert ("GET", "http://10.0.0.7:8000/v1/models") in followed.server.asked


def test_a_key_that_cannot_be_read_is_the_reason() -> None:
    def missing() -> str:
        raise InvalidInput("models.old.api_key: cannot read secrets/old: No such file")

    async def scenario() -> None:
        followed = Followed(200, missing)
        followed.worker.load()
        await followed.until(
            lambda: "cannot read secrets/old" in (followed.worker.view.reason or "")
        )
        assert followed.server.asked == []
        await followed.worker.close()

    asyncio.run(scenario())
