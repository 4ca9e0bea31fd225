"""`events`: what happened to the fleet."""

from __future__ import annotations

import argparse
import json

from vllm_console.cli.connect import client_of, count_of
from vllm_console.snapshot import Event, to_json

SUMMARY = "what happened to the fleet"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `events`."""
    parser.add_argument("-f", "--follow", action="store_true", help="go on as events happen")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "-n", "--lines", type=count_of, default=50, metavar="N", help="the newest N (default 50)"
    )
    parser.add_argument(
        "--after", type=count_of, default=0, metavar="SEQ", help="only events numbered above SEQ"
    )


def run(args: argparse.Namespace) -> int:
    """Print events, oldest first."""
    client = client_of(args)
    newest = client.events(args.after, max(1, args.lines))
    last = newest[-1].seq if newest else args.after
    for event in newest[-args.lines :] if args.lines else []:
        _print(event, args.json)
    if args.follow:
        for event in client.follow_events(last):
            _print(event, args.json)
    return 0


def _print(event: Event, as_json: bool) -> None:
    if as_json:
        print(json.dumps(to_json(event), ensure_ascii=False), flush=True)
    else:
        print(f"{event.at}  {event.level:<4}  {event.subject:<20}  {event.text}", flush=True)
