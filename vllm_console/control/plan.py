"""What applying a fleet file would do: a pure comparison of what runs with what is wanted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from vllm_console.fleet.model import ModelConfig
from vllm_console.fleet.revision import fingerprint


class Kind(StrEnum):
    """What happens to one model."""

    ADD = "add"
    """New in the file."""
    REMOVE = "remove"
    """No longer in the file: drained and stopped."""
    RESTART = "restart"
    """Its workers are replaced: something changed that a running engine cannot take up."""
    UPDATE = "update"
    """Takes effect at once, no worker is touched."""


@dataclass(frozen=True, slots=True)
class Change:
    """One model's part of a plan."""

    model: str
    kind: Kind
    what: tuple[str, ...] = ()
    """Each key that differs, as "options.max_num_seqs: 8 → 16"."""


def plan(runs: Mapping[str, ModelConfig], wanted: Mapping[str, ModelConfig]) -> tuple[Change, ...]:
    """The changes that turn `runs` into `wanted`: removals first, since they free memory."""
    removed = [Change(name, Kind.REMOVE) for name in runs if name not in wanted]
    changed, added = [], []
    for name, config in wanted.items():
        if name not in runs:
            added.append(Change(name, Kind.ADD))
        elif what := tuple(differences(runs[name], config)):
            same = fingerprint(runs[name]) == fingerprint(config)
            changed.append(Change(name, Kind.UPDATE if same else Kind.RESTART, what))
    return (*removed, *changed, *added)


def digest(changes: tuple[Change, ...]) -> str:
    """What a person agreed to: equal digests mean the same plan."""
    text = json.dumps([asdict(change) for change in changes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(old: ModelConfig, new: ModelConfig) -> Iterator[str]:
    """Each key whose value differs, old and new; secrets show by their reference."""
    before, after = (
        dict(_flat(old.model_dump(mode="json"))),
        dict(_flat(new.model_dump(mode="json"))),
    )
    for key in before | after:
        if before.get(key) != after.get(key):
            yield f"{key.removesuffix('_s')}: {_shown(before.get(key))} → {_shown(after.get(key))}"


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if prefix == "env." and isinstance(value, dict):  # a reference to a secret
            yield f"{prefix}{key}", {k: v for k, v in value.items() if v is not None}
        elif isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    return "–" if value is None else json.dumps(value, ensure_ascii=False)
