"""What is measured: our gateway with everything on, the backends alone, and other gateways.

The others are installed into `.engines/rivals/`, each in an environment of its own; one that cannot
be had on a machine is left out with a line that says why.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import ROOT
from benchmarks.gateway.ours import standalone
from benchmarks.gateway.processes import TARGET_CORE, Missing, free_ports, running
from vllm_console.engines.uv import find_uv

RIVALS = Path(os.environ.get("VLLM_CONSOLE_ENGINES", ROOT / ".engines")) / "rivals"
KEY = "sk-bench"
MODEL = "mock"
START_S = 60.0

NGINX = """
worker_processes 1; daemon off; master_process off; pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  upstream workers {{ least_conn; {servers} keepalive 512; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://workers; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""
LITELLM = """
model_list:
{models}
router_settings: {{routing_strategy: simple-shuffle, num_retries: 1}}
litellm_settings: {{telemetry: false, drop_params: false}}
general_settings: {{master_key: {key}, disable_spend_logs: true}}
"""
LITELLM_MODEL = """  - model_name: {model}
    litellm_params: {{model: hosted_vllm/{model}, api_base: "http://127.0.0.1:{port}/v1",
      api_key: none, input_cost_per_token: 0.000001, output_cost_per_token: 0.000002}}
    model_info: {{mode: chat}}
"""


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers on a port while it runs."""

    port: int
    pid: int | None
    """Whose tree is what it costs; `None` for the backends alone."""
    key: str
    start_s: float
    """From the start of its process to its first answer."""


Start = Callable[[Path, Sequence[int]], AbstractContextManager[Target]]
"""Starts a target in an empty directory in front of the backends on these ports."""


def answers(port: int, key: str) -> bool:
    """Whether one completion through this port succeeds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    try:
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        response.read()
        return response.status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def direct(directory: Path, workers: Sequence[int]) -> Iterator[Target]:
    """The first backend, with nothing in between."""
    yield Target(workers[0], None, KEY, 0.0)


@contextmanager
def ours(directory: Path, workers: Sequence[int]) -> Iterator[Target]:
    """Our gateway: a key with limits, a queue, usage, measures and an access log."""
    began = time.monotonic()
    with standalone(directory, {MODEL: workers}, core=TARGET_CORE) as gateway:
        _wait(gateway.port, gateway.secret, gateway.log)
        yield Target(gateway.port, gateway.pid, gateway.secret, time.monotonic() - began)


@contextmanager
def nginx(directory: Path, workers: Sequence[int]) -> Iterator[Target]:
    """nginx without keys, models or counting: the floor, no rival."""
    program = shutil.which("nginx") or shutil.which("nginx", path=str(RIVALS / "nginx/usr/sbin"))
    if program is None:
        raise Missing("nginx is not installed (apt install nginx-light)")
    (port,) = free_ports(1)
    config = directory / "nginx.conf"
    servers = " ".join(f"server 127.0.0.1:{each};" for each in workers)
    config.write_text(NGINX.format(directory=directory, servers=servers, port=port))
    with _started([program, "-p", str(directory), "-c", str(config)], directory, port) as target:
        yield target


@contextmanager
def vllm_router(directory: Path, workers: Sequence[int]) -> Iterator[Target]:
    """vLLM's own router, written in Rust."""
    port, metrics = free_ports(2)
    words = [
        *(_rival("vllm-router", "vllm-router==0.1.17"), "--host", "127.0.0.1"),
        *("--port", str(port), "--prometheus-port", str(metrics), "--policy", "power_of_two"),
        *("--log-level", "warning", "--worker-urls", *_urls(workers)),
    ]
    with _started(words, directory, port) as target:
        yield target


@contextmanager
def smg(directory: Path, workers: Sequence[int]) -> Iterator[Target]:
    """The gateway of SGLang's makers, written in Rust, with a key."""
    port, metrics = free_ports(2)
    words = [
        *(_rival("smg", "smg==1.13.0"), "launch", "--host", "127.0.0.1", "--port", str(port)),
        *("--prometheus-port", str(metrics), "--prometheus-host", "127.0.0.1"),
        *("--policy", "power_of_two", "--power-of-two-load-metric", "least_requests"),
        *("--log-level", "error", "--tenant-api-key", f"bench:{KEY}"),
        *("--worker-urls", *_urls(workers)),
    ]
    with _started(words, directory, port) as target:
        yield target


@contextmanager
def litellm(directory: Path, workers: Sequence[int]) -> Iterator[Target]:
    """LiteLLM's proxy, with its master key and prices, without a database."""
    (port,) = free_ports(1)
    models = "".join(LITELLM_MODEL.format(model=MODEL, port=each) for each in workers)
    config = directory / "litellm.yaml"
    config.write_text(LITELLM.format(models=models, key=KEY))
    words = [
        *(_rival("litellm", "litellm[proxy]==1.109.1"), "--config", str(config)),
        *("--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"),
    ]
    with _started(words, directory, port) as target:
        yield target


TARGETS: dict[str, Start] = {
    "direct": direct,
    "nginx": nginx,
    "ours": ours,
    "vllm-router": vllm_router,
    "smg": smg,
    "litellm": litellm,
}
"""By the names of the option `--targets`."""


def rival_environment(name: str, requirement: str) -> Path:
    """The `bin` directory of an environment of its own, made where it is missing.

    Raises `Missing` with uv's last line where it cannot be installed.
    """
    directory = RIVALS / name
    programs = directory / "bin"
    marked = directory / "installed"
    if marked.is_file() and marked.read_text() == requirement:
        return programs
    uv = find_uv()
    RIVALS.mkdir(parents=True, exist_ok=True)
    for words in (
        [*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(directory)],
        [*uv, "pip", "install", "--quiet", "--python", str(programs / "python"), requirement],
    ):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines()
            raise Missing(f"{requirement} cannot be installed: {' '.join(said)[-300:]}")
    marked.write_text(requirement)
    return programs


def _rival(name: str, requirement: str) -> str:
    return str(rival_environment(name, requirement) / name)


def _urls(workers: Sequence[int]) -> list[str]:
    return [f"http://127.0.0.1:{port}" for port in workers]


@contextmanager
def _started(words: Sequence[str], directory: Path, port: int) -> Iterator[Target]:
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "PYTHONPATH": ""}
    log = directory / "log"
    began = time.monotonic()
    with running(words, core=TARGET_CORE, env=quiet, log=log, cwd=directory) as process:
        _wait(port, KEY, log, process)
        yield Target(port, process.pid, KEY, time.monotonic() - began)


def _wait(port: int, key: str, log: Path, process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + START_S
    while not answers(port, key):
        over = process is not None and process.poll() is not None
        if over or time.monotonic() > deadline:
            said = log.read_text(errors="replace").strip() if log.is_file() else ""
            raise Missing(f"does not answer after its start: {said[-300:] or 'it says nothing'}")
        time.sleep(0.1)
