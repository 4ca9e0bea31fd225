"""A fake `vllm serve`: vllm's log lines, process tree and manners, without an engine.

    python -I fake_vllm.py serve MODEL --port N --served-model-name NAME [--fake-… …]

Forks an "EngineCore" that ignores SIGTERM and has a child in a session of its own, as TP workers
and helpers of vLLM may. Serves /health, /v1/models, /metrics and streamed /v1/completions, whose
tokens come from the engine's steps: a stopped engine freezes them and the counters, and nothing
else. An engine that dies takes the server down with exit code 0. Swallows SIGTERM while it boots.

With VLLM_SERVER_DEV_MODE=1 it has vLLM's sleep mode: requests are held while it sleeps, and one
that is served without weights, or with weights that were not loaded again, is answered with `?`.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import mmap
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

KV_TOO_SMALL = (
    "To serve at least one request with the model's max seq len (2048), (0.0 GiB KV cache is"
    " needed, which is larger than the available KV cache memory (0.0 GiB). Based on the available"
    " memory, the estimated maximum model length is 384. Try increasing `gpu_memory_utilization`"
)
CUDA_OUT_OF_MEMORY = (
    "(EngineCore pid=7) ERROR 11-21 02:16:49 [core.py:1209] torch.OutOfMemoryError: CUDA out of"
    " memory. Tried to allocate 1.63 GiB. GPU 0 has a total capacity of 23.57 GiB of which 1.12 GiB"
    " is free.\nRuntimeError: Engine core initialization failed. See root cause above. Failed core"
    " proc(s): {}\n"
)

GPU_BYTES = 80_000_000_000
PARTS = {"weights": 40_000_000_000, "kv_cache": 20_000_000_000}
"""What of an engine sleep mode takes off the GPU, by vLLM's tags."""
CONTEXT_BYTES = 1_000_000_000
"""What stays there."""


class Refused(Exception):
    """What an engine does not do; becomes an HTTP 500."""


def say(text: str, process: str = "APIServer", level: str = "INFO") -> None:
    """One log line, written at once."""
    stamp = time.strftime("%m-%d %H:%M:%S")
    line = f"({process} pid={os.getpid()}) {level} {stamp} [fake.py:1] {text}\n"
    with contextlib.suppress(OSError):  # logging goes on where its disk is full
        os.write(1, line.encode())


def entitle(title: str) -> None:
    """Take the name that vLLM gives such a process; the kernel keeps 15 bytes of it."""
    with open("/proc/self/comm", "w") as file:
        file.write(title)


