"""`console`: the dashboard, attached to the fleet's daemon; starts one where none runs."""

from __future__ import annotations

import argparse
import os
import sys

from vllm_console.cli.connect import place_of
from vllm_console.errors import InvalidInput

SUMMARY = "open the console (what no verb at all does)"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the console."""
    parser.add_argument("--readonly", action="store_true", help="look, change nothing")
    add_looks(parser)
    parser.add_argument(
        "--refresh",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="paint at most this often, 0.5 to 60 (default 1)",
    )


def add_looks(parser: argparse.ArgumentParser) -> None:
    """Options of how it is drawn."""
    parser.add_argument(
        "--theme", metavar="NAME", help="console-night, console-day, console-16, nord, …"
    )
    parser.add_argument(
        "--ascii",
        action=argparse.BooleanOptionalAction,
        help="draw with ASCII alone (default: where TERM has no more, such as linux)",
    )


def needs_terminal(instead: str) -> None:
    """Raise `InvalidInput` where there is neither a terminal nor `web` to draw on."""
    drawn_elsewhere = os.environ.get("TEXTUAL_DRIVER")
    if not drawn_elsewhere and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidInput(f"the console needs a terminal; {instead}")


def run(args: argparse.Namespace) -> int:
    """Attach to the daemon, starting one first if none runs; quitting stops nothing."""
    needs_terminal("`vllm-console status` prints the same facts")
    if not 0.5 <= args.refresh <= 60:
        raise InvalidInput(f"--refresh {args.refresh:g}: takes 0.5 to 60 seconds")
    from vllm_console.control.client import Client
    from vllm_console.control.process import is_running, start_detached
    from vllm_console.fleet.find import panels_dir
    from vllm_console.ui.app import run_console

    place = place_of(args)
    if not is_running(place):
        if args.readonly:
            Client(place.socket).snapshot_json()  # says that no daemon answers
        from vllm_console.fleet.load import load_fleet

        load_fleet(place.fleet_file, sets=args.set)  # a broken file is told here, in one line
        start_detached(place, args.set)
    return run_console(
        lambda: Client(place.socket, program="console"),
        panels=panels_dir(place),
        theme=args.theme,
        readonly=args.readonly,
        ascii_only=args.ascii,
        refresh_s=args.refresh,
    )
