"""What lies on disk of a model: its config.json, and whether its weight files are whole."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WEIGHTS = frozenset(
    {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".tensors", ".npz", ".ckpt", ".h5", ".msgpack"}
)
"""Suffixes of files that some vLLM loader may take for weights."""
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_INDEX = "model.safetensors.index.json"
_HEADER_MOST = 16 << 20
"""Bytes of a safetensors header that are read; one of 100,000 tensors has about 10 MB."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One model directory as far as it can be known without loading it."""

    config: Mapping[str, Any] | None = None
    """config.json; `None` where there is none to be read."""
    config_fault: str | None = None
    """Why config.json is no configuration."""
    files: frozenset[str] | None = None
    """Names in the directory; `None` where not all of them need to be there (a hub's cache)."""
    has_weights: bool = True
    """Whether anything that looks like weights lies there or in a directory below."""
    broken: str | None = None
    """The first weight file that is cut short, and how one sees it."""
    missing: str | None = None
    """Why there is no getting at the model."""


NOTHING_KNOWN = Checkpoint()


def read_checkpoint(source: str, options: Mapping[str, Any], env: Mapping[str, str]) -> Checkpoint:
    """What is known of the model that `vllm serve SOURCE` would load: a directory or a hub id.

    `options` may name the revision, `env` is the worker's environment.
    """
    directory = Path(source)
    if directory.is_dir():
        return local_checkpoint(directory)
    if "VLLM_USE_MODELSCOPE" in env:
        return NOTHING_KNOWN
    if _is_off_limits(env) and not _is_cached(source, env) and "download_dir" not in options:
        return Checkpoint(missing="not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it")
    revision = options.get("revision")
    return cached_checkpoint(source, None if revision is None else str(revision), env)


def local_checkpoint(directory: Path) -> Checkpoint:
    """Read a model directory: its names, config.json and the headers of its safetensors files."""
    try:
        names = frozenset(os.listdir(directory))
    except OSError:
        return NOTHING_KNOWN
    config, fault = _config(directory / "config.json")
    return Checkpoint(
        config=config,
        config_fault=fault,
        files=names,
        has_weights=_has_weights(directory),
        broken=next(_broken(directory, names), None),
    )


def cached_checkpoint(hub_id: str, revision: str | None, env: Mapping[str, str]) -> Checkpoint:
    """The config.json that the hub's cache on this disk holds for a model, without a network.

    `env` says where the cache is: HF_HUB_CACHE, HF_HOME or XDG_CACHE_HOME, as huggingface_hub
    reads them.
    """
    if not _is_hub_id(hub_id):
        return NOTHING_KNOWN
    home = _cached_model(hub_id, env)
    wanted = revision or "main"
    try:
        commit = (home / "refs" / wanted).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = wanted
    if not re.fullmatch(r"\w[\w.-]*", commit):
        return NOTHING_KNOWN
    config, _ = _config(home / "snapshots" / commit / "config.json")
    return Checkpoint(config=config)


def _is_hub_id(source: str) -> bool:
    return _HUB_ID.fullmatch(source) is not None and ".." not in source


def _cached_model(hub_id: str, env: Mapping[str, str]) -> Path:
    return hub_cache(env) / f"models--{hub_id.replace('/', '--')}"


def _is_cached(source: str, env: Mapping[str, str]) -> bool:
    """Whether the hub's cache has anything of a model; of what is no hub id nobody knows."""
    return not _is_hub_id(source) or _cached_model(source, env).exists()


def _is_off_limits(env: Mapping[str, str]) -> bool:
    """Whether huggingface_hub asks no server (`constants.HF_HUB_OFFLINE`)."""
    said = env.get("HF_HUB_OFFLINE") or env.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in ("1", "ON", "YES", "TRUE")


def hub_cache(env: Mapping[str, str]) -> Path:
    """The directory of the hub's cache (huggingface_hub, `constants.HF_HUB_CACHE`)."""
    chosen = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE")
    if chosen:
        return Path(os.path.expandvars(chosen)).expanduser()
    home = env.get("HF_HOME")
    if home:
        return Path(os.path.expandvars(home)).expanduser() / "hub"
    cache = env.get("XDG_CACHE_HOME")
    base = Path(cache) if cache else Path(env.get("HOME") or Path.home()) / ".cache"
    return base / "huggingface" / "hub"


def _config(path: Path) -> tuple[Mapping[str, Any] | None, str | None]:
    try:
        config = json.loads(path.read_bytes())
    except OSError:
        return None, None
    except ValueError as error:
        return None, f"config.json is not valid JSON: {error}"
    return (config, None) if isinstance(config, dict) else (None, "config.json is no JSON object")


def _has_weights(directory: Path) -> bool:
    for folder, folders, names in os.walk(directory, followlinks=True):
        if any(Path(name).suffix in _WEIGHTS for name in names):
            return True
        if Path(folder) != directory:  # one level down is where original weights are kept
            folders.clear()
    return False


def _broken(directory: Path, names: frozenset[str]) -> Iterator[str]:
    shards = sorted(name for name in names if name.endswith(".safetensors"))
    if _INDEX in names:
        try:
            indexed = json.loads((directory / _INDEX).read_bytes())["weight_map"].values()
            shards = [name for name in shards if name in set(indexed)]
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return
    for name in shards:
        fault = safetensors_fault(directory / name)
        if fault:
            yield f"{name} {fault}"


def safetensors_fault(path: Path) -> str | None:
    """What is missing of a safetensors file, by its header alone; `None` if nothing, or unknown.

    The file is 8 bytes of header length, that many bytes of JSON, then the tensors, each of which
    the header gives the end of (the format's specification).
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 8:
                return f"is {size} bytes long, too short for a header"
            first = file.read(8)
            if first == b"version ":
                return "is a Git LFS pointer in place of the weights: `git lfs pull` fetches them"
            length = int.from_bytes(first, "little")
            if 8 + length > size:
                return f"is cut short: it is {size:,} bytes, its header alone {8 + length:,}"
            if length > _HEADER_MOST:
                return None
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        needs = 8 + length + max(ends, default=0)
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None
    return f"is cut short: {size:,} of {needs:,} bytes" if size < needs else None