class Engine:
    """The engine process as its server sees it: what runs, how many steps it has made."""

    def __init__(self, step_s: float, memory: Path | None) -> None:
        """`memory`: a directory where engines note what they have on a GPU, a file each."""
        self.step_s = step_s
        self._memory = memory
        self._gone: set[str] = set()
        """What of it is off the GPU."""
        self._loaded = True
        """Its weights are those of the model."""
        self._resumed = threading.Event()
        self._resumed.set()
        self.aborts = 0
        self.pid = 0
        self.running = 0
        self.tokens = 0
        self._shared = memoryview(mmap.mmap(-1, 16)).cast("q")
        """Requests that run, written by the server; steps made, written by the engine. One copy of
        eight bytes each: struct.pack_into clears them first, and who looks then sees none run."""
        self._sleeps, self._wake = os.pipe()
        self._lock = threading.Lock()

    @property
    def steps(self) -> int:
        """Iterations so far."""
        return self._shared[1]

    def fork(self, gentle: bool) -> None:
        """Start the engine process."""
        self.pid = os.fork()
        if self.pid == 0:
            self._run(gentle)

    def begin(self) -> None:
        """One request more runs, once requests are let in."""
        while True:
            self._resumed.wait()
            with self._lock:
                if self._resumed.is_set():
                    self._work(1)
                    return

    def work(self, change: int, tokens: int = 0) -> None:
        """One request less runs, or some tokens more were made."""
        with self._lock:
            self.tokens += tokens
            self._work(change)

    def _work(self, change: int) -> None:
        self.running += change
        self._shared[0] = self.running
        if change > 0 and self.running == 1:
            os.write(self._wake, b".")

    # -- sleep mode --------------------------------------------------------------------------

    @property
    def sleeping(self) -> bool:
        """As vLLM has it: it holds requests back, or something of it is off the GPU."""
        return bool(self._gone) or not self._resumed.is_set()

    @property
    def whole(self) -> bool:
        """It can make tokens that mean something."""
        return self._loaded and not self._gone

    def sleep(self, level: int, mode: str) -> None:
        """Let in no request; once none runs, take what it has off the GPU."""
        with self._lock:
            self._resumed.clear()
            self.aborts += mode == "abort"
        while self.running:
            time.sleep(0.005)
        self._gone = set(PARTS)
        self._loaded = self._loaded and level < 2
        self.take_memory()

    def wake_up(self, tags: list[str]) -> None:
        """Take back what `tags` name, or all; requests are let in once nothing is missing."""
        back = self._gone.intersection(tags or PARTS)
        self.take_memory(*back)
        self._gone -= back
        if not self._gone:
            self._resumed.set()

    def reload_weights(self) -> None:
        """Load the weights from the disk into where they belong."""
        if "weights" in self._gone:
            raise Refused("reload_weights: no memory for the weights")
        self._loaded = True

    def take_memory(self, *more: str) -> None:
        """Note what it has on its GPU; raises `Refused` where others have too much of that."""
        if self._memory is None:
            return
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        parts = [size for part, size in PARTS.items() if part not in self._gone or part in more]
        takes = CONTEXT_BYTES + sum(parts)
        noted = [file.read_text().split() for file in self._memory.iterdir() if living(file.name)]
        others = [int(size) for pid, uuid, size in noted if uuid == gpu and int(pid) != self.pid]
        if sum(others) + takes > GPU_BYTES:
            raise Refused("CUDA out of memory. Tried to allocate 19.07 GiB. GPU 0 has too little.")
        unfinished = self._memory.with_name(f"{self.pid}.unfinished")
        unfinished.write_text(f"{self.pid} {gpu} {takes}")
        unfinished.replace(self._memory / str(self.pid))

    def _run(self, gentle: bool) -> None:
        """An engine process that has to be killed, with a grandchild no process group reaches."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL if gentle else signal.SIG_IGN)
        entitle("VLLM::EngineCore")
        if os.fork() == 0:
            os.setsid()
            entitle("VLLM::Worker_TP0")
            while True:
                signal.pause()
        while True:
            if self._shared[0]:
                self._shared[1] = self.steps + 1
                time.sleep(self.step_s)
            else:
                os.read(self._sleeps, 1)


def living(pid: str) -> bool:
    """That process is there, and no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def metrics(engine: Engine) -> bytes:
    """/metrics as vLLM words it."""
    lines = [
        f"vllm:num_requests_running {engine.running}.0",
        f'vllm:engine_sleep_state{{sleep_state="awake"}} {1 - engine.sleeping}.0',
        "vllm:num_requests_waiting 0.0",
        f"vllm:generation_tokens_total {engine.tokens}.0",
        f'vllm:iteration_tokens_total_bucket{{le="1.0"}} {engine.steps}.0',
        f'vllm:iteration_tokens_total_bucket{{le="+Inf"}} {engine.steps}.0',
        f"vllm:iteration_tokens_total_sum {engine.tokens}.0",
        f"vllm:iteration_tokens_total_count {engine.steps}.0",
    ]
    return "\n".join([*lines, ""]).encode()


