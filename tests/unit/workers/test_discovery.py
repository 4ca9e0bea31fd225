"""Servers found by their sockets: fake vLLMs and strangers on real ports of 127.0.0.1."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vllm_console.http1 import Pool
from vllm_console.workers import discovery
from vllm_console.workers.discovery import Server, discover
from vllm_console.workers.sockets import listeners_by_port
from vllm_console.workers.strangers import Process

MODELS = json.dumps({"data": [{"id": "a", "owned_by": "vllm"}, {"id": "b", "owned_by": "vllm"}]})
VERSION = json.dumps({"version": "0.32.0"})
Answers = dict[str, tuple[int, str]]


@contextmanager
def answering(answers: Answers) -> Iterator[int]:
    """A fake server on a free port, with a body a path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, "{}"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def found(port: int, owned: dict[int, Path] | None = None) -> list[Server]:
    async def ask() -> list[Server]:
        http = Pool()
        try:
            table = {os.getpid(): Process(os.getpid(), 1, "python")}
            return await discover(http, table, owned or {}, {port: listeners_by_port()[port]})
        finally:
            await http.close()

    return asyncio.run(ask())


def test_a_server_tells_its_models_version_and_process() -> None:
    with answering({"/v1/models": (200, MODELS), "/version": (200, VERSION)}) as port:
        assert found(port) == [Server(port, ("a", "b"), "0.32.0", os.getpid())]
        assert found(port)[0].url == f"http://127.0.0.1:{port}"


def test_a_server_belongs_to_the_worker_whose_shim_is_above_it(tmp_path: Path) -> None:
    with answering({"/v1/models": (200, MODELS)}) as port:
        [server] = found(port, {os.getpid(): tmp_path})
        assert server.directory == tmp_path
        assert server.version is None


def test_behind_an_api_key_version_and_metrics_tell() -> None:
    guarded: Answers = {"/v1/models": (401, "{}"), "/version": (200, VERSION)}
    metrics = "# HELP x\nvllm:num_requests_running 0\n"
    with answering(guarded | {"/metrics": (200, metrics)}) as port:
        assert found(port) == [Server(port, None, "0.32.0", os.getpid())]
    with answering(guarded | {"/metrics": (200, "up 1\n")}) as port:
        assert found(port) == []


@pytest.mark.parametrize(
    "listed",
    [
        '{"data": [{"id": "a", "owned_by": "somebody-else"}]}',
        '{"data": []}',
        '{"data": {"id": "a"}}',
        '{"data": ["a"]}',
        "[]",
        "<html>",
    ],
)
def test_what_is_no_vllm_is_left_out(listed: str) -> None:
    with answering({"/v1/models": (200, listed), "/version": (200, VERSION)}) as port:
        assert found(port) == []


def test_a_port_that_says_nothing_costs_no_more_than_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discovery, "ANSWER_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert found(silent.getsockname()[1]) == []


def test_ports_of_other_protocols_are_not_asked() -> None:
    async def ask() -> list[Server]:
        return await discover(Pool(), {}, {}, {6379: frozenset({1}), 22: frozenset({2})})

    assert asyncio.run(ask()) == []
    assert {22, 6379} <= discovery.OTHERS
