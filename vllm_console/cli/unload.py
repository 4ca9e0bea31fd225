"""`unload`: drain and stop the workers of a model."""

from __future__ import annotations

import argparse

from vllm_console.cli.connect import client_of, wait_for_model
from vllm_console.cli.load import waiting_options

SUMMARY = "drain and stop the workers of a model"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `unload`."""
    parser.add_argument("model", metavar="MODEL", help="a model's name or alias in fleet.toml")
    waiting_options(parser, 120.0)


def run(args: argparse.Namespace) -> int:
    """Unload a model and wait until nothing of it is left."""
    client = client_of(args)
    answer = client.command("unload", model=args.model)
    if args.no_wait:
        print(f"{answer['model']}: unloading")
        return 0
    model = wait_for_model(
        client,
        args.model,
        lambda m: m.wanted == 0 and not any(w.pid for w in m.workers),
        timeout=args.timeout,
        what="stopped",
    )
    print(f"{model.name}: stopped")
    return 0
