"""Writes the JSON Schemas in vllm_console/control from the wire types and their docstrings."""

from __future__ import annotations

import ast
import inspect
import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from vllm_console import answer, snapshot

_CONTROL = Path(__file__).parent.parent / "vllm_console" / "control"
TARGET = _CONTROL / "status.schema.json"
HISTORY_TARGET = _CONTROL / "history.schema.json"


def schema(
    wire: type = snapshot.Snapshot, name: str = snapshot.SCHEMA, title: str = "vllm-console status"
) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a wire type; closed objects, so that a typo fails a test."""
    definitions: dict[str, Any] = {}
    root = _object(wire, definitions)
    root["properties"]["schema"] = {"const": name}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": name,
        "title": title,
        "description": "Additive changes only. Unknown is null. Times are ISO 8601 UTC, durations "
        "seconds, memory bytes, ratios 0..1.",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def _object(cls: type, definitions: dict[str, Any]) -> dict[str, Any]:
    hints, notes = get_type_hints(cls), _notes(cls)
    properties = {}
    for field in fields(cls):
        properties[field.name] = _value(hints[field.name], definitions)
        if field.name in notes:
            properties[field.name]["description"] = notes[field.name]
    return {
        "type": "object",
        "description": inspect.getdoc(cls),
        "properties": properties,
        "required": [f.name for f in fields(cls)],
        "additionalProperties": False,
    }


def _value(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        inner = _value(next(a for a in args if a is not type(None)), definitions)
        return {"anyOf": [inner, {"type": "null"}]}
    if origin is tuple:
        if args[-1] is Ellipsis:
            return {"type": "array", "items": _value(args[0], definitions)}
        items = [_value(a, definitions) for a in args]
        return {"type": "array", "prefixItems": items, "minItems": len(args), "maxItems": len(args)}
    if origin is Mapping:
        inner = {} if args[1] is Any else _value(args[1], definitions)
        return {"type": "object", "additionalProperties": inner}
    if is_dataclass(kind):
        name = kind.__name__  # type: ignore[union-attr]
        if name not in definitions:
            definitions[name] = {}
            definitions[name] = _object(kind, definitions)  # type: ignore[arg-type]
        return {"$ref": f"#/$defs/{name}"}
    return {"type": {str: "string", bool: "boolean", int: "integer", float: "number"}[kind]}


def _notes(cls: type) -> dict[str, str]:
    """Attribute docstrings: the string literal under an annotated name."""
    (body,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(body, ast.ClassDef)
    notes = {}
    for name, note in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(name, ast.AnnAssign)
            and isinstance(name.target, ast.Name)
            and isinstance(note, ast.Expr)
            and isinstance(note.value, ast.Constant)
        ):
            notes[name.target.id] = inspect.cleandoc(str(note.value.value))
    return notes


def text() -> str:
    """The content of the schema file of `status --json`."""
    return _text(schema())


def history_text() -> str:
    """The content of the schema file of `history --json`."""
    return _text(schema(answer.Answer, answer.SCHEMA, "vllm-console history"))


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for target, content in ((TARGET, text()), (HISTORY_TARGET, history_text())):
        target.write_text(content, encoding="utf-8")
        print(f"wrote {target.name}: {len(content)} bytes")
