"""`unpin`: let a model be evicted again."""

from __future__ import annotations

import argparse

from vllm_console.cli.connect import client_of

SUMMARY = "let a model be evicted again"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `unpin`."""
    parser.description = (
        "Undo `vllm-console pin`, or hold against `pinned = true` in fleet.toml until that changes."
    )
    parser.add_argument("model", metavar="MODEL", help="a model's name or alias in fleet.toml")


def run(args: argparse.Namespace) -> int:
    """Unpin a model."""
    answer = client_of(args).command("unpin", model=args.model)
    print(f"{answer['model']}: not pinned")
    return 0
