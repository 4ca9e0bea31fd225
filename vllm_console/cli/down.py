"""`down`: stop the fleet: every worker, then the daemon."""

from __future__ import annotations

import argparse
import time

from vllm_console.cli.connect import Progress, place_of, seconds_of
from vllm_console.control.client import Client
from vllm_console.errors import NoDaemon, TimedOut
from vllm_console.fleet.find import Place

SUMMARY = "stop the fleet: every worker, then the daemon"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `down`."""
    parser.add_argument(
        "--timeout",
        type=seconds_of,
        default=120.0,
        metavar="SECONDS",
        help="give up waiting after this long (default 120); stopping goes on",
    )


def run(args: argparse.Namespace) -> int:
    """Take the fleet down and return once nothing of it is left."""
    place = place_of(args)
    take_down(place, args.timeout)
    print(f"{place.name}: down")
    return 0


def take_down(place: Place, timeout: float) -> None:
    """Stop workers and daemon; raises `NoDaemon` when nothing runs, `TimedOut` when it lasts.

    Workers and gateway whose daemon died are adopted first, so that they too are drained and
    stopped.
    """
    from vllm_console.control.process import is_running, start_detached
    from vllm_console.gateway.place import is_held
    from vllm_console.launchers.local import LocalLauncher

    if not is_running(place):
        if not LocalLauncher(place.workers).running() and not is_held(place.gateway):
            raise NoDaemon(f"{place.name}: nothing runs (no daemon, no worker)")
        start_detached(place, autostart=False)
    client = Client(place.socket, program="down")
    client.command("down")
    deadline = time.monotonic() + timeout
    progress = Progress()
    try:
        while is_running(place):
            if time.monotonic() > deadline:
                raise TimedOut(f"{place.name} is still stopping after {timeout:g} s")
            try:
                left = [w for m in client.snapshot().models for w in m.workers if w.pid]
                progress.show(f"{place.name}: stopping, {len(left)} workers left")
            except NoDaemon:
                pass  # it is on its way out; the lock tells when it is gone
            time.sleep(0.1)
    finally:
        progress.end()
