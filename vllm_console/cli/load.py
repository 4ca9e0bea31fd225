"""`load`: start the workers of a model."""

from __future__ import annotations

import argparse

from vllm_console.cli.connect import client_of, seconds_of, wait_for_model
from vllm_console.errors import ConsoleError
from vllm_console.snapshot import Model

SUMMARY = "start the workers of a model"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `load`."""
    parser.add_argument("model", metavar="MODEL", help="a model's name or alias in fleet.toml")
    waiting_options(parser, 1800.0)


def waiting_options(parser: argparse.ArgumentParser, timeout: float) -> None:
    """--no-wait and --timeout, alike for every verb that waits for a model."""
    parser.add_argument("--no-wait", action="store_true", help="return as soon as it is accepted")
    parser.add_argument(
        "--timeout",
        type=seconds_of,
        default=timeout,
        metavar="SECONDS",
        help=f"give up waiting after this long (default {timeout:g}); exit code 5",
    )


def run(args: argparse.Namespace) -> int:
    """Load a model and wait until all its workers are ready."""
    client = client_of(args)
    answer = client.command("load", model=args.model)
    if args.no_wait:
        print(f"{answer['model']}: loading")
        return 0
    model = wait_for_model(
        client,
        args.model,
        lambda m: (m.wanted > 0 and m.ready >= m.wanted) or why_asleep(m) is not None,
        timeout=args.timeout,
        what="ready",
    )
    if (why := why_asleep(model)) is not None:
        raise ConsoleError(f"{model.name} is {model.state}: {why}")
    print(f"{model.name}: ready, {', '.join(w.url or w.id for w in model.workers)}")
    return 0


def why_asleep(model: Model) -> str | None:
    """Why a worker that sleeps could not be woken; `None` where that was not tried."""
    return next((w.reason for w in model.workers if w.state == "asleep" and w.reason), None)