def serve(
    port: int,
    names: list[str],
    engine: Engine,
    told: bytes = b"",
    trouble: Path | None = None,
) -> None:
    """Answer until SIGTERM; then finish the streams that are open. `told` is said by /metrics.

    `trouble` has lines such as "/sleep 500" or "/wake_up hang", looked at each time.
    """
    dev_mode = os.environ.get("VLLM_SERVER_DEV_MODE") == "1"

    def troubled(path: str) -> str:
        lines = trouble.read_text().splitlines() if trouble and trouble.exists() else []
        return next((line.split()[1] for line in lines if line.split()[0] == path), "")

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = b""
            if self.path == "/v1/models":
                listed = [{"id": name} for name in names]
                body = json.dumps({"object": "list", "data": listed}).encode()
            elif self.path == "/metrics":
                body = told or metrics(engine)
            elif self.path == "/is_sleeping" and dev_mode:
                if troubled(self.path):
                    return self.answer(500, b"")
                body = json.dumps({"is_sleeping": engine.sleeping}).encode()
            self.answer(200 if body or self.path == "/health" else 404, body)

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            if dev_mode and self.path.startswith(("/sleep", "/wake_up", "/collective_rpc")):
                return self.sleep_mode(content)
            wanted = json.loads(content or b"{}")
            if self.path != "/v1/completions" or wanted["model"] not in names:
                return self.answer(404, b"")
            engine.begin()
            try:
                self.send_response(200)
                self.send_header("content-type", "text/event-stream; charset=utf-8")
                self.send_header("connection", "close")
                self.end_headers()
                self.stream(int(wanted["max_tokens"]))
            except OSError:
                self.close_connection = True  # the client hung up
            finally:
                engine.work(-1)

        def sleep_mode(self, content: bytes) -> None:
            """/sleep?level=&mode=, /wake_up?tags=, /collective_rpc."""
            path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
            if troubled(path) == "500":
                body = b'{"error": {"message": "EngineCore encountered\\nan issue."}}'
                return self.answer(500, body)
            while troubled(path) == "hang":
                time.sleep(0.01)
            try:
                if path == "/sleep":
                    engine.sleep(int(query["level"][0]), query["mode"][0])
                elif path == "/wake_up":
                    engine.wake_up(query.get("tags", []))
                elif json.loads(content)["method"] == "reload_weights":
                    engine.reload_weights()
            except Refused as error:
                body = json.dumps({"error": {"message": str(error)}}).encode()
                return self.answer(500, body)
            self.answer(200, b"{}")

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def stream(self, tokens: int) -> None:
            """One token a step of the engine."""
            seen, aborts = engine.steps, engine.aborts
            while tokens > 0 and engine.aborts == aborts:
                text = " x" if engine.whole else " ?"
                piece = json.dumps({"object": "text_completion", "choices": [{"text": text}]})
                while engine.steps == seen:
                    time.sleep(engine.step_s)
                seen = engine.steps
                self.wfile.write(f"data: {piece}\n\n".encode())
                engine.work(0, tokens=1)
                tokens -= 1
            self.wfile.write(b"data: [DONE]\n\n")

        def log_message(self, *args: object) -> None:
            """No access log, as vLLM is started without one."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that hangs up is no news."""

    server = Server(("127.0.0.1", port), Answers)

    def stop(*_: object) -> None:
        say("[shutdown] API server: shutdown triggered")
        threading.Thread(target=server.shutdown).start()

    def mourn() -> None:
        os.waitpid(engine.pid, 0)
        died = "Engine core proc EngineCore died unexpectedly, shutting down client."
        say(died, level="ERROR")
        dead = "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue."
        say(dead, level="ERROR")
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=mourn, daemon=True).start()
    os.write(1, b"INFO:     Started server process\nINFO:     Application startup complete.\n")
    server.serve_forever(poll_interval=0.02)
    server.server_close()
    while engine.running:
        time.sleep(0.01)


def flood(megabytes: int, a_second: int) -> None:
    """Numbered lines of 128 bytes at a rate, from a thread, as vLLM at its most talkative."""
    began, line = time.monotonic(), 0
    for number in range(megabytes * 16):
        ahead = number / 16 / a_second - (time.monotonic() - began)
        if ahead > 0:
            time.sleep(ahead)
        block = b"".join(b"line %09d %s\n" % (line + n, b"x" * 113) for n in range(512))
        os.write(1, block)
        line += 512
    os.write(1, b"flood over %09d\n" % line)


