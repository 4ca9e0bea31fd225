"""What pydantic finds wrong, in the words and with the keys of the fleet file."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from vllm_console.fleet.model import key_of
from vllm_console.fleet.problems import shown

_MUST_BE = {
    "string_type": "a text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a table",
    "path_type": "a path",
    "model_type": "a table",
}
_SHAPES = {
    "name": 'a name starts with a letter or digit; letters, digits, ".", "_" and "-" follow',
    "aliases": "an alias is one word that does not start with -",
    "source": "must be one line that starts with neither a space nor -",
}


def faults(error: ValidationError) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Each fault as (path of keys, text)."""
    for fault in error.errors(include_url=False):
        path = tuple(key_of(part) if isinstance(part, str) else part for part in fault["loc"])
        kind, context, given = fault["type"], fault.get("ctx", {}), fault["input"]
        if kind == "value_error":
            text = str(context["error"])
        elif kind in _MUST_BE:
            text = f"must be {_MUST_BE[kind]}, not {shown(given)}"
        elif kind == "greater_than_equal":
            text = f"must be at least {context['ge']:g}"
        elif kind == "greater_than":
            text = f"must be more than {context['gt']:g}"
        elif kind == "less_than_equal":
            text = f"must be at most {context['le']:g}"
        elif kind == "string_pattern_mismatch":
            text = _SHAPES[str(path[0])]
        elif kind == "string_too_short":
            text = "must not be empty"
        else:
            text = fault["msg"][:1].lower() + fault["msg"][1:]
        yield path, text
