"""`doctor`: what on this machine keeps the fleet from running well, each with a remedy."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_console.control.doctor import Check
    from vllm_console.fleet.find import Place
    from vllm_console.fleet.model import Fleet

SUMMARY = "look at the machine and the fleet, and say what to mend"
SCHEMA = "vllm-console/doctor/1"

_GLYPHS = {"ok": "✔", "warn": "▲", "bad": "✖"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `doctor`."""
    parser.description = (
        "Look at Python, engines, driver and CUDA, GPUs, disks, ports, shared memory, limits, "
        "orphans and the clock. Starts, stops and signals nothing. Exit 1 if anything is bad."
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def run(args: argparse.Namespace) -> int:
    """Print every check; the value is 1 if one of them is bad."""
    from vllm_console.control.examination import examine

    checks, place, fleet = _fleet(args)
    checks += examine(place, fleet)
    good = all(check.level != "bad" for check in checks)
    if args.json:
        _print_json(checks, place, good)
    else:
        print("\n".join(lines(checks)))
    return 0 if good else 1


def lines(checks: list[Check]) -> list[str]:
    """One line a check: how it is, what it is, and the remedy where it is not well."""
    width = max(len(check.name) for check in checks)
    return [
        f"{_GLYPHS[check.level]} {check.name.ljust(width)}  {check.text}"
        + (f" → {check.remedy}" if check.remedy else "")
        for check in checks
    ]


def _fleet(args: argparse.Namespace) -> tuple[list[Check], Place | None, Fleet | None]:
    """The fleet that is meant, as far as its file allows.

    Raises `InvalidInput` when a file was named that is not there.
    """
    from vllm_console.control.doctor import Check
    from vllm_console.errors import InvalidInput
    from vllm_console.fleet.find import find_fleet, locate
    from vllm_console.fleet.load import FleetError, load_fleet

    try:
        path = find_fleet(args.fleet)
    except InvalidInput:
        if args.fleet is not None:
            raise
        text = "no fleet file here: only the machine is looked at"
        return [Check("fleet", "warn", text, "name one with --fleet FILE")], None, None
    try:
        place = locate(path, args.state_dir)
    except InvalidInput as error:
        return [Check("fleet", "bad", str(error), "correct it")], None, None
    try:
        fleet = load_fleet(path, sets=args.set)
    except FleetError as error:
        more = len(error.problems) - 1
        text = str(error.problems[0]) + (f" (and {more} more)" if more else "")
        return [Check("fleet", "bad", text, "`vllm-console validate` lists all")], place, None
    count = len(fleet.models)
    text = f"{path}: {count} {'model' if count == 1 else 'models'}, state in {place.state_dir}"
    return [Check("fleet", "ok", text)], place, fleet


def _print_json(checks: list[Check], place: Place | None, good: bool) -> None:
    from vllm_console import __version__
    from vllm_console.cli.connect import print_json
    from vllm_console.snapshot import to_json
    from vllm_console.workers.launch import iso

    print_json(
        {
            "schema": SCHEMA,
            "at": iso(time.time()),
            "version": __version__,
            "fleet": None if place is None else str(place.fleet_file),
            "ok": good,
            "checks": [to_json(check) for check in checks],
        }
    )
