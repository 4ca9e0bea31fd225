"""The port of 127.0.0.1 that answers /metrics and nothing else."""

from __future__ import annotations

import asyncio
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing

import pytest
import uvicorn

from vllm_console.control.metrics_port import MetricsApi, listen
from vllm_console.errors import ConsoleError

TEXT = b"vllm_console_alerts 0\n"


@pytest.fixture
def url() -> Iterator[str]:
    listening = listen(0)
    server = uvicorn.Server(
        uvicorn.Config(MetricsApi(lambda: TEXT), lifespan="off", log_config=None, ws="none")
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


def test_metrics_are_answered_as_prometheus_text(url: str) -> None:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        assert answer.read() == TEXT
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/v1/snapshot", "GET", 404), ("/v1/commands", "POST", 404), ("/metrics", "POST", 405)],
)
def test_nothing_else_is_there(url: str, path: str, method: str, status: int) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(
            urllib.request.Request(url + path, method=method, data=None), timeout=10
        )
    with closing(refused.value):
        assert refused.value.code == status


def test_a_port_that_is_taken_is_told_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConsoleError, match=rf"metrics\.port {port}: cannot listen there"):
            listen(port)
