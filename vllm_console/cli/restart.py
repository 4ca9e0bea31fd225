"""`restart`: stop and start the workers of a model."""

from __future__ import annotations

import argparse

from vllm_console.cli.connect import client_of, model_in, wait_for_model
from vllm_console.cli.load import waiting_options

SUMMARY = "stop and start the workers of a model"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `restart`."""
    parser.add_argument("model", metavar="MODEL", help="a model's name or alias in fleet.toml")
    waiting_options(parser, 1800.0)


def run(args: argparse.Namespace) -> int:
    """Restart a model and wait until its workers are ready under new process ids."""
    client = client_of(args)
    before = {w.pid for w in model_in(client.snapshot(), args.model).workers}
    answer = client.command("restart", model=args.model)
    if args.no_wait:
        print(f"{answer['model']}: restarting")
        return 0
    model = wait_for_model(
        client,
        args.model,
        lambda m: m.ready >= max(1, m.wanted) and not before & {w.pid for w in m.workers},
        timeout=args.timeout,
        what="ready",
    )
    print(f"{model.name}: ready, {', '.join(w.url or w.id for w in model.workers)}")
    return 0
