"""`config`: a model's effective configuration, where it comes from, and its command line."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vllm_console.errors import ConsoleError, NotFound

if TYPE_CHECKING:
    from vllm_console.engines.environment import EngineEnvironment
    from vllm_console.fleet.model import Fleet, ModelConfig

_WIDTH = 98
"""Cells of the widest line of folded bucket bounds."""
SUMMARY = "a model's effective configuration and where each value comes from"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `config`."""
    parser.add_argument("model", metavar="MODEL", nargs="?", help="one model (default: all)")
    parser.add_argument(
        "--origins", action="store_true", help="show where each value comes from, built-in ones too"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def run(args: argparse.Namespace) -> int:
    """Print the configuration that the layers add up to, as TOML or as JSON."""
    from vllm_console.cli.connect import print_json
    from vllm_console.fleet.load import find_fleet, load_fleet

    fleet = load_fleet(find_fleet(args.fleet), sets=args.set)
    models = [_named(fleet, args.model)] if args.model else list(fleet.models.values())
    if args.json:
        objects = [_as_json(fleet, model) for model in models]
        print_json({"fleet": fleet.name, "path": str(fleet.path), "models": objects})
    else:
        blocks = ("\n".join(_as_text(fleet, model, args.origins)) for model in models)
        print("\n\n".join(blocks) or f"{fleet.name}: no models")
    return 0


def _named(fleet: Fleet, name: str) -> ModelConfig:
    from vllm_console.fleet.problems import did_you_mean

    for model in fleet.models.values():
        if name == model.name or name in model.aliases:
            return model
    hint = did_you_mean(name, fleet.models) or f"; there are: {', '.join(fleet.models) or 'none'}"
    raise NotFound(f'no model "{name}" in {fleet.path}{hint}')


def _as_json(fleet: Fleet, model: ModelConfig) -> dict[str, Any]:
    from vllm_console.fleet.origins import origins
    from vllm_console.fleet.revision import fingerprint

    command, engine = _command(fleet, model)
    values = {
        key: {
            "value": value.model_dump(exclude_none=True) if _is_secret(value) else value,
            "layer": origin.layer,
            "origin": origin.place,
        }
        for key, value, origin in origins(fleet, model.name)
    }
    return {
        "name": model.name,
        "fingerprint": fingerprint(model),
        "values": values,
        "engine": engine.found if engine else None,
        "command": list(command) or None,
    }


def _as_text(fleet: Fleet, model: ModelConfig, with_origins: bool) -> Iterator[str]:
    from vllm_console.fleet.layers import TABLES
    from vllm_console.fleet.origins import origins
    from vllm_console.fleet.written import as_toml, key_as_toml

    lines: list[tuple[str, str]] = []
    table = None
    header = f"models.{key_as_toml(model.name)}"
    lines.append((f"[{header}]", ""))
    for key, value, origin in origins(fleet, model.name):
        if value in (None, [], {}) or (origin.layer == "built-in" and not with_origins):
            continue
        first, _, rest = key.partition(".")
        if first in TABLES and first != table:
            table = first
            lines.append((f"[{header}.{table}]", ""))
        name = rest if first in TABLES else first
        lines.append((f"{key_as_toml(name)} = {as_toml(value)}", origin.place))
    width = min(60, max(len(text) for text, _ in lines))
    for text, place in lines:
        yield f"{text:<{width}}  # {place}" if with_origins and place else text
    command, engine = _command(fleet, model)
    if command:
        yield ""
        yield f"# a worker runs ({_engine_in_words(engine)}):"
        added = _added(model, engine)
        if added:
            yield f"# origin console: {', '.join(added)}"
        yield from _shell_lines(command)


def _engine_in_words(engine: EngineEnvironment | None) -> str:
    if engine is None:
        return "no engine found here, so its newer flags are left out"
    return f"{engine.found}, vLLM {engine.version or 'of unknown version'}"


def _command(fleet: Fleet, model: ModelConfig) -> tuple[tuple[str, ...], EngineEnvironment | None]:
    """The command line with PORT for the port; nothing for a worker that is only watched."""
    from vllm_console.engines.environment import resolve
    from vllm_console.engines.flags import cached_schema
    from vllm_console.fleet.command import serve_command

    if model.attached:
        return (), None
    source = model.source
    if fleet.path is not None and (local := fleet.path.parent / source).is_dir():
        source = str(local.resolve())
    try:
        engine = resolve(model.engine)
    except ConsoleError:
        return serve_command("vllm", model, source=source, port="PORT", schema=None), None
    program, schema = str(engine.program), cached_schema(engine)
    command = serve_command(
        program, model, source=source, port="PORT", schema=schema, device=engine.device
    )
    return command, engine


def _added(model: ModelConfig, engine: EngineEnvironment | None) -> tuple[str, ...]:
    """The flags of the command that the console adds by itself."""
    from vllm_console.engines.flags import cached_schema
    from vllm_console.fleet.command import added_flags

    if engine is None:
        return ()
    return added_flags(model, cached_schema(engine), engine.device)


def _shell_lines(command: tuple[str, ...]) -> Iterator[str]:
    """The command as a shell takes it, a flag a line; bucket bounds go on over several."""
    lines: list[list[str]] = [list(command[:3])]
    for word in command[3:]:
        if word.startswith("--"):
            lines.append([])
        lines[-1].append(word)
    for index, words in enumerate(lines):
        end = " \\" if index < len(lines) - 1 else ""
        text = f"{'  ' if index else ''}{shlex.join(words)}{end}"
        yield from _folded(text) if words[0] == "--custom-histogram-buckets" else (text,)


def _folded(text: str) -> list[str]:
    """Breaks JSON of numbers after commas, where blanks mean nothing."""
    lines, rest = [], text
    while len(rest) > _WIDTH and (at := rest.rfind(",", 0, _WIDTH)) > 0:
        lines.append(rest[: at + 1])
        rest = "    " + rest[at + 1 :]
    return [*lines, rest]


def _is_secret(value: object) -> bool:
    from vllm_console.fleet.secrets import Secret

    return isinstance(value, Secret)
