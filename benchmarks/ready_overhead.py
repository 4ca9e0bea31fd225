"""How much later a worker is ready under the daemon than the same `vllm serve` alone.

    python benchmarks/ready_overhead.py [-n 3] [--model NAME]

Both run the same program, options and environment, one after the other, in turn. Alone, ready is
the first 200 of /health; under the daemon it is the daemon's own word in a snapshot, which needs
/health, /v1/models and the owner of the socket.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from typing import Any

import psutil
from common import BenchFleet, fleet, median, parser, table

from vllm_console.control.client import Client
from vllm_console.fleet.find import locate

ALONE_POLL_S = 0.02
DAEMON_POLL_S = 0.1
"""A snapshot costs the daemon some milliseconds, which are not to be measured."""
TIMEOUT_S = 300.0


def model_of(client: Client, name: str) -> Any:
    """The model of that name in the newest snapshot."""
    return next(model for model in client.snapshot().models if model.name == name)


def wait_state(client: Client, name: str, state: str) -> Any:
    """The model once it is in this state."""
    deadline = time.monotonic() + TIMEOUT_S
    while (model := model_of(client, name)).state != state:
        if time.monotonic() > deadline:
            raise SystemExit(f"{name} is {model.state}, not {state}, after {TIMEOUT_S:g} s")
        time.sleep(DAEMON_POLL_S)
    return model


def under_daemon(client: Client, name: str) -> tuple[float, list[str], dict[str, str]]:
    """Seconds from the command to ready; the worker's command line and environment."""
    start = time.monotonic()
    client.command("load", model=name)
    environment: dict[str, str] = {}
    while not environment:
        if time.monotonic() - start > TIMEOUT_S:
            raise SystemExit(f"{name}: no process of the worker was seen")
        for worker in model_of(client, name).workers:
            if worker.pid is not None:
                environment = environment_of(worker.pid)
        time.sleep(DAEMON_POLL_S)
    model = wait_state(client, name, "ready")
    took = time.monotonic() - start
    client.command("unload", model=name)
    wait_state(client, name, "stopped")
    return took, list(model.command), environment


def environment_of(pid: int) -> dict[str, str]:
    """The environment a process was started with, as long as it has not written over it."""
    try:
        return psutil.Process(pid).environ()
    except (psutil.Error, OSError):
        return {}


def alone(command: list[str], environment: dict[str, str]) -> float:
    """Seconds from starting the command to the first 200 of its /health."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = list(command)
    words[words.index("--port") + 1] = str(port)
    start = time.monotonic()
    process = subprocess.Popen(
        words,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while time.monotonic() - start < TIMEOUT_S:
            if process.poll() is not None:
                raise SystemExit(f"vllm serve ended with {process.returncode}: {' '.join(words)}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                    if answer.status == 200:
                        return time.monotonic() - start
            except (urllib.error.URLError, OSError):
                time.sleep(ALONE_POLL_S)
        raise SystemExit(f"vllm serve was not ready within {TIMEOUT_S:g} s")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def measure(running: BenchFleet, name: str, rounds: int) -> list[tuple[float, float]]:
    """(under the daemon, alone) in seconds; the first is led by the other every round."""
    client = Client(locate(running.file, running.state_dir).socket)
    first, command, environment = under_daemon(client, name)  # also warms the file cache
    print(f"warm-up {first:.1f} s: {' '.join(command)[:100]} …", flush=True)
    times = []
    for turn in range(rounds):
        if turn % 2:
            lone = alone(command, environment)
            ours = under_daemon(client, name)[0]
        else:
            ours = under_daemon(client, name)[0]
            lone = alone(command, environment)
        times.append((ours, lone))
        print(f"round {turn + 1}: daemon {ours:.2f} s, alone {lone:.2f} s", flush=True)
    return times


def main() -> None:
    options = parser(__doc__)
    options.add_argument("-n", type=int, default=3, help="rounds")
    options.add_argument("--model", help="default: the fleet's first")
    args = options.parse_args()
    with fleet(args.fleet, ()) as (running, status):
        name = args.model or status["models"][0]["name"]
        times = measure(running, name, args.n)
    ours, lone = [t[0] for t in times], [t[1] for t in times]
    table(
        [
            ["under the daemon", median(ours), min(ours), max(ours)],
            ["vllm serve alone", median(lone), min(lone), max(lone)],
            ["difference, by round", *difference([a - b for a, b in times])],
            ["difference of the fastest", min(ours) - min(lone), None, None],
        ],
        [f"start to ready of {name} (s)", "median", "min", "max"],
    )


def difference(values: list[float]) -> tuple[float, float, float]:
    """Median, least and most."""
    return median(values), min(values), max(values)


if __name__ == "__main__":
    main()
