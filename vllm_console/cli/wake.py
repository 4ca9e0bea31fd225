"""`wake`: have a model that sleeps serve again."""

from __future__ import annotations

import argparse

from vllm_console.cli.connect import client_of, wait_for_model
from vllm_console.cli.load import waiting_options, why_asleep
from vllm_console.errors import ConsoleError
from vllm_console.snapshot import Model

SUMMARY = "bring a sleeping model back"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `wake`."""
    parser.add_argument("model", metavar="MODEL", help="a model's name or alias in fleet.toml")
    waiting_options(parser, 1800.0)


def run(args: argparse.Namespace) -> int:
    """Wake a model and wait until all its workers are ready."""
    client = client_of(args)
    answer = client.command("wake", model=args.model)
    if args.no_wait:
        print(f"{answer['model']}: waking")
        return 0
    model = wait_for_model(client, args.model, _is_over, timeout=args.timeout, what="awake")
    if not model.ready or why_asleep(model) is not None:
        why = next((f": {w.reason}" for w in model.workers if w.reason), "")
        raise ConsoleError(f"{model.name} is {model.state}{why}")
    print(f"{model.name}: ready, {', '.join(w.url or w.id for w in model.workers)}")
    return 0


def _is_over(model: Model) -> bool:
    """Serving as wanted, or told why not: who cannot be woken says so and sleeps on."""
    if model.ready >= max(1, model.wanted) or model.state == "stopped":
        return True
    return why_asleep(model) is not None