def main() -> None:
    """Boot in vLLM's stages, then serve."""
    parser = argparse.ArgumentParser(prog="vllm serve")
    parser.add_argument("serve")
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host")
    parser.add_argument("--served-model-name", nargs="+", required=True)
    parser.add_argument("--fake-boot-s", type=float, default=0.1)
    parser.add_argument("--fake-failure", choices=["kv-too-small", "exit-7", "cuda-oom"])
    parser.add_argument("--fake-gentle", action="store_true", help="an engine that heeds SIGTERM")
    parser.add_argument("--fake-silent-socket", action="store_true", help="never listen")
    parser.add_argument("--fake-chatter", type=int, default=0, help="numbered lines to write")
    parser.add_argument("--fake-flood-mb", type=int, default=0, help="numbered lines, once ready")
    parser.add_argument("--fake-flood-mb-s", type=int, default=50)
    parser.add_argument("--fake-step-s", type=float, default=0.02, help="one engine iteration")
    parser.add_argument("--fake-metrics", help="a gzip of what /metrics says, always the same")
    parser.add_argument("--fake-trouble", type=Path, help="what fails, looked at while it runs")
    parser.add_argument("--fake-gpu-memory", type=Path, help="where engines note what they have")
    parser.add_argument("--enable-sleep-mode", action="store_true")
    given = parser.parse_args()
    say("         █     █     █▄   ▄█")
    say("   ▄▄ ▄█ █     █     █ ▀▄▀ █  version 0.32.0")
    say(f"non-default args: {{'model': {given.model!r}, 'max_model_len': 2048}}")
    say("environment " + json.dumps(sorted(os.environ)))
    say("Resolved architecture: Qwen2ForCausalLM")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    engine = Engine(given.fake_step_s, given.fake_gpu_memory)
    engine.fork(given.fake_gentle)
    say(
        "Initializing a V1 LLM engine (v0.32.0) with config: model='m', dtype=torch.bfloat16,"
        " max_seq_len=2048, tensor_parallel_size=1",
        "EngineCore",
    )
    say("Starting to load model models/tiny...", "EngineCore")
    os.write(1, b"Loading safetensors checkpoint shards: 100% Completed | 1/1 [00:00<00:00]\n\n")
    if given.fake_failure == "kv-too-small":
        os.write(
            1,
            b"(EngineCore pid=7) ERROR 11-21 02:16:49 [core.py:1510] ValueError: "
            + KV_TOO_SMALL.encode()
            + b"\nRuntimeError: Engine core initialization failed. See"
            b" root cause above. Failed core proc(s): {}\n",
        )
        os._exit(1)
    if given.fake_failure == "cuda-oom":
        os.write(1, CUDA_OUT_OF_MEMORY.encode())
        os._exit(1)
    if given.fake_failure == "exit-7":
        os._exit(7)
    try:
        engine.take_memory()
    except Refused:
        os.write(1, CUDA_OUT_OF_MEMORY.encode())
        os._exit(1)
    for number in range(given.fake_chatter):
        os.write(1, b"line %08d %s\n" % (number, b"x" * 100))
        if number % 100 == 0:
            time.sleep(0.001)
    time.sleep(given.fake_boot_s)
    say(
        "CPU KV cache size: 131,072 tokens, Maximum concurrency for 2,048 tokens per request:"
        " 64.00x",
        "EngineCore",
    )
    say(f"Starting vLLM server on http://127.0.0.1:{given.port}")
    if given.fake_silent_socket:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        while True:
            signal.pause()
    try:
        if given.fake_flood_mb:
            flooding = (given.fake_flood_mb, given.fake_flood_mb_s)
            threading.Thread(target=flood, args=flooding, daemon=True).start()
        told = gzip.decompress(Path(given.fake_metrics).read_bytes()) if given.fake_metrics else b""
        serve(given.port, given.served_model_name, engine, told, given.fake_trouble)
    except OSError as error:
        os.write(1, f"OSError: [Errno {error.errno}] {error.strerror}\n".encode())
        os._exit(1)


if __name__ == "__main__":
    socket.setdefaulttimeout(10)
    sys.stdout = sys.stderr
    main()
