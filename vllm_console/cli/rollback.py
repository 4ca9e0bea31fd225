"""`rollback`: serve an earlier revision of a model again."""

from __future__ import annotations

import argparse
import json
from typing import Any

from vllm_console.cli.connect import client_of, place_of, print_json
from vllm_console.control.client import Client

SUMMARY = "serve an earlier revision of a model again"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `rollback`."""
    parser.description = (
        "Serve an earlier revision of a model again: the one before, or the one named. It holds "
        "until fleet.toml is applied again, or the daemon starts anew; edit the file to keep it."
    )
    parser.add_argument("model", metavar="MODEL", help="a model's name or alias in fleet.toml")
    parser.add_argument(
        "revision", metavar="N", nargs="?", type=int, help="which (default: the one before)"
    )
    parser.add_argument("--list", action="store_true", help="every revision there is")
    parser.add_argument("--json", action="store_true", help="the list as one JSON object")


def run(args: argparse.Namespace) -> int:
    """List a model's revisions, or bring one back; exit 1 when it does not become ready."""
    if args.list or args.json:
        answer = client_of(args).command("revisions", model=args.model)
        if args.json:
            print_json({"schema": "vllm-console/revisions/1", **answer})
        else:
            print("\n".join(_lines(answer)))
        return 0
    client = Client(place_of(args).socket, timeout=None, program="rollback")
    answer = client.command("rollback", model=args.model, revision=args.revision)
    print(f"{answer['model']}: revision {answer['revision']}")
    return 0


def _lines(answer: dict[str, Any]) -> list[str]:
    lines = []
    for revision in answer["revisions"]:
        mark = "●" if revision["number"] == answer["revision"] else " "
        options = json.dumps(revision["config"].get("options", {}), ensure_ascii=False)
        lines.append(f"{mark} {revision['number']:>3}  {revision['at']}  {options}")
    return lines
