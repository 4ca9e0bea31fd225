"""A fleet with its endpoint on real vLLM, and how it is asked: clients, raw HTTP, verbs."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import anthropic
import openai

from benchmarks.faults.site import Site

MODEL, ALIAS, COLD = "tiny", "little", "spare"
MAX_TOKENS = 512
"""What the fleet file lets a request of MODEL generate."""
SLOTS = 4
RUNNING = "vllm:num_requests_running"
_COUNTED = re.compile(
    r"^(vllm:\w+_total|vllm:num_requests_running)\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE
)


class Served:
    """A fleet with its endpoint, and the clients of it."""

    def __init__(self, site: Site, port: int) -> None:
        self.site = site
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._clients = ExitStack()

    def openai(self, key: str = "none", **options: Any) -> openai.OpenAI:
        """The official client, open until `hang_up`; it sends nothing twice."""
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, **options)
        return self._clients.enter_context(client)

    def anthropic(self, key: str = "none") -> anthropic.Anthropic:
        """The official client, open until `hang_up`; it sends nothing twice."""
        client = anthropic.Anthropic(base_url=self.url, api_key=key, max_retries=0)
        return self._clients.enter_context(client)

    def hang_up(self) -> None:
        """Close every client there is."""
        self._clients.close()

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a GET."""
        with connected(self.port) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def post(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers in lower case and body of a POST."""
        with connected(self.port) as connection:
            sent = {"content-type": "application/json", **(headers or {})}
            connection.request("POST", path, json.dumps(body), sent)
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, told, answer.read()

    def verb(self, *words: str) -> str:
        """What a verb of the command line prints."""
        return self.site.verb(*words).stdout

    def key(self, name: str, *terms: str) -> str:
        """A new key's secret."""
        return self.verb("keys", "create", name, *terms, "--quiet").strip()

    def stats(self) -> dict[str, Any]:
        """/stats."""
        return dict(json.loads(self.get("/stats")[1]))

    def engine(self, model: str = MODEL) -> dict[str, float]:
        """Sums of the engine's counters, and RUNNING, over the workers of a model."""
        sums: dict[str, float] = {}
        for worker in self.site.models()[model].workers:
            if worker.url is None:
                continue
            place = urlsplit(worker.url)
            with connected(place.port or 80) as connection:
                connection.request("GET", "/metrics")
                text = connection.getresponse().read().decode()
            for name, value in _COUNTED.findall(text):
                sums[name] = sums.get(name, 0.0) + float(value)
        return sums


class connected:
    """A connection to a port of the loopback, closed on leaving."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120.0)

    def __enter__(self) -> http.client.HTTPConnection:
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def fleet_file(engine: str, port: int) -> str:
    """A fleet of MODEL, ready soon, and COLD, which a request loads."""
    shared = f"""
engine = "{engine}"
gpus = 0
source = "tiny:small"
drain_timeout = "30s"
"""
    options = f"""
max_model_len = 2048
max_num_seqs = {SLOTS}
enforce_eager = true
kv_cache_memory_bytes = "32M"
distributed_executor_backend = "uni"
enable_auto_tool_choice = true
tool_call_parser = "hermes"
structured_outputs_config = {{ backend = "xgrammar", disable_any_whitespace = true }}
enable_prompt_tokens_details = true
"""
    env = """
VLLM_CPU_OMP_THREADS_BIND = "nobind"
VLLM_ENABLE_V1_MULTIPROCESSING = "0"
OMP_NUM_THREADS = "1"
HF_HUB_OFFLINE = "1"
VLLM_NO_USAGE_STATS = "1"
"""
    return f"""
[fleet]
name = "endpoint"
gpu_hour_cost = 2.0
[gateway]
port = {port}
access_log = true
[models.{MODEL}]{shared}aliases = ["{ALIAS}"]
[models.{MODEL}.limits]
max_tokens = {MAX_TOKENS}
[models.{MODEL}.sampling]
temperature = 0.0
[models.{MODEL}.options]{options}
[models.{MODEL}.env]{env}
[models.{COLD}]{shared}autostart = false
[models.{COLD}.options]{options}
[models.{COLD}.env]{env}
"""
