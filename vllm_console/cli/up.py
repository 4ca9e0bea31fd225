"""`up`: start the fleet's daemon and its models."""

from __future__ import annotations

import argparse
import time

from vllm_console.cli.connect import place_of
from vllm_console.control.client import Client
from vllm_console.snapshot import STARTS, Event

SUMMARY = "start the fleet's daemon and its models"
ENDPOINT_S = 5.0
"""A gateway answers within half a second; a busy machine is given this long."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `up`."""
    parser.description = (
        "Start the daemon and load every model with autostart. In the foreground, Ctrl-C takes "
        "the fleet down (twice: leaves the workers running); SIGTERM ends the daemon alone, and "
        "the next one adopts its workers."
    )
    parser.add_argument(
        "-d", "--detach", action="store_true", help="return once the daemon answers"
    )
    parser.add_argument(
        "--no-autostart", action="store_true", help="adopt what runs, start no model"
    )


def run(args: argparse.Namespace) -> int:
    """Start the daemon here, or on its own with --detach."""
    from vllm_console.control.process import is_running, start_detached
    from vllm_console.fleet.load import load_fleet

    place = place_of(args)
    fleet = load_fleet(place.fleet_file, sets=args.set)
    if args.detach:
        already = is_running(place)
        client = start_detached(place, args.set, autostart=not args.no_autostart)
        daemon = client.snapshot().daemon
        print(f"{fleet.name}: daemon {'already runs' if already else 'started'}, pid {daemon.pid}")
        print(f"{fleet.name}: {endpoint(client)}", flush=True)
        return 0
    from vllm_console.control.main import run as run_daemon

    print(f"{fleet.name}: {len(fleet.models)} models, state in {place.state_dir}", flush=True)
    run_daemon(place, fleet, sets=args.set, autostart=not args.no_autostart, on_event=_print_event)
    return 0


def endpoint(client: Client, within_s: float = ENDPOINT_S) -> str:
    """Where requests go, in words; waits for a gateway that is just starting."""
    deadline = time.monotonic() + within_s
    while True:
        gateway = client.snapshot().gateway
        if gateway.running:
            return f"endpoint {gateway.url}"
        if gateway.reason != STARTS or time.monotonic() > deadline:
            return f"no endpoint: {gateway.reason}"
        time.sleep(0.05)


def _print_event(event: Event) -> None:
    print(f"{event.at}  {event.level:<4}  {event.subject:<20}  {event.text}", flush=True)
