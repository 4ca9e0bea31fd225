"""The files a launcher keeps beside a shim's: the spec of a launch, and how long starts took."""

from __future__ import annotations

import json
import math
import os
import re
import statistics
import time
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from vllm_console.workers.adoption import read_json
from vllm_console.workers.launch import LaunchSpec

REMEMBERED_STARTS = 5
_LONGEST_S = 1e9


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file of ours in one step, readable by its owner alone; raises `OSError`."""
    fresh = path.with_name(f"{path.name}.new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(content, file)
    fresh.replace(path)


def clear(path: Path) -> None:
    """Make way for a file: remove the old one; a directory in its place is put aside, not lost."""
    if path.is_dir() and not path.is_symlink():
        path.rename(path.with_name(f"{path.name}.aside-{time.time_ns()}"))
    else:
        path.unlink(missing_ok=True)


def write_spec(directory: Path, spec: LaunchSpec, generation: int) -> None:
    """Note what is about to run in a worker's directory; raises `OSError`."""
    write(directory / "spec.json", {**asdict(spec), "generation": generation})


def read_spec(directory: Path, pid: int) -> LaunchSpec:
    """The spec of a tree that runs, from spec.json as any version wrote it.

    What is missing or damaged there is taken from the command line of the main process `pid` and
    from the worker's name, so that the tree is still watched and ended.
    """
    content = read_json(directory / "spec.json")
    if content.get("worker_id", directory.name) != directory.name:
        content = {}
    argv = _strings(content.get("argv")) or _argv(pid)
    model = re.sub(r"-\d+$", "", directory.name)
    given: dict[str, Any] = {
        "worker_id": directory.name,
        "model": _kept(content, "model", str, model),
        "revision": _kept(content, "revision", int, 0),
        "argv": argv,
        "port": _kept(content, "port", int, _port(argv)),
        "served_names": _strings(content.get("served_names")) or _served_names(argv),
        "gpus": _indexes(content.get("gpus")),
    }
    for field in fields(LaunchSpec):
        if field.name not in given and field.default is not MISSING:
            kind = (int, float) if isinstance(field.default, float) else type(field.default)
            given[field.name] = _kept(content, field.name, kind, field.default)
    return LaunchSpec(**given)


def expected_s(path: Path, model: str, revision: int) -> float | None:
    """Median seconds to ready of this revision's last starts, or else of the newest other's."""
    by_revision = _starts(read_json(path), model)
    if not by_revision:
        return None
    return statistics.median(by_revision.get(str(revision), next(reversed(by_revision.values()))))


def learn(path: Path, model: str, revision: int, took_s: float) -> None:
    """Remember how long one more start took; raises `OSError`."""
    times = read_json(path)
    by_revision = _starts(times, model)
    earlier = by_revision.pop(str(revision), [])
    by_revision[str(revision)] = [*earlier, round(took_s, 3)][-REMEMBERED_STARTS:]
    write(path, {**times, model: by_revision})


def _starts(times: Mapping[str, Any], model: str) -> dict[str, list[float]]:
    """The starts of one model by revision, without what is no duration."""
    found = times.get(model)
    if not isinstance(found, dict):
        return {}
    sound = {
        revision: [float(took) for took in taken if is_duration(took)]
        for revision, taken in found.items()
        if isinstance(taken, list)
    }
    return {revision: taken for revision, taken in sound.items() if taken}


def is_duration(value: Any) -> bool:
    """A number of seconds that some start may have taken."""
    return _is(value, (int, float)) and 0.0 <= value <= _LONGEST_S


def _kept(content: Mapping[str, Any], name: str, kind: Any, default: Any) -> Any:
    value: Any = content.get(name)
    if not _is(value, kind):
        return default
    sound = isinstance(value, str) or (math.isfinite(value) and 0 <= value <= _LONGEST_S)
    return value if sound else default


def _is(value: Any, kind: Any) -> bool:
    """A flag is no number."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        return ()
    return tuple(value)


def _indexes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(_is(index, int) and index >= 0 for index in value):
        return ()
    return tuple(value)


def _argv(pid: int) -> tuple[str, ...]:
    """The command line of a process; empty when it cannot be read."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(words.decode("utf-8", "replace").rstrip("\0").split("\0")) if words else ()


def _port(argv: tuple[str, ...]) -> int:
    """The `--port` of a `vllm serve` command line; 0 when there is none."""
    for word, following in zip(argv, (*argv, "")[1:], strict=True):
        value = following if word == "--port" else word.removeprefix("--port=")
        if (word == "--port" or word != value) and re.fullmatch(r"[0-9]{1,5}", value):
            return int(value)
    return 0


def _served_names(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The names behind `--served-model-name`."""
    if "--served-model-name" not in argv:
        return ()
    names = []
    for word in argv[argv.index("--served-model-name") + 1 :]:
        if word.startswith("--"):
            break
        names.append(word)
    return tuple(names)
