"""`validate`: check fleet.toml, and its engine options against the vLLM that would run them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_console.errors import ConsoleError, InvalidInput

if TYPE_CHECKING:
    from vllm_console.fleet.model import Fleet, ModelConfig
    from vllm_console.fleet.options import FlagSchema
    from vllm_console.fleet.problems import Problem

SUMMARY = "check fleet.toml without starting anything"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `validate`."""
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def run(args: argparse.Namespace) -> int:
    """Say that the file holds, or every problem of it, one line each; the value is 0 or 2."""
    from vllm_console.fleet.load import FleetError, find_fleet, load_fleet

    path = find_fleet(args.fleet)
    notes: list[str] = []
    count = None
    try:
        fleet = load_fleet(path, sets=args.set)
        count = len(fleet.models)
        problems = list(_beyond_the_file(fleet, notes))
    except FleetError as error:
        problems = list(error.problems)
    if args.json:
        _print_json(str(path), count, problems, notes)
    else:
        for line in (*map(str, problems), *(f"note: {note}" for note in notes)):
            print(line, file=sys.stderr)
        if not problems:
            print(f"{path.name}: ok, {count} {'model' if count == 1 else 'models'}")
    return InvalidInput.exit_code if problems else 0


def _print_json(path: str, count: int | None, problems: list[Problem], notes: list[str]) -> None:
    from vllm_console.cli.connect import print_json

    lines = [
        {"place": p.place, "line": p.line, "key": p.key or None, "text": p.text} for p in problems
    ]
    print_json(
        {"fleet": path, "ok": not problems, "models": count, "problems": lines, "notes": notes}
    )


def _beyond_the_file(fleet: Fleet, notes: list[str]) -> Iterator[Problem]:
    """What only this machine can tell: sizes of tiny models, secrets, the engines' options."""
    from vllm_console.engines.tiny import tiny_source
    from vllm_console.fleet.options import check_options

    schemas: dict[str, FlagSchema | None] = {}
    for model in fleet.models.values():
        _note_missing_secrets(fleet, model, notes)
        if model.attached:
            continue
        try:
            tiny_source(model.source)
        except InvalidInput as error:
            yield _problem(fleet, model, "source", str(error))
        if model.engine not in schemas:
            try:
                schemas[model.engine] = _schema_of(model.engine, notes)
            except InvalidInput as error:
                schemas[model.engine] = None
                yield _problem(fleet, model, "engine", str(error))
        schema = schemas[model.engine]
        for found in check_options(model.options, schema) if schema else ():
            yield _problem(fleet, model, found.key, found.text)
        for found in _from_its_files(fleet, model):
            yield _problem(fleet, model, found.key, found.text)


def _from_its_files(fleet: Fleet, model: ModelConfig) -> Iterator[Problem]:
    """What the model's own files on this disk say against its options."""
    from vllm_console.engines.tiny import SIZES, tiny_home
    from vllm_console.fleet.checkpoint import read_checkpoint
    from vllm_console.fleet.preflight import preflight
    from vllm_console.fleet.problems import Problem

    env = {**os.environ, **{key: v for key, v in model.env.items() if isinstance(v, str)}}
    source, size = model.source, model.source.removeprefix("tiny:")
    if source != size and size in SIZES:
        source = str(tiny_home(size))
    else:
        base = fleet.path.parent if fleet.path else Path.cwd()
        local = (base / Path(source).expanduser()).resolve()
        if local.is_dir():
            source = str(local)
        elif source.startswith((".", "/", "~")):
            yield Problem("source", None, f"no directory {local}; name one, or a hub id")
            return
    checkpoint = read_checkpoint(source, model.options, env)
    for refusal in preflight(model.options, checkpoint, env={**os.environ, **model.env}):
        yield refusal.problem()


def _problem(fleet: Fleet, model: ModelConfig, key: str, text: str) -> Problem:
    from vllm_console.fleet.origins import origin_of
    from vllm_console.fleet.problems import Problem

    origin = origin_of(fleet, model.name, key)
    place = origin.place.removesuffix(f":{origin.line}")
    return Problem(f"models.{model.name}.{key}", origin.line, text, place)


def _note_missing_secrets(fleet: Fleet, model: ModelConfig, notes: list[str]) -> None:
    """A secret that is not there stops a worker, but not the check of a file made elsewhere."""
    from vllm_console.fleet.secrets import Secret, read_secret

    if fleet.path is None:
        return
    named = {**{f"env.{key}": value for key, value in model.env.items()}, "api_key": model.api_key}
    for key, value in named.items():
        try:
            if isinstance(value, Secret):
                read_secret(key, value, fleet.path.parent)
        except InvalidInput as error:
            notes.append(f"models.{model.name}.{error}")


def _schema_of(engine: str, notes: list[str]) -> FlagSchema | None:
    """The options of an engine; `None`, with a note why, where they cannot be known."""
    from vllm_console.engines.environment import resolve
    from vllm_console.engines.flags import cached_schema, flag_schema

    try:
        environment = resolve(engine)
        known = cached_schema(environment)
        if known is not None:
            return known
        version = environment.version or "of unknown version"
        print(f"reading the options of vLLM {version} (once, about 10 s)…", file=sys.stderr)
        return flag_schema(environment)
    except InvalidInput:
        raise
    except ConsoleError as error:
        notes.append(f"engine options are not checked: {error}")
        return None
