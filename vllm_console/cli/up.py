"""`up`: start the fleet's daemon and its models."""

from __future__ import annotations

import argparse

from vllm_console.cli.connect import place_of
from vllm_console.snapshot import Event

SUMMARY = "start the fleet's daemon and its models"


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
        return 0
    from vllm_console.control.main import run as run_daemon

    print(f"{fleet.name}: {len(fleet.models)} models, state in {place.state_dir}", flush=True)
    run_daemon(place, fleet, sets=args.set, autostart=not args.no_autostart, on_event=_print_event)
    return 0


def _print_event(event: Event) -> None:
    print(f"{event.at}  {event.level:<4}  {event.subject:<20}  {event.text}", flush=True)
