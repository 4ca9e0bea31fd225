"""What differs between two configurations of a model, key by key. Stdlib only: cheap to import."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Difference:
    """A key whose value differs; `None` where it has none."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        """As a person reads it: "options.max_num_seqs: 8 → 16"."""
        return f"{self.key.removesuffix('_s')}: {_shown(self.old)} → {_shown(self.new)}"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Difference]:
    """Each key that differs between two dumps of a ModelConfig; secrets show by their reference."""
    before, after = dict(_flat(old)), dict(_flat(new))
    for key in before | after:
        if before.get(key) != after.get(key):
            yield Difference(key, before.get(key), after.get(key))


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if prefix == "env." and isinstance(value, Mapping):  # a reference to a secret
            yield f"{prefix}{key}", {k: v for k, v in value.items() if v is not None}
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    return "–" if value is None else json.dumps(value, ensure_ascii=False)
