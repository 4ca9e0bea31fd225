"""The server of the endpoint: uvicorn's on a socket that already listens, with our connections.

serving = Serving(gateway, App(gateway, stats), sock)
await serving.run()          # until `stop`; signals are the caller's
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from time import monotonic
from typing import final

import uvicorn

from vllm_console.gateway.app import App
from vllm_console.gateway.connection import KEEP_S, Connection
from vllm_console.gateway.routes import Gateway

BACKLOG = 4096
"""Connections that may wait to be accepted; the kernel's somaxconn is the other bound."""
ACCEPTS = 16
"""Connections accepted in one round of the loop, at most."""
GRACE_S = 30.0
"""Seconds that requests may take to finish after `stop`, unless it says otherwise."""
LAST_WORDS_S = 5.0
"""Seconds that clients have, on top, to read how their requests ended."""
SWEEP_S = 0.5
"""Between two looks at deadlines: none is shorter than 5 s."""

_LOG = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """uvicorn's, but who may use its socket and its signals is decided elsewhere."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone."""
        yield


@final
class Serving:
    """The endpoint on one socket."""

    def __init__(
        self,
        gateway: Gateway,
        app: App,
        sock: socket.socket,
        *,
        tls_cert: str | None = None,
        tls_key: str | None = None,
    ) -> None:
        """`sock` listens, or is bound; it is closed when serving ends, a copy of it is not.

        `tls_cert` and `tls_key` are PEM files. Raises `OSError` or `ssl.SSLError` for files that
        are none.
        """
        self._gateway = gateway
        self._sock = sock
        self._sweep: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            loop="none",
            lifespan="off",
            interface="asgi3",
            backlog=BACKLOG,
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=round(KEEP_S),
            ssl_certfile=tls_cert,
            ssl_keyfile=tls_key,
        )
        config.load()
        self._server = _Server(config)

    @property
    def started(self) -> bool:
        """Whether connections are accepted."""
        return bool(self._server.started)

    async def run(self) -> None:
        """Serves until `stop`, then until the last request is over or its time is up."""
        self._look()
        try:
            # libuv accepts one connection a round of the loop and a handle: through one handle,
            # each client of a burst would wait for a round of all that are already served.
            copies = [self._sock.dup() for _ in range(ACCEPTS - 1)]
            await self._server.serve(sockets=[self._sock, *copies])
        finally:
            for timer in (self._sweep, self._end):
                if timer is not None:
                    timer.cancel()
            self._gateway.close()
            for connection in tuple(self._gateway.connections):
                connection.transport.abort()
            await asyncio.sleep(0)  # lets transports that were just closed say so

    def renew(self) -> None:
        """Takes the certificate as its files have it now, for connections to come.

        Raises `OSError` or `ssl.SSLError` for files that do not fit; the old one serves on.
        """
        config = self._server.config
        if config.ssl is not None and config.ssl_certfile is not None:
            trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            for context in (trial, config.ssl):
                context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile)

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Accepts nothing more, lets requests finish for `grace_s` seconds, ends the rest."""
        if self._server.should_exit:
            return
        self._server.should_exit = True
        self._server.config.timeout_graceful_shutdown = round(grace_s + LAST_WORDS_S)
        self._gateway.drain()
        self._end = asyncio.get_running_loop().call_later(grace_s, self._gateway.close)

    def _look(self) -> None:
        try:
            self._gateway.sweep(monotonic())
        except Exception:
            _LOG.exception("deadlines could not be looked at")
        self._sweep = asyncio.get_running_loop().call_later(SWEEP_S, self._look)
