"""The wire form of answers: whole both ways, and as its JSON Schema says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import jsonschema
import pytest

from vllm_console.answer import SCHEMA, Answer, Change, Figure, Mark, Measured
from vllm_console.snapshot import from_json, to_json

ROOT = Path(__file__).parent.parent.parent
SCHEMA_FILE = ROOT / "vllm_console" / "control" / "history.schema.json"
FULL = Answer(
    subject="model/a",
    since="2026-11-20T14:00:00.000Z",
    until="2026-11-20T15:00:00.000Z",
    step_s=1800.0,
    starts=("2026-11-20T14:00:00.000Z", "2026-11-20T14:30:00.000Z"),
    measured=(
        Measured(
            metric="ttft",
            unit="s",
            form="distribution",
            part="a-1",
            figure=Figure({"p95": 0.1, "p99": None}, 3, {"p95": (0.1, None)}, ("p95",), 0.5),
            before=Figure({"p95": 0.2, "p99": None}),
            change={"p95": Change(-0.1, -50.0)},
            target=0.25,
            steps=(Figure({"p95": 0.1}), Figure({"p95": None})),
        ),
    ),
    marks=(Mark("2026-11-20T14:01:00.000Z", "start", "ok", "a-1", "ready"),),
)


def test_an_answer_survives_json() -> None:
    assert from_json(Answer, json.loads(json.dumps(to_json(FULL), allow_nan=False))) == FULL


def test_an_answer_is_as_the_schema_says_and_nothing_else_is() -> None:
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    validator.validate(to_json(FULL))
    assert FULL.schema == SCHEMA
    wrong_change = to_json(FULL)
    wrong_change["measured"][0]["change"]["p95"] = 1.0
    for spoilt in ({**to_json(FULL), "extra": 1}, {**to_json(FULL), "schema": "x"}, wrong_change):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(spoilt)


def test_the_schema_file_is_the_one_the_types_give() -> None:
    path = ROOT / "scripts" / "status_schema.py"
    spec = importlib.util.spec_from_file_location("status_schema", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    written = SCHEMA_FILE.read_text(encoding="utf-8")
    assert written == script.history_text(), "run scripts/status_schema.py"
