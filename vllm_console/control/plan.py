"""What applying a fleet file would do: a pure comparison of what runs with what is wanted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

from vllm_console.control.canary import Canary
from vllm_console.fleet.difference import differences
from vllm_console.fleet.model import ModelConfig
from vllm_console.fleet.revision import fingerprint

_NO_CANARIES: Mapping[str, Canary] = {}
_STAYS = "stays, and takes the place of one worker"
_ENDS = "ends first"


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
    END_CANARY = "end-canary"
    """Its canary is drained and stopped; what else changes takes effect at once."""


@dataclass(frozen=True, slots=True)
class Change:
    """One model's part of a plan."""

    model: str
    kind: Kind
    what: tuple[str, ...] = ()
    """Each key that differs, as "options.max_num_seqs: 8 → 16"."""


def plan(
    runs: Mapping[str, ModelConfig],
    wanted: Mapping[str, ModelConfig],
    canaries: Mapping[str, Canary] = _NO_CANARIES,
) -> tuple[Change, ...]:
    """The changes that turn `runs` into `wanted`: removals first, since they free memory.

    A canary of the wanted configuration stays; any other ends first.
    """
    removed = [Change(name, Kind.REMOVE) for name in runs if name not in wanted]
    changed, added = [], []
    for name, config in wanted.items():
        if name not in runs:
            added.append(Change(name, Kind.ADD))
            continue
        what = tuple(_differences(runs[name], config))
        same = fingerprint(runs[name]) == fingerprint(config)
        canary = canaries.get(name)
        if canary is not None:
            stays = fingerprint(canary.config) == fingerprint(config)
            told = f"canary: revision {canary.revision} {_STAYS if stays else _ENDS}"
            kind = Kind.END_CANARY if same else Kind.RESTART
            changed.append(Change(name, kind, (*what, told)))
        elif what:
            changed.append(Change(name, Kind.UPDATE if same else Kind.RESTART, what))
    return (*removed, *changed, *added)


def digest(changes: tuple[Change, ...]) -> str:
    """What a person agreed to: equal digests mean the same plan."""
    text = json.dumps([asdict(change) for change in changes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _differences(old: ModelConfig, new: ModelConfig) -> Iterator[str]:
    """Each key whose value differs, old and new."""
    return map(str, differences(old.model_dump(mode="json"), new.model_dump(mode="json")))
