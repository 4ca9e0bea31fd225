"""Where each value of a model comes from: the file and line, a variable, `--set` or built-in."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from vllm_console.fleet.duration import format_duration
from vllm_console.fleet.layers import TABLES
from vllm_console.fleet.model import BUILT_IN, WATCHED_KEYS, Fleet, ModelConfig, Origin, key_of


def origins(fleet: Fleet, model: str) -> list[tuple[str, Any, Origin]]:
    """Every effective value of a model as (dotted key, value as the file writes it, origin).

    `None` is a value that is not set. Raises `KeyError` for a name that the fleet does not hold.
    """
    config, said = fleet.models[model], fleet._origins.get(model, {})
    rows: list[tuple[str, Any, Origin]] = []
    for field in ModelConfig.model_fields:
        key, value = key_of(field), getattr(config, field)
        if field == "name" or (config.attached and key not in WATCHED_KEYS):
            continue
        if isinstance(value, BaseModel) and key in TABLES:
            value = {key_of(name): _as_written(name, v) for name, v in value}
        if key in TABLES and value is not None:
            rows += [
                (f"{key}.{inner}", item, said.get((key, inner), BUILT_IN))
                for inner, item in value.items()
            ]
        else:
            rows.append((key, _as_written(field, value), said.get((key,), BUILT_IN)))
    return rows


def origin_of(fleet: Fleet, model: str, key: str) -> Origin:
    """The origin of a model's value by its dotted key, or of the table that holds it."""
    said = fleet._origins.get(model, {})
    table, _, inner = key.partition(".")
    return said.get((table, inner)) or said.get((table,)) or said.get((), BUILT_IN)


def _as_written(field: str, value: Any) -> Any:
    if field.endswith("_s") and isinstance(value, float):
        return format_duration(value)
    return list(value) if isinstance(value, tuple) else value
