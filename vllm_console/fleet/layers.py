"""The layers of a fleet file and how they fall onto each other, each value with its origin.

Weakest first: built-in, `[defaults]`, `[models.X]`, the environment, the command line. The tables
of a model (`options`, `env`, `sampling`, `slo`, `scale`, `limits`) merge key by key.

An environment variable with two underscores after its prefix names a path; `__` stands for the dot,
case does not count, and whatever is no letter or digit in a model's name is written `_`:

    VLLM_CONSOLE_GATEWAY__PORT=4100                           gateway.port
    VLLM_CONSOLE_MODELS__QWEN3_32B__OPTIONS__MAX_NUM_SEQS=64  models.qwen3-32b.options.max_num_seqs

Other variables (`VLLM_CONSOLE_STATE_DIR`) are not of this file. A value is read as TOML where it is
TOML and as plain text otherwise; values of `env` are always text, except `{ file = "…" }`. Names in
`env` keep their case.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vllm_console.fleet.model import Origin
from vllm_console.fleet.problems import Problem, did_you_mean

ENVIRON_PREFIX = "VLLM_CONSOLE_"
SECTIONS = ("fleet", "gateway", "history", "metrics", "ui", "defaults", "models")
TABLES = ("options", "env", "sampling", "slo", "scale", "limits")
"""Tables of a model that merge key by key."""

Path = tuple[str, ...]
OriginOf = Callable[[Path], Origin]


@dataclass(frozen=True, slots=True)
class Entry:
    """One value and where it stands."""

    value: Any
    origin: Origin


@dataclass(frozen=True, slots=True)
class Override:
    """One value from the environment or the command line, by its full path."""

    path: Path
    entry: Entry


def from_environ(
    environ: Mapping[str, str], models: Iterable[str], problems: list[Problem]
) -> Iterator[Override]:
    """The overrides that environment variables give, in the order of their names."""
    spelled: dict[str, list[str]] = {}
    for name in models:
        spelled.setdefault(re.sub(r"[^A-Za-z0-9]", "_", name).upper(), []).append(name)
    for variable in sorted(environ):
        rest = variable.removeprefix(ENVIRON_PREFIX)
        if rest == variable or "__" not in rest:
            continue
        section, tail = rest.split("__", 1)
        path: Path = (section.lower(),)
        if path[0] == "models":
            said = max(
                (s for s in spelled if tail == s or tail.startswith(s + "__")), key=len, default=""
            )
            if not said or len(spelled[said]) > 1:
                text = (
                    f"means more than one model: {', '.join(spelled[said])}"
                    if said
                    else f"no such model{did_you_mean(tail.split('__')[0], spelled)}"
                )
                problems.append(Problem("", None, text, variable))
                continue
            path, tail = ("models", spelled[said][0]), tail[len(said) + 2 :]
        if path[0] not in SECTIONS:
            text = f"no section {section}{did_you_mean(section, map(str.upper, SECTIONS))}"
            problems.append(Problem("", None, text, variable))
            continue
        path = (*path, *_segments(tail))
        if not _is_whole(path):
            problems.append(Problem("", None, "names no single value", variable))
            continue
        value = _value(environ[variable], path)
        yield Override(path, Entry(value, Origin("environment", variable)))


def _segments(tail: str) -> Path:
    first, _, rest = tail.partition("__")
    if first.lower() == "env" and rest:
        return ("env", rest)
    return (first.lower(), *(_segments(rest) if rest else ()))


def from_sets(
    sets: Iterable[str], models: Iterable[str], problems: list[Problem]
) -> Iterator[Override]:
    """The overrides that `--set KEY=VALUE` gives; a model's name may hold dots."""
    names = list(models)
    for said in sets:
        key, equals, text = said.partition("=")
        place = f"--set {key.strip()}"
        path = _dotted(key.strip(), names)
        if not equals or not path or (path[0] in SECTIONS and not _is_whole(path)):
            example = "--set models.NAME.options.max_num_seqs=64"
            problems.append(Problem("", None, f"takes KEY=VALUE, such as {example}", place))
        elif path[0] not in SECTIONS:
            hint = did_you_mean(path[0], SECTIONS)
            problems.append(Problem("", None, f"no section {path[0]}{hint}", place))
        elif path[0] == "models" and path[1] not in names:
            hint = did_you_mean(path[1], names)
            problems.append(Problem("", None, f'no model "{path[1]}"{hint}', place))
        else:
            entry = Entry(_value(text.strip(), path), Origin("command line", "--set"))
            yield Override(path, entry)


def _is_whole(path: Path) -> bool:
    """Whether a path goes down to a value: models.NAME.KEY, gateway.KEY."""
    return all(path) and len(path) > (2 if path[0] == "models" else 1)


def _dotted(key: str, models: list[str]) -> Path:
    inside = key.removeprefix("models.")
    known = [name for name in models if inside == name or inside.startswith(f"{name}.")]
    if inside != key and known:
        name = max(known, key=len)
        tail = inside[len(name) + 1 :]
        return ("models", name, *(_keys(tail) if tail else ()))
    return _keys(key)


def _keys(key: str) -> Path:
    """The parts of a dotted TOML key; nothing when it is none."""
    try:
        table: Any = tomllib.loads(f"{key} = 0") if "\n" not in key else {}
    except tomllib.TOMLDecodeError:
        return ()
    path: Path = ()
    while isinstance(table, dict) and table:
        part = next(iter(table))
        path, table = (*path, part), table[part]
    return path


def _value(text: str, path: Path) -> Any:
    if "env" in path[:-1] and not text.lstrip().startswith("{"):
        return text
    try:
        read = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = read["value"]
    plain = isinstance(value, (str, int, float, list, dict))
    return value if len(read) == 1 and plain else text


def flatten(
    table: Mapping[str, Any], at: Path, origin_of: OriginOf, problems: list[Problem]
) -> dict[Path, Entry]:
    """The values of `[defaults]` or a model by path, its known tables one level deep."""
    entries: dict[Path, Entry] = {}
    for key, value in table.items():
        if key not in TABLES:
            entries[key,] = Entry(value, origin_of((*at, key)))
        elif isinstance(value, dict):
            for inner, item in value.items():
                entries[key, inner] = Entry(item, origin_of((*at, key, inner)))
        else:
            where = origin_of((*at, key))
            problems.append(problem((*at, key), "must be a table", where))
    return entries


def problem(path: Path, text: str, origin: Origin) -> Problem:
    """A problem with the value that stands at `origin`."""
    place = origin.place.removesuffix(f":{origin.line}")
    return Problem(".".join(path), origin.line, text, place)


def lay(entries: dict[Path, Entry], path: Path, over: Entry) -> dict[Path, Entry]:
    """The entries with one override on top; deeper paths change a part of a table's value."""
    depth = 2 if path[0] in TABLES else 1
    key, inner = path[:depth], path[depth:]
    value = over.value
    if inner:
        old = entries[key].value if key in entries else {}
        value = _within(old if isinstance(old, dict) else {}, inner, value)
    return {**entries, key: Entry(value, over.origin)}


def _within(table: Mapping[str, Any], path: Path, value: Any) -> dict[str, Any]:
    inner = table.get(path[0])
    if len(path) > 1:
        value = _within(inner if isinstance(inner, dict) else {}, path[1:], value)
    return {**table, path[0]: value}


def unflatten(entries: Mapping[Path, Entry]) -> dict[str, Any]:
    """The nested table that flat entries describe."""
    table: dict[str, Any] = {}
    for path, entry in entries.items():
        table = _within(table, path, entry.value)
    return table
