"""`reap`: list the vLLM processes nobody looks after any more, and end those that are named."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vllm_console.cli.connect import print_json, seconds_of
from vllm_console.errors import ConsoleError, InvalidInput, NotFound, TimedOut

if TYPE_CHECKING:
    from pathlib import Path

    from vllm_console.control.orphans import Named
    from vllm_console.launchers.reaping import Outcome
    from vllm_console.workers.orphans import Orphan

SUMMARY = "list vLLM processes that nobody looks after, and end them on request"
SCHEMA = "vllm-console/reap/1"

_SAID = {
    "ended": "ended",
    "killed": "killed: it did not follow SIGTERM",
    "gone": "had ended by itself",
    "changed": "not signalled: it is another process now, or no orphan any more",
    "denied": "not signalled: that is not permitted",
    "alive": "still there after SIGKILL: it hangs in a driver or a disk",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `reap`."""
    parser.description = (
        "List orphans: what earlier workers left behind, and engines whose server is gone. With "
        "pids, or --all, end them: SIGTERM, a while, SIGKILL; each is looked at again right "
        "before. A worker that a daemon can adopt is listed and never ended here."
    )
    parser.add_argument("pid", metavar="PID", nargs="*", help="end this one and what it started")
    parser.add_argument("--all", action="store_true", help="end every orphan of this user")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--grace",
        metavar="SECONDS",
        type=seconds_of,
        default=10.0,
        help="between SIGTERM and SIGKILL (default 10)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def run(args: argparse.Namespace) -> int:
    """List orphans, or end the named ones; exit 1 when one was not ended, 5 when it lives on."""
    if args.pid and args.all:
        raise InvalidInput("name pids or say --all, not both")
    from vllm_console.control.orphans import find, read_gpus
    from vllm_console.launchers.reaping import reap

    state_dir, reading = _state_dir(args), read_gpus()
    found = find(state_dir, reading, asker=os.getpid())
    if not args.pid and not args.all:
        if args.json:
            _print_json(found, {})
        else:
            print("\n".join(lines(found)))
        return 0
    chosen = chosen_of(found, args.pid)
    if not chosen:
        if args.json:
            _print_json([], {})
        else:
            print("no orphan to end")
        return 0
    if not args.yes and not _agreed(chosen):
        print("nothing was ended", file=sys.stderr)
        return 0

    def look() -> dict[int, Orphan]:
        return {n.orphan.pid: n.orphan for n in find(state_dir, reading, asker=os.getpid())}

    outcomes = reap([named.orphan for named in chosen], look, grace_s=args.grace)
    if args.json:
        _print_json(chosen, outcomes)
    else:
        for named in chosen:
            pid = named.orphan.pid
            print(f"{pid}  {named.orphan.title}: {_SAID[outcomes[pid]]}")
    return _exit_code(outcomes)


def chosen_of(found: Sequence[Named], pids: Sequence[str], uid: int | None = None) -> list[Named]:
    """The orphans to end: those of `pids`, else every one of this user (`uid`, by default ours).

    Raises `NotFound` for a pid that is no orphan, `ConsoleError` for one that is not ended here,
    and `InvalidInput` for what is no pid.
    """
    own = os.geteuid() if uid is None else uid
    if not pids:
        return [n for n in found if n.orphan.kind != "unattended" and n.orphan.uid == own]
    by_pid = {n.orphan.pid: n for n in found}
    chosen = []
    for text in dict.fromkeys(pids):
        if not text.isascii() or not text.isdigit():
            raise InvalidInput(f'"{text}" is no pid; `vllm-console reap` lists those of orphans')
        named = by_pid.get(int(text))
        if named is None:
            raise NotFound(f"pid {text} is no orphan; `vllm-console reap` lists those there are")
        if named.orphan.kind == "unattended":
            raise ConsoleError(f"pid {text} is a living {named.orphan.why}: {named.remedy}")
        if own not in (0, named.orphan.uid):
            raise ConsoleError(f"pid {text} belongs to user {named.orphan.uid}: ask them, or root")
        chosen.append(named)
    return chosen


def lines(found: Sequence[Named]) -> list[str]:
    """One line an orphan, and how to end those that may be ended."""
    if not found:
        return ["no orphans"]
    own = os.geteuid()
    said = []
    for named in found:
        orphan = named.orphan
        whose = "" if orphan.uid == own else f" (user {orphan.uid})"
        size = len(orphan.tree)
        tree = "" if size < 2 else f", {size} processes"
        said.append(f"{orphan.pid}{whose}  {named.line}{tree} → {named.remedy}")
    if len(chosen_of(found, ())) > 1:
        said.append("`vllm-console reap --all` ends all of yours that no daemon can adopt")
    return said


def _agreed(chosen: Sequence[Named]) -> bool:
    """Ask on the terminal; raises `InvalidInput` where there is none."""
    if not sys.stdin.isatty():
        raise InvalidInput("reap asks before it ends anything; without a terminal say --yes")
    for named in chosen:
        print(f"{named.orphan.pid}  {named.line}", file=sys.stderr)
    what = "it and what it started" if len(chosen) == 1 else f"these {len(chosen)} trees"
    print(f"end {what}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _exit_code(outcomes: dict[int, Outcome]) -> int:
    said = set(outcomes.values())
    if "alive" in said:
        return TimedOut.exit_code
    return 1 if said & {"changed", "denied"} else 0


def _state_dir(args: argparse.Namespace) -> Path | None:
    """Of the fleet that is meant, if there is one; raises `InvalidInput` for a broken file."""
    from vllm_console.fleet.find import find_fleet, locate

    try:
        path = find_fleet(args.fleet)
    except InvalidInput:
        if args.fleet is not None:
            raise
        return None
    return locate(path, args.state_dir).state_dir


def _print_json(found: Sequence[Named], outcomes: dict[int, Outcome]) -> None:
    from vllm_console.workers.launch import iso

    listed = [
        {
            "pid": named.orphan.pid,
            "kind": named.orphan.kind,
            "title": named.orphan.title,
            "why": named.orphan.why,
            "remedy": named.remedy,
            "uid": named.orphan.uid,
            "since": iso(named.since),
            "gpu_memory_bytes": named.gpu_bytes,
            "state_dir": _text(named.orphan.directory and named.orphan.directory.parent.parent),
            "worker": named.orphan.directory and named.orphan.directory.name,
            "tree": [pid for pid, _ in named.orphan.tree],
            "outcome": outcomes.get(named.orphan.pid),
        }
        for named in found
    ]
    print_json({"schema": SCHEMA, "at": iso(time.time()), "orphans": listed})


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
