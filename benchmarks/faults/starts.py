"""Rows of starts that meet a taken port, a forged file, too little memory, a second daemon."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.faults.site import Member, Site, all_gone, identities, lives
from benchmarks.faults.table import Outcome, Row, Trials, require, until
from benchmarks.faults.trees import fake_fleet, model
from vllm_console.workers.shim import boot_id

PORT_STOLEN = "port stolen between choice and bind"
FORGED = "pid file forged: it names a stranger"
OUT_OF_MEMORY = "CUDA out of memory at start"
TWO_DAEMONS = "two daemons started at once"

_LISTEN_FOR_SIGNALS = """
import os, signal, sys
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def heard(number, frame):
    os.write(log, signal.Signals(number).name.encode() + b" ")
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, heard)
os.write(1, b"listening\\n")
os.read(0, 1)  # until whoever started it is gone
"""


class Bystander:
    """A process of somebody else that notes every signal it gets."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LISTEN_FOR_SIGNALS, str(log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()
        (self.member,) = identities([self._process.pid])

    def unharmed(self) -> None:
        """Raises `NotMet` when it was signalled or ended."""
        require(lives(self.member), "the stranger lives")
        heard = self._log.read_text()
        require(not heard, f"the stranger is not signalled (got {heard.strip()})")

    def __enter__(self) -> Bystander:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def port_stolen(root: Path) -> Outcome:
    """A stranger who answers as the worker would is never taken for it, nor sent a request."""
    trials = Trials(5)
    with fake_fleet(
        root, model("one", "autostart = false", fake_boot_s=0.7, fake_gentle=True)
    ) as site:
        site.up()
        for number in trials:
            with trials.injection():
                trials.recovered(_steal_port(site))
                told = [said for said in site.events() if "port-in-use" in said]
                require(len(told) == number + 1, "the event says port-in-use")
                site.command("unload", model="one")
                until(site.idle, 10.0, "unloaded")
    return trials.outcome(PORT_STOLEN, "fake", "port-in-use, then ready on another port")


def forged(root: Path) -> Outcome:
    """A state.json that names a live stranger: in turn of a stopped worker and of one that runs."""
    trials = Trials(6)
    with fake_fleet(root, model("one", fake_gentle=True)) as site:
        site.up()
        site.ready()
        for number in trials:
            with trials.injection(), Bystander(root / f"heard-{number}") as stranger:
                tree = site.tree("one-1")
                if number % 2:
                    site.command("unload", model="one")
                    until(site.idle, 10.0, "unloaded")
                site.kill_daemon()
                forge(site.directory("one-1"), stranger.member)
                began = time.monotonic()
                site.up()
                stranger.unharmed()
                site.command("unload", model="one")
                until(site.idle, 15.0, "unloaded under the forged file")
                until(all_gone(tree), 5.0, "the worker's own tree is gone")
                site.command("load", model="one")
                site.ready()
                trials.recovered(time.monotonic() - began)
                stranger.unharmed()
    return trials.outcome(FORGED, "fake", "the stranger gets no signal")


def out_of_memory(root: Path) -> Outcome:
    """Three starts that never serve, each diagnosed; then it is left alone."""
    trials = Trials(2, at_once=2)
    failing = {"fake_failure": "cuda-oom"}
    took = 0.0
    with fake_fleet(root, model("one", **failing), model("two", **failing)) as site:
        site.up()
        for _ in trials:
            with trials.injection():
                began = time.monotonic()
                until(lambda: _states(site) == {"crash-loop"}, 30.0, "crash-loop")
                took = time.monotonic() - began
                for worker in site.workers().values():
                    failure = worker.failure
                    cause = failure.cause if failure else "nothing"
                    require(cause == "out-of-memory", f"diagnosed as {cause}")
                site.nothing_left(within_s=1.0)
    note = f"out-of-memory; crash-loop after three starts in {took:.1f} s, nothing left"
    return trials.outcome(OUT_OF_MEMORY, "fake", note)


def two_daemons(root: Path) -> Outcome:
    """The lock has one holder; the other says who, in one line, and exits 1."""
    trials = Trials(20)
    with fake_fleet(root, model("one", "autostart = false")) as site:
        for _ in trials:
            with trials.injection():
                trials.recovered(_start_two(site))
    return trials.outcome(TWO_DAEMONS, "fake", "one runs; the other: exit 1 and one line")


ROWS: dict[str, Row] = {
    PORT_STOLEN: port_stolen,
    FORGED: forged,
    OUT_OF_MEMORY: out_of_memory,
    TWO_DAEMONS: two_daemons,
}


def _steal_port(site: Site) -> float:
    """Load, take the worker's port before it does, wait until it is ready; the seconds of that."""
    before = _generation(site, "one-1")
    site.command("load", model="one")
    began = time.monotonic()
    until(lambda: _generation(site, "one-1") > before, 10.0, "a start", every_s=0.001)
    port = int(str(site.note("workers/one-1/spec.json")["port"]))
    with _impostor(port, "one") as asked:
        until(lambda: site.state("one-1") == "ready", 20.0, "ready elsewhere")
        took = time.monotonic() - began
        url = site.targets()["one-1"][0]
        require(url != f"http://127.0.0.1:{port}", "it is ready on another port")
        require(not asked, f"nothing is sent to the stranger (got {asked})")
    return took


def _start_two(site: Site) -> float:
    """Two `up` in the foreground; the seconds until one has given way and the other answers."""
    began = time.monotonic()
    both = [_foreground(site) for _ in range(2)]
    try:
        until(lambda: any(p.poll() is not None for p in both), 20.0, "one gives way")
        until(lambda: bool(site.models()), 20.0, "the other answers")
        took = time.monotonic() - began
        loser, winner = sorted(both, key=lambda p: p.poll() is None)
        require(winner.poll() is None, "one of them runs")
        daemon = site.daemon()
        require(daemon is not None and daemon[0] == winner.pid, "it holds the lock")
        assert loser.stderr is not None
        said = loser.stderr.read().strip().splitlines()
        require(loser.returncode == 1, f"the other exits 1, not {loser.returncode}")
        honest = len(said) == 1 and f"already runs (pid {winner.pid})" in said[0]
        require(honest, f"the other says in one line who runs: {said}")
    finally:
        for process in both:
            process.send_signal(signal.SIGTERM)
            process.wait()
            assert process.stderr is not None
            process.stderr.close()
    return took


def _states(site: Site) -> set[str]:
    return {worker.state for worker in site.workers().values()}


def _generation(site: Site, worker: str) -> int:
    """How often a worker was launched; 0 before the first time or while the file is written."""
    try:
        return int(str(site.note(f"workers/{worker}/spec.json")["generation"]))
    except (OSError, ValueError):
        return 0


@contextmanager
def _impostor(port: int, name: str) -> Iterator[list[str]]:
    """A server on this port that answers as a ready vLLM would; what it was asked."""
    asked: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = json.dumps({"data": [{"id": name}]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Nothing to say."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def forge(directory: Path, stranger: Member) -> None:
    """Put the stranger into the place of the main process, with all that identifies it."""
    path = directory / "state.json"
    pid, start = stranger
    content = {"pid": pid, "start": start, "boot": boot_id(), "generation": 1, "at": time.time()}
    path.write_text(json.dumps({**content, "log_start": 0, "asked": False}))
    (directory / "exit.json").unlink(missing_ok=True)


def _foreground(site: Site) -> subprocess.Popen[str]:
    return subprocess.Popen(
        site.words("up"),
        env=site.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
