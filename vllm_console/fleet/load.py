"""fleet.toml becomes a `Fleet`: layers merged, every value checked, every problem with its line."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from vllm_console.fleet.faults import faults
from vllm_console.fleet.find import find_fleet
from vllm_console.fleet.layers import (
    SECTIONS,
    TABLES,
    Entry,
    Override,
    flatten,
    from_environ,
    from_sets,
    lay,
    problem,
    unflatten,
)
from vllm_console.fleet.lines import key_lines
from vllm_console.fleet.model import (
    ATTACH,
    DURATIONS,
    WATCHED_KEYS,
    Fleet,
    Gateway,
    History,
    Limits,
    Metrics,
    ModelConfig,
    Origin,
    Scale,
    Slo,
    Ui,
    key_of,
)
from vllm_console.fleet.problems import FleetError, Problem, did_you_mean, shown
from vllm_console.fleet.rules import Finding, fleet_findings, gateway_findings, model_findings

__all__ = ["FleetError", "Problem", "find_fleet", "load_fleet"]

Layer = Literal["defaults", "model"]
Keys = tuple[str, ...]
Wanted = TypeVar("Wanted", bound=BaseModel)

_MODEL_KEYS = tuple(key_of(field) for field in ModelConfig.model_fields if field != "name")
_INNER_KEYS = {
    "slo": tuple(key_of(field) for field in Slo.model_fields),
    "scale": tuple(Scale.model_fields),
    "limits": tuple(key_of(field) for field in Limits.model_fields),
}
_ONE_MODEL_ONLY = ("source", "url", "aliases", "trust_remote_code", "weights")
"""Keys that [defaults] may not say for everybody."""
_FREE_TABLES = ("options", "env", "sampling")
"""Tables of a model whose keys are not the console's."""
_SECTION_KEYS = {
    "fleet": ("name", "state_dir", "gpu_hour_cost"),
    "gateway": tuple(Gateway.model_fields),
    "history": tuple(History.model_fields),
    "metrics": tuple(Metrics.model_fields),
    "ui": tuple(Ui.model_fields),
}


def load_fleet(
    path: Path, *, environ: Mapping[str, str] = os.environ, sets: Iterable[str] = ()
) -> Fleet:
    """The fleet that a file describes, with the environment and `--set` texts on top.

    Raises `FleetError`, which holds every problem found, not only the first.
    """
    loading = _Loading(Path(path).absolute())
    fleet = loading.fleet(environ, sets)
    if loading.problems:
        unique = dict.fromkeys(loading.problems)
        raise FleetError(sorted(unique, key=lambda p: (p.line is None, p.line or 0)))
    return fleet


