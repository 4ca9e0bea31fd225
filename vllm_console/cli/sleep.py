"""`sleep`: take the weights of a model off the GPU, its processes alive."""

from __future__ import annotations

import argparse

from vllm_console.cli.connect import client_of, wait_for_model
from vllm_console.cli.load import waiting_options
from vllm_console.errors import ConsoleError
from vllm_console.snapshot import Model

SUMMARY = "take a model's weights off the GPU, its process ready to wake in seconds"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `sleep`."""
    parser.add_argument(
        "model", metavar="MODEL", help="a model with sleep_level in fleet.toml, by name or alias"
    )
    waiting_options(parser, 300.0)


def run(args: argparse.Namespace) -> int:
    """Let requests in flight finish, put a model to sleep, and wait until it does."""
    client = client_of(args)
    answer = client.command("sleep", model=args.model)
    if args.no_wait:
        print(f"{answer['model']}: going to sleep")
        return 0
    model = wait_for_model(client, args.model, _is_over, timeout=args.timeout, what="asleep")
    if model.state != "asleep":
        why = next((f": {w.reason}" for w in model.workers if w.reason), "")
        raise ConsoleError(f"{model.name} is {model.state}, and not asleep{why}")
    print(f"{model.name}: asleep; `vllm-console wake {model.name}` or a request wakes it")
    return 0


def _is_over(model: Model) -> bool:
    return model.state == "asleep" or model.state in ("ready", "stopped")
