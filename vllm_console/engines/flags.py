"""Which options an engine environment's `vllm serve` takes: asked once, then cached by version."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_console.engines.environment import (
    MANIFEST,
    EngineEnvironment,
    cache_dir,
    has_nvidia_driver,
)
from vllm_console.errors import ConsoleError, TimedOut
from vllm_console.fleet.options import FlagSchema

DUMP = Path(__file__).with_name("inside") / "dump_flags.py"
"""The script the engine's own Python runs."""


def cached_schema(
    env: EngineEnvironment, *, environ: Mapping[str, str] = os.environ
) -> FlagSchema | None:
    """The options as last read, or `None` when they were never read or the cache is damaged."""
    for path in _places(env, environ):
        try:
            return _schema(json.loads(path.read_bytes()))
        except (OSError, ValueError):
            continue
    return None


def flag_schema(
    env: EngineEnvironment, *, timeout_s: float = 120, environ: Mapping[str, str] = os.environ
) -> FlagSchema:
    """The options of this very vLLM: from the cache, else asked (about 10 s, importing vLLM).

    Raises `TimedOut` past `timeout_s` seconds and `ConsoleError` when that vLLM cannot tell.
    """
    known = cached_schema(env, environ=environ)
    if known is not None:
        return known
    dumped = _dump(env, timeout_s, environ)
    schema = _schema(dumped)
    for path in _places(env, environ):
        if _write(path, dumped):
            break
    return schema


def forget_schema(env: EngineEnvironment, *, environ: Mapping[str, str] = os.environ) -> None:
    """Delete what is cached for an environment."""
    for path in _places(env, environ):
        with contextlib.suppress(OSError):
            path.unlink()


def _schema(dumped: Any) -> FlagSchema:
    """The schema of a dump; raises `ValueError` for one without a single option."""
    if not isinstance(dumped, dict) or not dumped.get("flags"):
        raise ValueError("no flags in the dump")
    try:
        return FlagSchema.from_json(dumped)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a dump of flags: {error}") from error


def _places(env: EngineEnvironment, environ: Mapping[str, str]) -> list[Path]:
    """Cache files, best first: beside a managed environment, else (or read-only) in the cache."""
    try:
        changed = env.program.stat().st_mtime_ns
    except OSError:
        changed = 0
    version = re.sub(r"[^\w.+-]", "_", env.version or f"changed-{changed}")
    home = env.program.parent.parent
    places = []
    if (home / MANIFEST).is_file():
        places.append(home.parent / ".flags" / f"{home.name}-{version}.json")
    place = hashlib.sha256(os.fsencode(env.program)).hexdigest()[:12]
    places.append(cache_dir(environ) / "flags" / f"{place}-{version}.json")
    return places


def _write(path: Path, dumped: object) -> bool:
    """Write atomically; `False` where nothing can be written (a full disk, another's directory)."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=".", suffix=".partial", delete=False
        ) as file:
            try:
                json.dump(dumped, file)
                file.close()
                os.chmod(file.name, 0o644)  # others may share a managed environment
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError:
        return False
    return True


def _dump(env: EngineEnvironment, timeout_s: float, environ: Mapping[str, str]) -> Any:
    variables = {
        **environ,
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    if env.device == "cuda" and not has_nvidia_driver():
        variables["VLLM_TARGET_DEVICE"] = "cpu"  # else: "Failed to infer device type"
    try:
        done = subprocess.run(
            [str(env.python), "-I", str(DUMP)],
            env=variables,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TimedOut(
            f"engine {env.name} ({env.program}) did not list its options in {timeout_s:g} s; "
            f"try `{env.program} serve --help`"
        ) from None
    except OSError as error:
        raise ConsoleError(
            f"engine {env.name}: cannot run {env.python}: {error.strerror}"
        ) from None
    try:
        dumped = json.loads(done.stdout)
        _schema(dumped)
    except ValueError:
        lines = done.stderr.decode("utf-8", "replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        raise ConsoleError(
            f"engine {env.name} ({env.program}) cannot list its options: {said}"
        ) from None
    return dumped
