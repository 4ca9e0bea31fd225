"""`validate`: check fleet.toml, and its engine options against the vLLM that would run them."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from vllm_console.errors import InvalidInput

if TYPE_CHECKING:
    from vllm_console.fleet.problems import Problem

SUMMARY = "check fleet.toml without starting anything"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `validate`."""
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def run(args: argparse.Namespace) -> int:
    """Say that the file holds, or every problem of it, one line each; the value is 0 or 2."""
    from vllm_console.control.beyond import beyond_the_file
    from vllm_console.fleet.load import FleetError, find_fleet, load_fleet

    path = find_fleet(args.fleet)
    notes: list[str] = []
    count = None
    try:
        fleet = load_fleet(path, sets=args.set)
        count = len(fleet.models)
        problems = list(beyond_the_file(fleet, notes, _say))
    except FleetError as error:
        problems = list(error.problems)
    if args.json:
        _print_json(str(path), count, problems, notes)
    else:
        for line in (*map(str, problems), *(f"note: {note}" for note in notes)):
            print(line, file=sys.stderr)
        if not problems:
            print(f"{path.name}: ok, {count} {'model' if count == 1 else 'models'}")
    return InvalidInput.exit_code if problems else 0


def _print_json(path: str, count: int | None, problems: list[Problem], notes: list[str]) -> None:
    from vllm_console.cli.connect import print_json

    lines = [
        {"place": p.place, "line": p.line, "key": p.key or None, "text": p.text} for p in problems
    ]
    print_json(
        {"fleet": path, "ok": not problems, "models": count, "problems": lines, "notes": notes}
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr)
