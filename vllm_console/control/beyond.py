"""What only this machine can tell of a fleet file: tiny models, files, secrets, engine options."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from vllm_console.engines.environment import resolve
from vllm_console.engines.flags import cached_schema, flag_schema
from vllm_console.engines.tiny import SIZES, tiny_home, tiny_source
from vllm_console.errors import ConsoleError, InvalidInput
from vllm_console.fleet.checkpoint import read_checkpoint
from vllm_console.fleet.model import Fleet, ModelConfig
from vllm_console.fleet.options import FlagSchema, check_options
from vllm_console.fleet.origins import origin_of
from vllm_console.fleet.preflight import preflight
from vllm_console.fleet.problems import Problem
from vllm_console.fleet.secrets import Secret, read_secret

Tell = Callable[[str], None]


def beyond_the_file(fleet: Fleet, notes: list[str], tell: Tell | None = None) -> Iterator[Problem]:
    """Problems of a fleet that loads, as this machine sees it; `notes` takes what hinders a check.

    With `tell`, the options of an engine that has not been asked yet are read, which takes about
    10 s; without, they are not checked.
    """
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
                schemas[model.engine] = _schema_of(model.engine, notes, tell)
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
    origin = origin_of(fleet, model.name, key)
    place = origin.place.removesuffix(f":{origin.line}")
    return Problem(f"models.{model.name}.{key}", origin.line, text, place)


def _note_missing_secrets(fleet: Fleet, model: ModelConfig, notes: list[str]) -> None:
    """A secret that is not there stops a worker, but not the check of a file made elsewhere."""
    if fleet.path is None:
        return
    named = {**{f"env.{key}": value for key, value in model.env.items()}, "api_key": model.api_key}
    for key, value in named.items():
        try:
            if isinstance(value, Secret):
                read_secret(key, value, fleet.path.parent)
        except InvalidInput as error:
            notes.append(f"models.{model.name}.{error}")


def _schema_of(engine: str, notes: list[str], tell: Tell | None) -> FlagSchema | None:
    """The options of an engine; `None`, with a note why, where they cannot be known."""
    try:
        environment = resolve(engine)
        known = cached_schema(environment)
        if known is not None:
            return known
        version = environment.version or "of unknown version"
        if tell is None:
            notes.append(
                f"engine options are not checked: those of vLLM {version} are not read yet"
            )
            return None
        tell(f"reading the options of vLLM {version} (once, about 10 s)…")
        return flag_schema(environment)
    except InvalidInput:
        raise
    except ConsoleError as error:
        notes.append(f"engine options are not checked: {error}")
        return None
