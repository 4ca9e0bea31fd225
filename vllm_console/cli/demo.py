"""`demo`: a whole fleet with traffic, on the spot; takes away again what it brought.

Three processes besides the fleet itself: this one starts and stops everything, the traffic
generator keeps its own event loop, and the console is a child of its own, so that neither a frame
nor a crash of it can disturb the other two.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from vllm_console.cli.connect import Progress, describe, print_json
from vllm_console.cli.down import take_down
from vllm_console.cli.outcome import Outcome
from vllm_console.control.client import Client
from vllm_console.errors import ConsoleError, InvalidInput, NoDaemon, NotFound, TimedOut
from vllm_console.fleet.find import Place, locate
from vllm_console.snapshot import Model, Snapshot
from vllm_console.traffic.generate import Target
from vllm_console.traffic.process import TrafficProcess
from vllm_console.workers.states import State

if TYPE_CHECKING:
    from vllm_console.engines.install import Progress as InstallProgress
    from vllm_console.fleet.model import Fleet

SUMMARY = "a whole fleet with traffic, on the spot, without a GPU too"
DEFAULT_RATE = 3.0
"""Requests a second, over all models: busy panels, yet room on two CPU cores."""
_POLL_S = 0.25
_DOWN_TIMEOUT_S = 120.0
_RESET_SCREEN = "\x1b[?1049l\x1b[?25h\x1b[?1000l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[0m"
"""Leaves the alternate screen and mouse reporting, as xterm names them (ctlseqs)."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `demo`."""
    parser.description = (
        "Start a fleet, send it traffic and open the console on it. Without --fleet: ./fleet.toml, "
        "else the fleet that comes with the program, whose tiny models are made on the spot. "
        "Everything that the demo started is stopped when it ends."
    )
    parser.add_argument(
        "--headless", action="store_true", help="no console: print a summary of the traffic"
    )
    parser.add_argument(
        "--for", dest="seconds", type=float, metavar="SECONDS", help="of traffic (headless: 60)"
    )
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="arrivals and lengths from a CSV of TIMESTAMP,ContextTokens,GeneratedTokens",
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=DEFAULT_RATE,
        metavar="R",
        help=f"mean requests a second (default {DEFAULT_RATE:g}); a trace is stretched to it",
    )
    parser.add_argument("--keep", action="store_true", help="leave the fleet running")
    parser.add_argument("--json", action="store_true", help="the summary as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 only if every model that starts by itself really served tokens.

    With the console, leaving it is success too.
    """
    started_at = time.time()
    _check(args)
    with _stopped_by_signals(), ExitStack() as cleanup:
        place = locate(args.fleet or _fleet_file(), args.state_dir)
        fleet = _load(place, args.set)
        names = [model.name for model in fleet.models.values() if model.autostart]
        if not names:
            raise InvalidInput(f"{place.fleet_file}: no model has autostart, nothing to show")
        engines = _engines(fleet)
        sets = [*args.set, *engines, *sharing(fleet, _gpu_count(engines))]
        client = _start(place, sets, cleanup, keep=args.keep)
        _wait_ready(client, fleet, names, strict=args.headless)
        traffic = TrafficProcess(rate=args.rate, trace=args.trace)
        cleanup.callback(_untouchable(lambda: traffic.stop(drain=False)))
        aim = _Aim(client, traffic)
        cleanup.callback(aim.stop)
        if not args.headless:
            return _console(place, args.seconds)
        _watch(traffic, args.seconds or 60.0)
        aim.stop()
        outcome = Outcome(traffic.stop(), tuple(names), started_at)
    if args.json:
        print_json(outcome.to_json())
    else:
        print("\n".join(outcome.lines()))
    for name in outcome.unserved:
        print(f"vllm-console: {name} served no token", file=sys.stderr)
    return 1 if outcome.unserved else 0


def targets_of(snapshot: Snapshot) -> list[Target]:
    """Where requests can go now: every ready worker of every model."""
    targets = []
    for model in snapshot.models:
        context = model.engine.max_model_len
        for worker in model.workers:
            if worker.state == State.READY and worker.url is not None:
                target = Target(model.name, worker.url)
                targets.append(
                    target if context is None else Target(model.name, worker.url, context)
                )
    return targets


class _Aim:
    """Keeps the traffic pointed at the workers that are ready, from a thread."""

    def __init__(self, client: Client, traffic: TrafficProcess) -> None:
        self._client = client
        self._traffic = traffic
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="aim", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Aims no more; returns when the thread has ended."""
        self._over.set()
        self._thread.join()

    def _follow(self) -> None:
        while True:
            with suppress(ConsoleError):  # no daemon for a moment: workers serve on
                self._traffic.aim(targets_of(self._client.snapshot()))
            if self._over.wait(1.0):
                return


def _check(args: argparse.Namespace) -> None:
    for option, value in (("--rate", args.rate), ("--for", args.seconds)):
        if value is not None and not 0 < value < float("inf"):
            raise InvalidInput(f"{option} {value:g}: takes a number above 0")
    if args.json and not args.headless:
        raise InvalidInput("--json goes with --headless: it prints the summary")
    if not args.headless and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidInput("the console needs a terminal; `demo --headless` needs none")
    if args.trace is not None:
        from vllm_console.traffic.trace import read_trace

        read_trace(args.trace)


def _fleet_file() -> Path:
    """./fleet.toml, else the example fleet that comes with the program."""
    here = Path("fleet.toml")
    if here.is_file():
        return here
    package = Path(__file__).resolve().parent.parent
    installed = package / "_data" / "fleet.toml"
    return installed if installed.is_file() else package.parent / "fleet.toml"


def _load(place: Place, sets: Sequence[str]) -> Fleet:
    from vllm_console.fleet.load import load_fleet

    return load_fleet(place.fleet_file, sets=sets)


def _engines(fleet: Fleet) -> list[str]:
    """Makes sure that every engine of the fleet is there; the overrides that make it the right one.

    Where no engine is installed, or the only one is built for a GPU that is not there, models that
    ask for any vLLM get the environment "cpu", installed when it is missing.
    """
    from vllm_console.engines.environment import has_nvidia_driver, resolve

    sets: list[str] = []
    for model in fleet.models.values():
        if model.attached or not model.autostart:
            continue
        try:
            engine = resolve(model.engine)
            if model.engine != "vllm" or engine.device != "cuda" or has_nvidia_driver():
                continue
        except NotFound:
            if model.engine not in ("vllm", "cpu"):
                raise
        _install_cpu()
        if model.engine != "cpu":
            sets.append(f"models.{model.name}.engine=cpu")
    return sets


def sharing(fleet: Fleet, gpus: int) -> list[str]:
    """Overrides that let tiny models share `gpus` cards where there are fewer cards than models.

    Each gets a slice of a card's memory; models of a real size are left as the file has them.
    """
    from vllm_console.engines.tiny import tiny_source

    tiny = [
        model
        for model in fleet.models.values()
        if not model.attached and model.devices is None and tiny_source(model.source) is not None
    ]
    if not gpus or len(tiny) <= gpus:
        return []
    slice_of_card = 0.9 / -(-len(tiny) // gpus)
    return [
        override
        for number, model in enumerate(tiny)
        for override in (
            f"models.{model.name}.devices=[{number % gpus}]",
            f"models.{model.name}.options.gpu_memory_utilization={slice_of_card:.2f}",
        )
    ]


def _gpu_count(engines: Sequence[str]) -> int:
    """GPUs that the fleet's engine can use: none where models run on the CPU build."""
    from vllm_console.devices.nvml import Nvml
    from vllm_console.engines.environment import resolve

    if engines or resolve("vllm").device == "cpu":
        return 0
    nvml = Nvml()
    try:
        return len(nvml.poll().gpus)
    finally:
        nvml.close()


def _install_cpu() -> None:
    from vllm_console.engines.install import install

    progress = Progress()
    tty = sys.stderr.isatty()

    def show(now: InstallProgress) -> None:
        share = f" {now.done / now.total:.0%}" if now.done is not None and now.total else ""
        detail = f" · {now.detail}" if tty and now.detail else ""
        progress.show(f"engine environment cpu: {now.stage}{share if tty else ''}{detail}"[:150])

    try:
        install("cpu", on_progress=show)
    finally:
        progress.end()


def _start(place: Place, sets: Sequence[str], cleanup: ExitStack, *, keep: bool) -> Client:
    """A client of the fleet's daemon; one that is started here is taken down at the end."""
    from vllm_console.control.process import is_running, start_detached

    if is_running(place):
        print(f"{place.name}: a daemon runs already; it stays when the demo ends", file=sys.stderr)
    elif keep:
        cleanup.callback(
            lambda: print(
                f"{place.name}: left running; `vllm-console --fleet {place.fleet_file} "
                f"--state-dir {place.state_dir} down` stops it",
                file=sys.stderr,
            )
        )
    else:
        cleanup.callback(_untouchable(lambda: _down(place)))
    return start_detached(place, sets)


def _wait_ready(client: Client, fleet: Fleet, names: Sequence[str], *, strict: bool) -> None:
    """Shows every model on its way until all are ready, or as far as they will get.

    A model that failed is a `ConsoleError` if `strict`; otherwise the console shows it, as long as
    one model is ready.
    """
    limit = max(fleet.models[name].start_timeout_s for name in names)
    deadline = time.monotonic() + limit
    board = _Board(names)
    try:
        while True:
            models = {m.name: m for m in client.snapshot().models if m.name in names}
            board.show(models)
            states = {name: models[name].state for name in names if name in models}
            ended = [n for n, s in states.items() if s in (State.FAILED, State.CRASH_LOOP)]
            ready = [n for n, s in states.items() if s == State.READY]
            if len(ready) == len(names):
                return
            if ended and (strict or len(ended) == len(names)):
                raise ConsoleError(_why(models[ended[0]]))
            if ended and len(ended) + len(ready) == len(names):
                return
            if time.monotonic() > deadline:
                raise TimedOut(f"not ready after {limit:g} s: {states}")
            time.sleep(_POLL_S)
    finally:
        board.end()


def _why(model: Model) -> str:
    for worker in model.workers:
        if (failure := worker.failure) is not None:
            return f"{worker.id} {worker.state} ({failure.cause}): {failure.line}; {failure.remedy}"
    return f"{model.name} is {model.state}; see `vllm-console logs {model.name}`"


class _Board:
    """One line a model on stderr: redrawn on a terminal, said once a change elsewhere."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._tty = sys.stderr.isatty()
        self._said: dict[str, str] = {}
        self._drawn = 0

    def show(self, models: dict[str, Model]) -> None:
        """Shows where each model is."""
        lines = {name: describe(models[name]) for name in self._names if name in models}
        if self._tty:
            up = f"\x1b[{self._drawn}A" if self._drawn else ""
            width = shutil.get_terminal_size().columns - 1
            shown = (f"{line}{_clock(models[name])}"[:width] for name, line in lines.items())
            body = "".join(f"\r\x1b[K{line}\n" for line in shown)
            print(up + body, end="", file=sys.stderr, flush=True)
            self._drawn = len(lines)
            return
        for name, line in lines.items():
            line = re.sub(r" \d+%", "", line)  # a pipe is told stages, not every step
            if self._said.get(name) != line:
                self._said[name] = line
                print(line, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leaves the lines where they are."""
        self._drawn = 0


def _clock(model: Model) -> str:
    """How long the slowest start of a model has taken, and what earlier ones took."""
    starting = [w for w in model.workers if w.state == State.STARTING and w.elapsed_s is not None]
    if not starting:
        return ""
    slowest = max(starting, key=lambda worker: worker.elapsed_s or 0.0)
    usual = f" of about {slowest.expected_s:.0f}" if slowest.expected_s else ""
    return f" · {slowest.elapsed_s:.0f}{usual} s"


def _watch(traffic: TrafficProcess, seconds: float) -> None:
    """Waits for so long, saying on stderr how traffic goes; raises when the generator ends."""
    progress = Progress()
    every = 1.0 if sys.stderr.isatty() else 15.0
    start = time.monotonic()
    told = start
    try:
        while (gone := time.monotonic() - start) < seconds:
            traffic.check()
            if time.monotonic() - told >= every:
                told = time.monotonic()
                now = traffic.summary
                done = sum(model.ok for model in now.models)
                progress.show(
                    f"traffic: {gone:.0f} of {seconds:.0f} s · {done} requests answered · "
                    f"{now.output_tokens} tokens · {now.failed} failed"
                )
            time.sleep(min(_POLL_S, max(0.0, seconds - gone)))
    finally:
        progress.end()


def _console(place: Place, seconds: float | None) -> int:
    """The console in a process of its own, until it is left or the time is over."""
    command = [sys.executable, "-m", "vllm_console", "--fleet", str(place.fleet_file)]
    command += ["--state-dir", str(place.state_dir), "console"]
    with _screen_kept():
        process = subprocess.Popen(command)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return 0
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(3.0)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@contextmanager
def _screen_kept() -> Iterator[None]:
    """Puts the terminal back as it was if whoever drew on it was ended by force."""
    import termios

    before = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        if termios.tcgetattr(sys.stdin) != before:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
            print(_RESET_SCREEN, end="", flush=True)


def _down(place: Place) -> None:
    """Takes down the fleet and makes sure that no process of it is left."""
    import psutil

    processes: list[psutil.Process] = []
    with suppress(ConsoleError):
        for model in Client(place.socket).snapshot().models:
            for worker in model.workers:
                if worker.pid is not None and worker.state != State.STOPPED:
                    with suppress(psutil.Error):
                        process = psutil.Process(worker.pid)
                        processes += [process, *process.children(recursive=True)]
    with suppress(NoDaemon):  # somebody took it down already
        take_down(place, _DOWN_TIMEOUT_S)
    _, left = psutil.wait_procs(processes, timeout=10.0)
    if left:
        raise ConsoleError(f"still running: {', '.join(str(process.pid) for process in left)}")


class _Stopped(SystemExit):
    """A signal asked the demo to end."""


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Turns SIGTERM and SIGHUP into an orderly end; Ctrl-C is one already."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Stopped(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _untouchable(action: Callable[[], object]) -> Callable[[], None]:
    """The action, not to be interrupted by a second Ctrl-C or SIGTERM."""

    def run() -> None:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
        try:
            action()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    return run
