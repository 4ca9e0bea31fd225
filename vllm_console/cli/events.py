"""`events`: what happened to the fleet, and with --audit who asked for what."""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from vllm_console.cli.connect import client_of, count_of, place_of
from vllm_console.cli.recorded import from_file
from vllm_console.control.client import Client
from vllm_console.errors import InvalidInput, NoDaemon, TimedOut
from vllm_console.fleet.duration import parse_duration
from vllm_console.history.records import LEVELS, Span, read_audit, read_events
from vllm_console.snapshot import AuditEntry, Event, to_json

SUMMARY = "what happened to the fleet"
_LOOK_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class _Log:
    """One of the two logs: how it is asked for, followed, read from the file, and shown."""

    find: Callable[[Client, Span], list[Any]]
    follow: Callable[[Client, int], Iterator[Any]]
    read: Callable[[sqlite3.Connection, Span], list[Any]]
    line: Callable[[Any], str]


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `events`."""
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on as events happen, over restarts too"
    )
    parser.add_argument(
        "--audit", action="store_true", help="the commands that were given instead: who, what, when"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "-n", "--lines", type=count_of, default=50, metavar="N", help="the newest N (default 50)"
    )
    parser.add_argument(
        "--after", type=count_of, default=0, metavar="SEQ", help="only what is numbered above SEQ"
    )
    parser.add_argument(
        "--since", type=_time_ago, metavar="TIME", help='only the last TIME, such as "2h" or "30m"'
    )
    parser.add_argument(
        "--level", choices=LEVELS, metavar="LEVEL", help=f"at least: {', '.join(LEVELS)}"
    )


def run(args: argparse.Namespace) -> int:
    """Print events, or the audit, oldest first."""
    if args.audit and args.level:
        raise InvalidInput("--level is of events: the audit has none; leave one of the two out")
    log = _AUDIT if args.audit else _EVENTS
    client = client_of(args)
    wanted = Span(
        after=args.after,
        limit=max(1, args.lines),
        since=args.since,
        level=args.level or LEVELS[0],
    )
    away: NoDaemon | None = None
    try:
        newest = log.find(client, wanted)
    except NoDaemon as error:
        away = error
        newest = from_file(place_of(args), error, lambda connection: log.read(connection, wanted))
    last = newest[-1].seq if newest else args.after
    for entry in newest[-args.lines :] if args.lines else []:
        _print(log, entry, args.json)
    if args.follow:
        for entry in _follow(log, client, last, away=away is not None):
            if wanted.holds(entry):
                _print(log, entry, args.json)
    return 0


def _follow(log: _Log, client: Client, last: int, *, away: bool) -> Iterator[Any]:
    """Entries numbered above `last` as they come, whichever daemon tells them; never ends."""
    while True:
        if away:
            print("waiting for a daemon", file=sys.stderr, flush=True)
            if _newest_of_the_next(log, client) < last:
                last = 0  # its file is another, and its numbers begin anew
            print("a daemon answers", file=sys.stderr, flush=True)
        try:
            for entry in log.follow(client, last):
                last = entry.seq
                yield entry
        except (NoDaemon, TimedOut):
            pass
        away = True


def _newest_of_the_next(log: _Log, client: Client) -> int:
    """Wait for a daemon; the newest number it knows."""
    while True:
        time.sleep(_LOOK_AGAIN_S)  # first, too: the one that ends may still answer
        try:
            newest = log.find(client, Span(limit=1))
        except (NoDaemon, TimedOut):
            continue
        return newest[-1].seq if newest else 0


def _print(log: _Log, entry: Event | AuditEntry, as_json: bool) -> None:
    text = json.dumps(to_json(entry), ensure_ascii=False) if as_json else log.line(entry)
    print(text, flush=True)


def _event_line(event: Event) -> str:
    line = f"{event.at}  {event.level:<4}  {event.subject:<20}  {event.text}"
    remedy = event.failure.remedy if event.failure else ""
    return f"{line}\n{'':26}→ {remedy}" if remedy else line


def _audit_line(entry: AuditEntry) -> str:
    said = [entry.verb, *(f"{name}={value}" for name, value in entry.arguments.items())]
    pid = f" (pid {entry.pid})" if entry.pid else ""
    took = f" after {entry.seconds:.1f} s" if entry.seconds >= 0.1 else ""
    return (
        f"{entry.at}  {entry.user or '–':<10}  {entry.client + pid:<38}  {' '.join(said):<32}  "
        f"{entry.outcome}{took}"
    )


def _time_ago(text: str) -> str:
    """The time a duration ago, ISO 8601 UTC (an argparse type)."""
    try:
        then = datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except OverflowError:
        raise argparse.ArgumentTypeError(f"{text}: longer ago than there are dates") from None
    return then.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _find_events(client: Client, span: Span) -> list[Any]:
    return client.events(span.after, span.limit, since=span.since, level=span.level)


def _find_audit(client: Client, span: Span) -> list[Any]:
    return client.audit(span.after, span.limit, since=span.since)


_EVENTS = _Log(
    _find_events, lambda client, after: client.follow_events(after), read_events, _event_line
)
_AUDIT = _Log(
    _find_audit, lambda client, after: client.follow_audit(after), read_audit, _audit_line
)
