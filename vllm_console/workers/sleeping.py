"""vLLM's sleep mode over HTTP: an engine is told to sleep or to wake up, and asked which it does.

The endpoints are there with VLLM_SERVER_DEV_MODE=1 alone (vllm/entrypoints/serve/dev/sleep).
"""

from __future__ import annotations

import asyncio
import contextlib
import json

from vllm_console import http1

LEVELS = (1, 2)
"""1 keeps the weights in host memory, 2 nowhere: they are loaded anew from the disk."""
RELOAD_LEVEL = 2
ABORT_S = 30.0
"""What an engine may take to sleep once it waits for no request any more."""
_LOOK_TIMEOUT_S = 5.0


class NotDone(Exception):
    """The engine did not do it; one line that says why."""


async def fall_asleep(http: http1.Pool, url: str, level: int, patience_s: float) -> None:
    """Have an engine sleep; returns once it says that it does. Raises `NotDone`.

    Requests that run are waited for, for `patience_s`, then broken off. An engine that was told to
    sleep holds requests back even where it cannot: it is told to serve on, then.
    """
    try:
        await _lie_down(http, url, level, patience_s)
    except NotDone:
        with contextlib.suppress(NotDone):
            await wake_up(http, url, level, ABORT_S)
        if await is_asleep(http, url) is not True:
            raise


async def _lie_down(http: http1.Pool, url: str, level: int, patience_s: float) -> None:
    ask = f"{url}/sleep?level={level}&mode="
    waits = asyncio.create_task(_told(http, ask + "wait", patience_s + ABORT_S))
    try:
        done, _ = await asyncio.wait({waits}, timeout=patience_s)
        if not done:
            await _told(http, ask + "abort", ABORT_S)
        await waits
    finally:
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
    if await is_asleep(http, url) is False:
        raise NotDone("the engine says that it is awake after /sleep")


async def wake_up(http: http1.Pool, url: str, level: int, within_s: float) -> None:
    """Have an engine serve again; returns once it says that it does. Raises `NotDone`."""
    if level == RELOAD_LEVEL:  # memory first, then what is to be in it, then room for requests
        await _told(http, f"{url}/wake_up?tags=weights", within_s)
        body = json.dumps({"method": "reload_weights"}).encode()
        await _told(http, f"{url}/collective_rpc", within_s, body)
        await _told(http, f"{url}/wake_up?tags=kv_cache", within_s)
    else:
        await _told(http, f"{url}/wake_up", within_s)
    if await is_asleep(http, url) is not False:
        raise NotDone("the engine does not say that it is awake after /wake_up")


async def is_asleep(http: http1.Pool, url: str) -> bool | None:
    """Whether an engine says that it sleeps; `None` where it says nothing of it."""
    try:
        answer = await http.request("GET", f"{url}/is_sleeping", timeout=_LOOK_TIMEOUT_S)
        told = json.loads(answer.body) if answer.status == 200 else {}
    except (http1.HttpError, ValueError):
        return None
    asleep = told.get("is_sleeping") if isinstance(told, dict) else None
    return asleep if isinstance(asleep, bool) else None


async def _told(http: http1.Pool, url: str, timeout: float, body: bytes = b"") -> None:  # noqa: ASYNC109
    headers = [("content-type", "application/json")] if body else []
    try:
        answer = await http.request("POST", url, headers=headers, body=body, timeout=timeout)
    except http1.HttpError as error:
        raise NotDone(str(error)) from None
    if answer.status != 200:
        path = url.partition("://")[2].partition("/")[2].partition("?")[0]
        raise NotDone(f"/{path} says HTTP {answer.status}: {_first_words(answer.body)}")


def _first_words(body: bytes) -> str:
    """What an error's body says, one line of at most 200 characters."""
    text = body.decode(errors="replace")
    try:
        told = json.loads(text)
        text = str(told["error"]["message"] if "error" in told else told["detail"])
    except (ValueError, KeyError, TypeError):
        pass
    return " ".join(text.split())[:200] or "nothing more"
