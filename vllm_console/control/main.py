"""The daemon's entry point: `python -m vllm_console.control.main`, and what `up` runs in front."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import uvicorn
import uvloop

from vllm_console.control.daemon import Daemon
from vllm_console.control.metrics_port import MetricsApi, listen
from vllm_console.control.peer import Asker, PeerProtocol
from vllm_console.control.process import DaemonLock, collect_rarely, make_state_dir
from vllm_console.control.server import ControlApi
from vllm_console.errors import ConsoleError
from vllm_console.fleet.find import Place, locate
from vllm_console.fleet.load import load_fleet
from vllm_console.fleet.model import Fleet
from vllm_console.snapshot import Event

_BACKLOG = 128


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: signals mean something else to a daemon."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(
    place: Place,
    fleet: Fleet,
    *,
    sets: Sequence[str] = (),
    autostart: bool = True,
    on_event: Callable[[Event], None] | None = None,
) -> None:
    """Run the daemon until it is told to end.

    SIGTERM ends the daemon and leaves the workers serving, for the next daemon to adopt. SIGINT
    (Ctrl-C in the foreground) takes the fleet down; a second one leaves the workers. SIGHUP
    applies the changed fleet file, or, where there is a terminal and it hung up, ends the daemon.
    Raises `AlreadyRunning` when this fleet has a daemon. The lock goes with the process: who waits
    for it to be free finds nothing of this daemon left.
    """
    collect_rarely()
    make_state_dir(place)
    lock = DaemonLock(place)
    lock.acquire()
    try:
        uvloop.run(
            _serve(Daemon(place, fleet, sets=sets, gateway=True), place, autostart, on_event)
        )
    finally:
        place.socket.unlink(missing_ok=True)


async def _serve(
    daemon: Daemon, place: Place, autostart: bool, on_event: Callable[[Event], None] | None
) -> None:
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def interrupted() -> None:
        if tasks & interruptions:
            daemon.stopped.set()
            return
        with daemon.audit.record(Asker("SIGINT"), "down", {}):
            task = loop.create_task(daemon.take_down())
        interruptions.add(task)
        tasks.add(task)

    def ended(name: str) -> None:
        with daemon.audit.record(Asker(name), "end the daemon", {}):
            daemon.stopped.set()

    interruptions: set[asyncio.Task[None]] = set()
    loop.add_signal_handler(signal.SIGINT, interrupted)
    loop.add_signal_handler(signal.SIGTERM, ended, "SIGTERM")
    hang_up = partial(ended, "SIGHUP") if os.isatty(0) else partial(_apply, daemon, tasks)
    loop.add_signal_handler(signal.SIGHUP, hang_up)
    if on_event is not None:
        tasks.add(loop.create_task(_tell(daemon, on_event)))
    listening = _listen(place)
    api = ControlApi(daemon)
    server = _server(api)
    metrics = _metrics(daemon)
    try:
        await daemon.start(autostart=autostart)
        serving = loop.create_task(server.serve(sockets=[listening]))
        tasks.add(serving)
        stopped = loop.create_task(_until(daemon.stopped))
        tasks.add(stopped)
        if metrics is not None:
            answering = _server(MetricsApi(daemon.metrics))
            tasks.add(loop.create_task(answering.serve(sockets=[metrics])))
        await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
        api.end_streams()
        server.should_exit = True
        await serving
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await daemon.close()
        listening.close()
        if metrics is not None:
            metrics.close()


def _server(app: ControlApi | MetricsApi) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            interface="asgi3",
            lifespan="off",
            http=PeerProtocol,
            ws="none",
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=1,
        )
    )


def _metrics(daemon: Daemon) -> socket.socket | None:
    """The port that [metrics] asks for; one that is taken costs an event, never the fleet."""
    port = daemon.fleet.metrics.port
    if port is None:
        return None
    try:
        return listen(port)
    except ConsoleError as error:
        daemon.events.add("warn", "fleet", str(error))
        return None


def _apply(daemon: Daemon, tasks: set[asyncio.Task[None]]) -> None:
    """SIGHUP to a daemon without a terminal: the fleet file has changed."""

    async def apply() -> None:
        try:
            with daemon.audit.record(Asker("SIGHUP"), "apply", {}):
                await daemon.command("apply", {})
        except ConsoleError as error:
            daemon.events.add("crit", "fleet", f"not applied: {error}")

    task = asyncio.get_running_loop().create_task(apply())
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def _until(event: asyncio.Event) -> None:
    await event.wait()


async def _tell(daemon: Daemon, on_event: Callable[[Event], None]) -> None:
    newest = daemon.events.newest(1)
    async for event in daemon.events.follow(newest[0].seq if newest else 0):
        on_event(event)


def _listen(place: Place) -> socket.socket:
    """The control socket, for this user alone from its first moment; the lock makes it ours."""
    place.socket.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listening.bind(str(place.socket))
    except OSError as error:
        listening.close()
        raise ConsoleError(f"{place.socket}: cannot listen here ({error.strerror})") from None
    finally:
        os.umask(mask)
    listening.listen(_BACKLOG)
    return listening


def main(argv: Sequence[str] | None = None) -> int:
    """The detached daemon; its stderr is the fleet's daemon.log."""
    parser = argparse.ArgumentParser(prog="vllm-console-daemon")
    parser.add_argument("--fleet", required=True)
    parser.add_argument("--state-dir", required=True)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--no-autostart", action="store_true")
    args = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        place = locate(args.fleet, args.state_dir)
        fleet = load_fleet(place.fleet_file, sets=args.set)
        run(place, fleet, sets=args.set, autostart=not args.no_autostart)
    except ConsoleError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the last line of daemon.log is shown to the user
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
