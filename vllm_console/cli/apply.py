"""`apply`: bring the running fleet to what fleet.toml says now."""

from __future__ import annotations

import argparse
import sys
import threading
from typing import Any

from vllm_console.cli.connect import place_of, print_json
from vllm_console.control.client import Client
from vllm_console.errors import ConsoleError, InvalidInput

SUMMARY = "bring the running fleet to what fleet.toml says now"
_SIGN = {"add": "+", "remove": "-", "restart": "~", "update": "·", "end-canary": "-"}
_MEANS = {
    "add": "new",
    "remove": "goes: drained and stopped",
    "restart": "its workers are replaced, the new ones ready first where there is room",
    "update": "takes effect at once, no worker is touched",
    "end-canary": "its canary is drained and stopped, no other worker is touched",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `apply`."""
    parser.description = (
        "Compare fleet.toml with what runs, show the plan, ask, and carry it out one model at a "
        "time. A revision that does not become ready is rolled back by itself. SIGHUP to the "
        "daemon does the same without asking."
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--plan", action="store_true", help="show the plan, change nothing")
    parser.add_argument("--json", action="store_true", help="the plan as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Show the plan, ask, apply; exit 1 when a model had to be rolled back."""
    place = place_of(args)
    client = Client(place.socket, program="apply")
    answer = client.command("plan")
    changes = answer["changes"]
    if args.json:
        print_json({"schema": "vllm-console/plan/1", "fleet": place.name, "changes": changes})
    else:
        print("\n".join(_lines(changes)))
    if args.plan or not changes:
        return 0
    if not args.yes and not _agreed():
        print("nothing was changed", file=sys.stderr)
        return 0
    patient = Client(place.socket, timeout=None, program="apply")
    _apply(patient, client, answer["digest"])
    print(f"{place.name}: applied", file=sys.stderr if args.json else sys.stdout)
    return 0


def _lines(changes: list[dict[str, Any]]) -> list[str]:
    if not changes:
        return ["nothing to change: the fleet runs what the file says"]
    lines = []
    for change in changes:
        lines.append(f"{_SIGN[change['kind']]} {change['model']}: {_MEANS[change['kind']]}")
        lines += [f"    {what}" for what in change["what"]]
    return lines


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise InvalidInput("apply asks before it changes anything; without a terminal say --yes")
    print("apply this? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _apply(patient: Client, client: Client, digest: str) -> None:
    """Carry the plan out, telling on stderr what happens meanwhile."""
    failed: list[ConsoleError] = []

    def carry_out() -> None:
        try:
            patient.command("apply", digest=digest)
        except ConsoleError as error:
            failed.append(error)

    newest = client.events(limit=1)
    seq = newest[-1].seq if newest else 0
    work = threading.Thread(target=carry_out)
    work.start()
    while work.is_alive():
        work.join(0.3)
        for event in client.events(after=seq):
            seq = event.seq
            print(f"{event.subject}: {event.text}", file=sys.stderr, flush=True)
    if failed:
        raise failed[0]
