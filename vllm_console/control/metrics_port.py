"""The optional port of 127.0.0.1 that answers /metrics, and nothing else."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from vllm_console.control.exposition import CONTENT_TYPE
from vllm_console.errors import ConsoleError

Message = MutableMapping[str, Any]


class MetricsApi:
    """A pure ASGI application over one source of Prometheus text."""

    def __init__(self, metrics: Callable[[], bytes]) -> None:
        self._metrics = metrics

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer GET and HEAD of /metrics; 404 and 405 for all else."""
        if scope["type"] != "http":
            return
        status, body, kind = 200, b"", CONTENT_TYPE
        if scope["path"] != "/metrics":
            status, body, kind = 404, b"only /metrics is here\n", b"text/plain; charset=utf-8"
        elif scope["method"] not in ("GET", "HEAD"):
            status, body, kind = 405, b"GET only\n", b"text/plain; charset=utf-8"
        else:
            body = self._metrics()
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        shown = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": shown})


def listen(port: int) -> socket.socket:
    """A socket that listens on 127.0.0.1; raises `ConsoleError` when the port is taken."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise ConsoleError(
            f"metrics.port {port}: cannot listen there ({error.strerror}); /metrics is on the "
            "control socket alone until the port is changed and the daemon started again"
        ) from None
    return listening
