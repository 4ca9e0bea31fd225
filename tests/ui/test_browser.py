"""The console in a browser: a page is a console of its own, and other sites have no part in it."""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
import threading
import time

import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from vllm_console.ui.browser import Browsers, same_site

FAKE_CONSOLE = """
import sys
out = sys.stdout.buffer
out.write(b"__GANGLION__\\n" + b"D" + (5).to_bytes(4, "big") + b"hello")
out.flush()
kind, size = sys.stdin.buffer.read(1), int.from_bytes(sys.stdin.buffer.read(4), "big")
sys.stdin.buffer.read(size)
"""


def children() -> set[object]:
    """Processes that this one has started, and the threads that wait for one."""
    waiting = {t for t in threading.enumerate() if t.name.startswith("waitpid")}
    return waiting | {child.pid for child in psutil.Process().children()}


async def children_ended(before: set[object]) -> None:
    """Wait until the loop has heard of the end of every child that was not there before."""
    deadline = time.monotonic() + 20.0
    while new := children() - before:
        assert time.monotonic() < deadline, f"{new}: {psutil.Process().children()}"
        await asyncio.sleep(0.01)
    for _ in range(5):  # what the thread that waited has handed over
        await asyncio.sleep(0)


async def browser() -> TestClient[web.Request, web.Application]:
    command = shlex.join([sys.executable, "-c", FAKE_CONSOLE])
    server = TestServer(await Browsers(command, "127.0.0.1", 8000)._make_app())
    client = TestClient(server)
    await client.start_server()
    return client


async def test_a_page_comes_back_to_the_name_it_was_asked_for_by() -> None:
    client = await browser()
    try:
        answer = await client.get("/", headers={"Host": "localhost:8123"})
        page = await answer.text()
        assert answer.status == 200
        assert "ws://localhost:8123/ws" in page
    finally:
        await client.close()


async def test_a_page_asks_no_other_host_for_anything() -> None:
    client = await browser()
    try:
        answer = await client.get("/")
        page = await answer.text()
        assert "font-src 'self'" in answer.headers["Content-Security-Policy"]
        here = f"//127.0.0.1:{client.port}/"
        asked = [
            url for url in re.findall(r"""["'(]\w*:(//[^"')]+)""", page) if "w3.org" not in url
        ]
        assert any(url.endswith("/css/xterm.css") for url in asked)
        assert [url for url in asked if not url.startswith(here)] == []
        (font,) = re.findall(r"""url\("[^"]+(/static/fonts/[^"]+)""", page)
        found = await client.get(font)
        assert found.status == 200
        assert len(await found.read()) > 100_000
    finally:
        await client.close()


async def test_what_the_console_draws_reaches_its_page() -> None:
    before = children()
    client = await browser()
    try:
        origin = f"http://127.0.0.1:{client.port}"
        async with client.ws_connect("/ws?width=90&height=30", headers={"Origin": origin}) as page:
            message = await page.receive(timeout=20)
            assert message.data == b"hello"
    finally:
        await client.close()
        await children_ended(before)


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}])
@pytest.mark.parametrize("path", ["/", "/ws"])
async def test_pages_of_other_sites_are_turned_away(path: str, headers: dict[str, str]) -> None:
    client = await browser()
    try:
        answer = await client.get(path, headers=headers)
        assert answer.status == 403
        assert "belongs to another site" in await answer.text()
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("host", "origin", "served", "same"),
    [
        ("127.0.0.1:8000", None, "127.0.0.1", True),
        ("localhost:8000", "http://localhost:8000", "127.0.0.1", True),
        ("[::1]:8000", "http://[::1]:8000", "::1", True),
        ("localhost:8000", "http://localhost:9000", "127.0.0.1", False),
        ("rebound.example:8000", "http://rebound.example:8000", "127.0.0.1", False),
        ("box-7:8000", "http://box-7:8000", "0.0.0.0", True),
        ("box-7:8000", "null", "0.0.0.0", False),
        ("", None, "127.0.0.1", False),
    ],
)
def test_a_request_is_of_our_page_by_its_host_and_origin(
    host: str, origin: str | None, served: str, same: bool
) -> None:
    assert same_site(host, origin, served) is same
