"""`pin`: mark a model as one that nothing may evict."""

from __future__ import annotations

import argparse

from vllm_console.cli.connect import client_of

SUMMARY = "mark a model as one that nothing may evict; `unpin` takes that back"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `pin`."""
    parser.description = (
        "Whatever makes room for another model leaves this one alone, over restarts of the daemon "
        "too, until `vllm-console unpin` or a change of `pinned` in fleet.toml."
    )
    parser.add_argument("model", metavar="MODEL", help="a model's name or alias in fleet.toml")


def run(args: argparse.Namespace) -> int:
    """Pin a model."""
    answer = client_of(args).command("pin", model=args.model)
    print(f"{answer['model']}: pinned, nothing evicts it")
    return 0
