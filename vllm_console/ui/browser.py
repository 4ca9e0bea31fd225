"""The console in a browser, by textual-serve; pages of other sites cannot talk to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web
from textual_serve.server import Server

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


def same_site(host: str, origin: str | None, served: str) -> bool:
    """Whether a request is of our own page.

    `host` and `origin` are its headers. A page of another site that opens our websocket has that
    site as its origin; one that has given its own name our address has that name as its host.
    """
    name = urlsplit(f"//{host}").hostname
    if served in _LOCAL and name not in _LOCAL:
        return False
    return origin is None or urlsplit(origin).netloc == host


class Browsers(Server):
    """One console a page."""

    def initialize_logging(self) -> None:
        """Say nothing of each request."""

    async def on_startup(self, app: web.Application) -> None:
        """Print no banner."""

    async def handle_index(self, request: web.Request) -> web.StreamResponse:
        """The page, which comes back to the name that it was asked for by."""
        self.public_url = f"{request.scheme}://{request.host}"
        answer: web.StreamResponse = await super().handle_index(request)
        return answer

    async def _make_app(self) -> web.Application:
        app: web.Application = await super()._make_app()

        @web.middleware
        async def guard(request: web.Request, handler: Answer) -> web.StreamResponse:
            if same_site(request.host, request.headers.get("Origin"), self.host):
                return await handler(request)
            raise web.HTTPForbidden(text="this page belongs to another site")

        app.middlewares.append(guard)
        return app


def serve(command: str, host: str, port: int) -> None:
    """Serve the console that `command` starts, until interrupted."""
    Browsers(command, host, port, title="vllm-console").serve()
