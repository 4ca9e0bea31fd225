"""`plan`: what loading a model would take and wait for, before it is done."""

from __future__ import annotations

import argparse
import shutil

from vllm_console.cli.connect import client_of, print_json
from vllm_console.looks import LoadPlan
from vllm_console.snapshot import from_json

SUMMARY = "what loading a model would take and wait for, before it is done"
SCHEMA = "vllm-console/plan/1"
_WIDEST = 110


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `plan`."""
    parser.description = (
        "Say whether a model could start now, on which GPUs, what it would claim of them, how long "
        "that took before, what it would wait for, and the command line. Nothing is started. "
        "Exit code 1: it could not start."
    )
    parser.add_argument("model", metavar="MODEL", help="a model's name or alias in fleet.toml")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the plan; 1 where the model could not start."""
    told = client_of(args).command("load-plan", model=args.model)
    plan = from_json(LoadPlan, told)
    if args.json:
        print_json({"schema": SCHEMA, **told})
    else:
        from vllm_console.ui.blocks.load_plan import rows
        from vllm_console.ui.rows import text_of

        width = min(_WIDEST, shutil.get_terminal_size().columns)
        how = f"`vllm-console load {plan.model}` starts it"
        lines = [text_of([row]).rstrip() for row in rows(plan, width, how) if row]
        print("\n".join(line for line in lines if line))  # bars are colours alone
    return 1 if plan.refused else 0
