"""A whole fleet on real vLLM through the command line: the daemon, a worker, a client's tokens."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import psutil
import pytest

from vllm_console.engines.environment import EngineEnvironment

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]
FLEET = """
[fleet]
name = "engine-test"
[gateway]
port = 0
[defaults]
engine = "{engine}"
[defaults.options]
max_model_len = 2048
max_num_seqs = 8
enforce_eager = true
kv_cache_memory_bytes = "32M"
distributed_executor_backend = "uni"
[defaults.env]
VLLM_CPU_OMP_THREADS_BIND = "nobind"
VLLM_ENABLE_V1_MULTIPROCESSING = "0"
OMP_NUM_THREADS = "1"
HF_HUB_OFFLINE = "1"
VLLM_NO_USAGE_STATS = "1"
[models.tiny]
source = "tiny:small"
stall_after = "3s"
aliases = ["little"]
[models.spare]
source = "tiny:small"
autostart = false
"""


class Fleet:
    """The command line of one fleet, and what it says."""

    def __init__(self, file: Path, state: Path) -> None:
        self.words = ["--fleet", str(file), "--state-dir", str(state)]
        self.file = file
        self.state = state

    def run(self, *words: str, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vllm_console", *words, *self.words]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout)

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.run("status", "--json").stdout))

    def worker(self) -> dict[str, Any]:
        (worker,) = self.status()["models"][0]["workers"]
        return dict(worker)

    def wait(self, what: str, holds: Callable[[dict[str, Any]], bool], timeout: float = 90) -> Any:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            status = self.status()
            if status["daemon"]["running"] and holds(status["models"][0]):
                return status["models"][0]
            time.sleep(0.2)
        pytest.fail(f"{what}: not so after {timeout} s: {self.status()}")


@pytest.fixture(scope="module")
def fleet(
    engine_environment: EngineEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """A fleet whose daemon and one worker run; taken down at the end, nothing left."""
    tmp = tmp_path_factory.mktemp("fleet")
    (tmp / "fleet.toml").write_text(FLEET.format(engine=engine_environment.name))
    fleet = Fleet(tmp / "fleet.toml", tmp / "state")
    up = fleet.run("up", "-d")
    assert up.returncode == 0, up.stderr
    try:
        yield fleet
    finally:
        tree = _descendants_of_shims(fleet)
        down = fleet.run("down")
        assert down.returncode in (0, 3), down.stderr
        assert not [p for p in tree if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def _descendants_of_shims(fleet: Fleet) -> list[psutil.Process]:
    status = fleet.status()
    pids = [w["pid"] for m in status["models"] for w in m["workers"] if w["pid"]]
    found = []
    for pid in pids:
        process = psutil.Process(pid)
        found += [process, *process.children(recursive=True)]
    return found


@pytest.fixture(scope="module")
def ready(fleet: Fleet) -> dict[str, Any]:
    """The worker once it serves."""
    load = fleet.run("load", "tiny", "--timeout", "120")
    assert load.returncode == 0, load.stderr
    return fleet.worker()


def chat(url: str, tokens: int) -> list[str]:
    """The pieces of one streamed answer, through the official client."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=60) as client:
        stream = client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "hello world"}],
            max_tokens=tokens,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        return [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]


def test_the_fleet_becomes_ready_and_says_what_it_runs(ready: dict[str, Any], fleet: Fleet) -> None:
    model = fleet.status()["models"][0]
    assert model["state"] == "ready"
    assert model["engine"]["max_model_len"] == 2048
    assert model["engine"]["version"].startswith("0.")
    assert "--served-model-name" in model["command"]
    assert ready["url"].startswith("http://127.0.0.1:")
    assert ready["rss_bytes"] is None or ready["rss_bytes"] > 100 << 20


def test_real_status_is_of_the_schema(ready: dict[str, Any], fleet: Fleet) -> None:
    schema = json.loads(fleet.run("status", "--schema").stdout)
    jsonschema.validate(fleet.status(), schema)
    assert fleet.run("status", "--check").returncode == 0
    assert "tiny" in fleet.run("status").stdout


def test_a_chat_completion_streams_and_its_tokens_are_seen(
    ready: dict[str, Any], fleet: Fleet
) -> None:
    pieces = chat(ready["url"], 64)
    assert len(pieces) > 8
    model = fleet.wait(
        "metrics show the request", lambda m: m["load"]["latency"]["e2e_s"]["count"] >= 1
    )
    latency = model["load"]["latency"]
    assert 0 < latency["ttft_s"]["p50"] <= latency["e2e_s"]["p99"]
    assert model["load"]["output_length"]["p50"] > 0


