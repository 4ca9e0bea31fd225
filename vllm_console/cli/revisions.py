"""`history revisions`: every revision a model has had, and what changed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vllm_console.cli.connect import client_of, place_of, print_json
from vllm_console.cli.recorded import from_file
from vllm_console.errors import NoDaemon, NotFound
from vllm_console.fleet.difference import Difference, differences
from vllm_console.history.records import read_revisions
from vllm_console.snapshot import to_json


def show_revisions(args: argparse.Namespace, model: str) -> None:
    """Print a model's revisions, oldest first, or one JSON object with `args.json`."""
    try:
        answer = client_of(args).command("revisions", model=model)
    except NoDaemon as error:
        kept = from_file(place_of(args), error, read_revisions)
        if model not in kept:
            known = ", ".join(sorted(kept)) or "none"
            raise NotFound(f'no model "{model}" in the history; there are {known}') from None
        answer = {"model": model, "revision": None, "revisions": to_json(kept[model])}
    if args.json:
        revisions = [
            {**revision, "changed": [asdict(difference) for difference in what]}
            for revision, what in _changed(answer["revisions"])
        ]
        print_json({"schema": "vllm-console/revisions/1", **answer, "revisions": revisions})
    else:
        print("\n".join(_lines(answer)))


def _changed(
    revisions: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[Mapping[str, Any], list[Difference]]]:
    """Each revision with what changed against the one before it."""
    before = revisions[0]["config"] if revisions else {}
    for revision in revisions:
        yield revision, list(differences(before, revision["config"]))
        before = revision["config"]


def _lines(answer: Mapping[str, Any]) -> Iterator[str]:
    for revision, what in _changed(answer["revisions"]):
        mark = "●" if revision["number"] == answer["revision"] else " "
        first = f"  {revision['config'].get('source')}" if revision["number"] == 1 else ""
        yield f"{mark} {revision['number']:>3}  {revision['at']}{first}"
        for difference in what:
            yield f"       {difference}"
