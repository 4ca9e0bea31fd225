"""A fake `vllm serve`: vllm's log lines, process tree and manners, without an engine.

    python -I fake_vllm.py serve MODEL --port N --served-model-name NAME [--fake-… …]

Forks an "EngineCore" that ignores SIGTERM and has a child in a session of its own, as TP workers
and helpers of vLLM may. Serves /health, /v1/models and /metrics. Swallows SIGTERM while it boots.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KV_TOO_SMALL = (
    "To serve at least one request with the model's max seq len (2048), (0.0 GiB KV cache is"
    " needed, which is larger than the available KV cache memory (0.0 GiB). Based on the available"
    " memory, the estimated maximum model length is 384. Try increasing `gpu_memory_utilization`"
)


def say(text: str, process: str = "APIServer") -> None:
    """One log line, written at once."""
    stamp = time.strftime("%m-%d %H:%M:%S")
    line = f"({process} pid={os.getpid()}) INFO {stamp} [fake.py:1] {text}\n"
    os.write(1, line.encode())


def engine_core(gentle: bool) -> None:
    """An engine process that has to be killed, with a grandchild no process group reaches."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL if gentle else signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        while True:
            signal.pause()
    while True:
        signal.pause()


def serve(port: int, names: list[str]) -> None:
    """Answer until SIGTERM."""

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = b""
            if self.path == "/v1/models":
                listed = [{"id": name} for name in names]
                body = json.dumps({"object": "list", "data": listed}).encode()
            elif self.path == "/metrics":
                body = b"vllm:num_requests_running 0.0\n"
            self.send_response(200 if self.path in ("/health", "/v1/models", "/metrics") else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """No access log, as vLLM is started without one."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", port), Answers)

    def stop(*_: object) -> None:
        say("[shutdown] API server: shutdown triggered")
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    os.write(1, b"INFO:     Started server process\nINFO:     Application startup complete.\n")
    server.serve_forever(poll_interval=0.02)
    server.server_close()


def main() -> None:
    """Boot in vLLM's stages, then serve."""
    parser = argparse.ArgumentParser(prog="vllm serve")
    parser.add_argument("serve")
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host")
    parser.add_argument("--served-model-name", nargs="+", required=True)
    parser.add_argument("--fake-boot-s", type=float, default=0.1)
    parser.add_argument("--fake-failure", choices=["kv-too-small", "exit-7"])
    parser.add_argument("--fake-gentle", action="store_true", help="an engine that heeds SIGTERM")
    parser.add_argument("--fake-silent-socket", action="store_true", help="never listen")
    parser.add_argument("--fake-chatter", type=int, default=0, help="numbered lines to write")
    given = parser.parse_args()
    say("         █     █     █▄   ▄█")
    say("   ▄▄ ▄█ █     █     █ ▀▄▀ █  version 0.32.0")
    say(f"non-default args: {{'model': {given.model!r}, 'max_model_len': 2048}}")
    say("environment " + json.dumps(sorted(os.environ)))
    say("Resolved architecture: Qwen2ForCausalLM")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        engine_core(given.fake_gentle)
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
    if given.fake_failure == "exit-7":
        os._exit(7)
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
        serve(given.port, given.served_model_name)
    except OSError as error:
        os.write(1, f"OSError: [Errno {error.errno}] {error.strerror}\n".encode())
        os._exit(1)


if __name__ == "__main__":
    socket.setdefaulttimeout(10)
    sys.stdout = sys.stderr
    main()