def test_a_killed_daemon_costs_no_worker_and_no_request(
    ready: dict[str, Any], fleet: Fleet
) -> None:
    """kill -9 under load; the next daemon adopts the same process."""
    before = fleet.worker()
    answers: list[int] = []
    failures: list[BaseException] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            try:
                answers.append(len(chat(before["url"], 16)))
            except BaseException as error:
                failures.append(error)
                return

    client = threading.Thread(target=load)
    client.start()
    try:
        daemon = fleet.status()["daemon"]["pid"]
        os.kill(daemon, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(daemon)] if psutil.pid_exists(daemon) else [], 10)
        assert fleet.run("status").returncode == 3
        assert fleet.run("logs", "tiny", "-n", "5").stdout.strip()
        served = len(answers)
        assert fleet.run("up", "-d").returncode == 0
        fleet.wait("adopted", lambda m: m["state"] == "ready")
        deadline = time.monotonic() + 30
        while len(answers) < served + 3 and not failures and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        stop.set()
        client.join(60)
    assert not failures
    assert len(answers) >= served + 3
    after = fleet.worker()
    assert (after["pid"], after["started_at"]) == (before["pid"], before["started_at"])
    assert "adopted" in fleet.run("events").stdout


def test_the_console_shows_live_numbers_in_a_terminal_and_q_stops_nothing(
    ready: dict[str, Any], fleet: Fleet
) -> None:
    """A pseudo-terminal, a key press, and the worker serves on."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execv(sys.executable, [sys.executable, "-m", "vllm_console", *fleet.words])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 48, 160, 0, 0))
    drawn = bytearray()
    asked = closed = False
    deadline = time.monotonic() + 60
    while not closed and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                drawn += os.read(terminal, 1 << 16)
            except OSError:  # the other end has closed
                closed = True
        if not asked and b"tok/s" in drawn and b"tiny" in drawn:
            os.write(terminal, b"q")
            asked = True
    if not closed:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert asked, drawn[-2000:]
    assert os.waitstatus_to_exitcode(status) == 0
    assert fleet.worker()["pid"] == ready["pid"]


def test_an_engine_that_hangs_is_stalled_until_it_gets_on(
    ready: dict[str, Any], fleet: Fleet
) -> None:
    """SIGSTOP to EngineCore: /health still says 200, the stream stands still, then goes on."""
    children = psutil.Process(ready["pid"]).children(recursive=True)
    (engine,) = [p for p in children if "EngineCore" in (p.cmdline() or [p.name()])[0]]
    with openai.OpenAI(base_url=f"{ready['url']}/v1", api_key="none", timeout=120) as client:
        stream = client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "hello"}],
            max_tokens=1500,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        next(iter(stream))
        engine.suspend()
        try:
            model = fleet.wait("stalled", lambda m: m["state"] == "stalled")
            assert "no iteration" in model["workers"][0]["reason"]
            assert fleet.run("status", "--check").returncode == 1
        finally:
            engine.resume()
        assert sum(1 for _ in stream) > 100
    fleet.wait("ready again", lambda m: m["state"] == "ready")


def test_a_second_daemon_is_refused(ready: dict[str, Any], fleet: Fleet) -> None:
    second = fleet.run("up")
    assert second.returncode == 1
    assert "already runs" in second.stderr


def test_an_unknown_model_gets_the_nearest_name(ready: dict[str, Any], fleet: Fleet) -> None:
    answer = fleet.run("load", "tinny")
    assert answer.returncode == 4
    assert answer.stderr == 'vllm-console: no model "tinny"; did you mean "tiny"?\n'


def test_logs_show_vllms_own_words(ready: dict[str, Any], fleet: Fleet) -> None:
    assert "Application startup complete" in fleet.run("logs", "tiny-1", "-n", "400").stdout
    assert fleet.run("logs", "nobody").returncode == 4


def test_apply_replaces_a_worker_and_takes_a_bad_revision_back(
    ready: dict[str, Any], fleet: Fleet
) -> None:
    """A changed option arrives without a gap; one that vLLM refuses leaves the old worker be."""
    before = fleet.worker()
    text = fleet.file.read_text()
    try:
        fleet.file.write_text(text.replace("max_num_seqs = 8", "max_num_seqs = 6"))
        asked = fleet.run("apply")
        assert (asked.returncode, "max_num_seqs: 8 → 6" in asked.stdout) == (2, True)
        applied = fleet.run("apply", "--yes")
        assert applied.returncode == 0, applied.stderr
        after = fleet.worker()
        assert after["pid"] != before["pid"]
        assert not psutil.pid_exists(before["pid"])
        assert len(chat(after["url"], 8)) > 2
        bad = text.replace("max_num_seqs = 8", "max_num_seqs = 6\nblock_size = 7")
        fleet.file.write_text(bad)
        refused = fleet.run("apply", "--yes")
        assert refused.returncode == 1
        assert "did not become ready" in refused.stderr
        assert fleet.worker()["pid"] == after["pid"]
        assert fleet.status()["models"][0]["revision"] == 2
        assert fleet.run("rollback", "tiny", "--list").stdout.count("\n") == 3
    finally:
        fleet.file.write_text(text)


def test_unload_leaves_nothing_of_the_worker(ready: dict[str, Any], fleet: Fleet) -> None:
    tree = _descendants_of_shims(fleet)
    assert len(tree) >= 1
    answer = fleet.run("unload", "little")
    assert answer.returncode == 0, answer.stderr
    _, alive = psutil.wait_procs(tree, timeout=10)
    assert not alive
    model = fleet.status()["models"][0]
    assert (model["state"], model["wanted"]) == ("stopped", 0)
    assert model["load"]["running"] is None
