"""`scale`: how many workers a model has."""

from __future__ import annotations

import argparse

from vllm_console.cli.connect import client_of, count_of, wait_for_model
from vllm_console.cli.load import waiting_options

SUMMARY = "give a model more workers, or fewer"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `scale`."""
    parser.add_argument("model", metavar="MODEL", help="a model's name or alias in fleet.toml")
    parser.add_argument(
        "workers",
        metavar="N",
        type=count_of,
        help="workers it is to have, between scale.min and scale.max of fleet.toml",
    )
    waiting_options(parser, 1800.0)


def run(args: argparse.Namespace) -> int:
    """Want so many workers, and wait until they are ready and the others are gone."""
    client = client_of(args)
    answer = client.command("scale", model=args.model, workers=args.workers)
    if args.no_wait:
        print(f"{answer['model']}: {args.workers} wanted")
        return 0
    model = wait_for_model(
        client,
        args.model,
        lambda m: len(m.workers) - (m.canary is not None) == args.workers == m.ready,
        timeout=args.timeout,
        what=f"at {args.workers} workers",
    )
    print(f"{model.name}: {model.ready} of {model.wanted} ready")
    return 0
