"""`systemd`: print a unit that starts the fleet at boot."""

from __future__ import annotations

import argparse
import os
import sys

from vllm_console.cli.connect import place_of

SUMMARY = "print a systemd unit that starts the fleet at boot"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `systemd`."""
    parser.description = (
        "Print a systemd unit on stdout, with the two commands that install it. A daemon that "
        "dies is started again and adopts its workers; stopping the unit takes the fleet down."
    )
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument(
        "--user", action="store_true", help="a unit of this user (the default, unless root)"
    )
    scope.add_argument(
        "--system", action="store_true", help="a unit of the machine, run as this user"
    )


def run(args: argparse.Namespace) -> int:
    """Print the unit; root gets a system unit unless --user is said."""
    import pwd

    from vllm_console.control.unit import program_of, unit
    from vllm_console.fleet.load import load_fleet

    place = place_of(args)
    fleet = load_fleet(place.fleet_file, sets=args.set)
    system = args.system or (os.geteuid() == 0 and not args.user)
    user = pwd.getpwuid(os.geteuid()).pw_name if system else None
    text = unit(
        place,
        fleet,
        program_of(sys.executable),
        user=user,
        environ=os.environ,
        sets=args.set,
    )
    print(text, end="")
    return 0