class _Loading:
    """One file on its way to a fleet; collects problems instead of stopping at the first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[Problem] = []
        text = _read(path)
        self.data = _parse(text, path.name)
        self.lines = key_lines(text)

    def fleet(self, environ: Mapping[str, str], sets: Iterable[str]) -> Fleet:
        for key in self.data:
            if key not in SECTIONS:
                self._say((key,), f"unknown key{did_you_mean(key, SECTIONS)}")
        tables = self._table(("models",))
        models = [name for name in tables if self._is_table(("models", name), tables[name])]
        overrides = [
            *from_environ(environ, models, self.problems),
            *from_sets(sets, models, self.problems),
        ]
        gateway = self._section("gateway", Gateway, overrides)
        history = self._section("history", History, overrides)
        metrics = self._section("metrics", Metrics, overrides)
        ui = self._section("ui", Ui, overrides)
        if gateway and metrics and metrics.port == gateway.port:
            self._say(("metrics", "port"), f"port {metrics.port} is already taken by the gateway")
        defaults = self._defaults(overrides)
        said: dict[str, dict[Keys, Origin]] = {}
        configs: dict[str, ModelConfig] = {}
        for name in models:
            entries = self._entries(name, tables[name], defaults, overrides)
            said[name] = {path: entry.origin for path, entry in entries.items()}
            said[name][()] = self._origin(("models", name), "model")
            config = self._model(name, entries)
            if config:
                configs[name] = config
        if gateway:
            for where, text in fleet_findings(configs, gateway):
                name = str(where[1])
                self.problems.append(self._problem_in(name, said[name], where[2:], text))
        folder = self.path.parent.name
        named = folder if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", folder) else "fleet"
        rest = {
            "name": named,
            "path": self.path,
            "gateway": gateway or Gateway(),
            "history": history or History(),
            "metrics": metrics or Metrics(),
            "ui": ui or Ui(),
            "models": configs,
        }
        fleet = self._section("fleet", Fleet, overrides, rest)
        if fleet is None:
            return Fleet()
        fleet._origins.update(said)
        return fleet

    # -- sections ------------------------------------------------------------------------------

    def _section(
        self,
        name: str,
        kind: type[Wanted],
        overrides: Iterable[Override],
        more: Mapping[str, Any] | None = None,
    ) -> Wanted | None:
        """`[fleet]`, `[gateway]`, `[ui]` …; `None` when a value of it does not hold."""
        entries: dict[Keys, Entry] = {
            (key,): Entry(value, self._origin((name, key), "model"))
            for key, value in self._table((name,)).items()
        }
        for override in overrides:
            if override.path[0] == name:
                entries = lay(entries, override.path[1:], override.entry)
        for path in list(entries):
            if path[0] not in _SECTION_KEYS[name]:
                text = f"unknown key{did_you_mean(path[0], _SECTION_KEYS[name])}"
                self.problems.append(problem((name, *path), text, entries.pop(path).origin))
        values = {**(more or {}), **unflatten(entries)}
        for key in ("state_dir", "panels", "tls_cert", "tls_key"):
            if isinstance(values.get(key), str):
                values[key] = self.path.parent / Path(values[key]).expanduser()

        def where(path: tuple[str | int, ...]) -> Origin:
            entry = entries.get((str(path[0]),)) if path else None
            if entry and entry.origin.line is None:
                return entry.origin
            return self._origin((name, *path), "model")

        def say(path: tuple[str | int, ...], text: str) -> None:
            self.problems.append(problem((name, *map(str, path)), text, where(path)))

        try:
            built = kind(**values)
        except ValidationError as error:
            for where_in, text in faults(error):
                say(where_in, text)
            return None
        if isinstance(built, Gateway):
            for where_in, text in gateway_findings(built):
                say(where_in, text)
        return built

    # -- models --------------------------------------------------------------------------------

    def _defaults(self, overrides: Iterable[Override]) -> dict[Keys, Entry]:
        entries = flatten(
            self._table(("defaults",)),
            ("defaults",),
            lambda path: self._origin(path, "defaults"),
            self.problems,
        )
        for override in overrides:
            if override.path[0] == "defaults":
                entries = lay(entries, override.path[1:], override.entry)
        return self._known(entries, ("defaults",), _ONE_MODEL_ONLY)

    def _entries(
        self,
        name: str,
        table: Mapping[str, Any],
        defaults: Mapping[Keys, Entry],
        overrides: Iterable[Override],
    ) -> dict[Keys, Entry]:
        at = ("models", name)
        own = flatten(table, at, lambda path: self._origin(path, "model"), self.problems)
        entries = {**defaults, **self._known(own, at)}
        for override in overrides:
            if override.path[:2] == at:
                entries = self._known(lay(entries, override.path[2:], override.entry), at)
        engine = entries.get(("engine",))
        if engine is None or engine.value != ATTACH:
            return entries
        watched = {path: entry for path, entry in entries.items() if path[0] in WATCHED_KEYS}
        for path, entry in entries.items():
            if path not in watched and entry != defaults.get(path):
                text = 'means nothing for a worker that is only watched (engine = "attach")'
                self.problems.append(problem((*at, *path), text, entry.origin))
        return watched

    def _known(
        self, entries: dict[Keys, Entry], at: Keys, excluded: Iterable[str] = ()
    ) -> dict[Keys, Entry]:
        """The entries whose keys there are; the others become problems."""
        known = [key for key in _MODEL_KEYS if key not in excluded]
        good: dict[Keys, Entry] = {}
        for path, entry in entries.items():
            text = None
            if path[0] in excluded:
                text = f"is said by each model that wants it: [models.NAME] {path[0]} = …"
            elif path[0] not in known:
                text = f"unknown key{did_you_mean(path[0], known)}"
                if path[0].replace("-", "_") not in known and not did_you_mean(path[0], known):
                    text = f"unknown key; engine options go to [{'.'.join(at)}.options]"
            elif path[0] in _INNER_KEYS and len(path) > 1 and path[1] not in _INNER_KEYS[path[0]]:
                text = f"unknown key{did_you_mean(path[1], _INNER_KEYS[path[0]])}"
            if text is None:
                good[path] = entry
            else:
                self.problems.append(problem((*at, *path), text, entry.origin))
        return good

    def _model(self, name: str, entries: dict[Keys, Entry]) -> ModelConfig | None:
        said = {path: entry.origin for path, entry in entries.items()}
        said[()] = self._origin(("models", name), "model")
        found: list[Finding] = []
        usable = {}
        for path, entry in entries.items():
            field = DURATIONS.get(path[-1]) if path[0] not in _FREE_TABLES else None
            if field and not isinstance(entry.value, str):
                text = f'must be a text with a unit, such as "15m", not {shown(entry.value)}'
                found.append((path, text))
            else:
                usable[(*path[:-1], field) if field else path] = entry
        config, more = self._built(name, usable)
        self.problems += [
            self._problem_in(name, said, path, text) for path, text in (*found, *more)
        ]
        return None if found or more else config

    def _built(
        self, name: str, entries: Mapping[Keys, Entry]
    ) -> tuple[ModelConfig | None, list[Finding]]:
        """The model that entries make, and what does not hold about it.

        Values of a wrong type are left out in a second attempt, so that they hide no problem of
        others; what would follow from leaving them out is no problem.
        """
        values = unflatten(entries)
        engine = values.get("engine")
        if isinstance(engine, str) and ("/" in engine or engine.startswith("~")):
            values["engine"] = str(self.path.parent / Path(engine).expanduser())
        try:
            config = ModelConfig(name=name, **values)
        except ValidationError as error:
            found = [(() if path == ("name",) else path, text) for path, text in faults(error)]
        else:
            return config, list(model_findings(config))
        wrong = {path[:depth] for path, _ in found for depth in (1, 2)}
        rest = {
            path: e for path, e in entries.items() if (*path[:-1], key_of(path[-1])) not in wrong
        }
        if len(rest) < len(entries):
            more = self._built(name, rest)[1]
            found += [(path, text) for path, text in more if path and path[0] in _FREE_TABLES]
        return None, found

    # -- places --------------------------------------------------------------------------------

    def _problem_in(
        self,
        name: str,
        said: Mapping[Keys, Origin],
        path: tuple[str | int, ...],
        text: str,
    ) -> Problem:
        """A problem of a model's value, at the layer that says the value."""
        keys = tuple(map(str, path))
        depth = 2 if keys and keys[0] in TABLES else 1
        origin = said.get(keys[:depth]) or said.get(keys[:1]) or said[()]
        top: Keys = ("defaults",) if origin.layer == "defaults" else ("models", name)
        if origin.line is not None:
            layer: Layer = "defaults" if origin.layer == "defaults" else "model"
            origin = self._origin((*top, *path), layer)
        return problem((*top, *keys), text, origin)

    def _origin(self, path: tuple[str | int, ...], layer: Layer) -> Origin:
        """Where a path stands in the file: its own line, else that of what holds it."""
        while path and path not in self.lines:
            path = path[:-1]
        line = self.lines.get(path)
        return Origin(layer, self.path.name if line is None else f"{self.path.name}:{line}", line)

    def _table(self, path: Keys) -> dict[str, Any]:
        value = self.data.get(path[0], {})
        return value if self._is_table(path, value) else {}

    def _is_table(self, path: Keys, value: Any) -> bool:
        if not isinstance(value, dict):
            self._say(path, f"must be a table: [{'.'.join(path)}]")
        return isinstance(value, dict)

    def _say(self, path: Keys, text: str) -> None:
        self.problems.append(problem(path, text, self._origin(path, "model")))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = "no such file; name a fleet file with --fleet FILE"
    except IsADirectoryError:
        text = "is a directory; name the fleet file in it"
    except UnicodeDecodeError as error:
        text = f"is not UTF-8 text (byte {error.start}); save it as UTF-8"
    except OSError as error:
        text = f"cannot be read: {error.strerror}"
    raise FleetError([Problem("", None, text, str(path))])


_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def _parse(text: str, place: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said = str(error)
        at = _AT.search(said)
        what = said[: at.start()] if at else said
        what = what[:1].lower() + what[1:]
        if at and at[1]:
            line, where = int(at[1]), f"column {at[2]}: "
        else:
            line, where = text.count("\n") + (not text.endswith("\n")), "at the end: "
        raise FleetError([Problem("", line, where + what, place)]) from None
