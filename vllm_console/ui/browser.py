"""The console in a browser, by textual-serve; it and pages of other sites have nothing to do with
each other.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web
from textual_serve.server import Server

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
_FONT_ELSEWHERE = re.compile(r'<link[^>]*href="https://fonts[.][^>]*>')
"""textual-serve has its font with it, and asks another host for it all the same."""
_FONT = """<style>@font-face {{ font-family: "Roboto Mono"; font-weight: 100 700;
src: url("{}/static/fonts/RobotoMono-VariableFont_wght.ttf") }}</style>"""
_LOADS = "style-src 'self' 'unsafe-inline'; font-src 'self' data:; frame-ancestors 'none'"
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
        """The page, which comes back to the name that it was asked for by, and to no other."""
        self.public_url = f"{request.scheme}://{request.host}"
        answer = await super().handle_index(request)
        assert isinstance(answer, web.Response)
        answer.text = _FONT_ELSEWHERE.sub(_FONT.format(self.public_url), answer.text or "")
        answer.headers["Content-Security-Policy"] = _LOADS
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
