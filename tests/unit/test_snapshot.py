"""The snapshot's wire form: there and back, and what its JSON Schema says of it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from vllm_console.snapshot import (
    Daemon,
    Engine,
    Event,
    Failure,
    Gpu,
    Host,
    Latency,
    Load,
    Model,
    Quantiles,
    Snapshot,
    Worker,
    decoded,
    from_json,
    to_json,
)

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads(
    (ROOT / "vllm_console" / "control" / "status.schema.json").read_text(encoding="utf-8")
)

FULL = Snapshot(
    at="2026-01-01T00:00:00.000Z",
    fleet="lab",
    daemon=Daemon(True, 1, "0.1.0", 2.5),
    models=(
        Model(
            name="a",
            source="x/y",
            revision=2,
            state="ready",
            wanted=1,
            ready=1,
            engine=Engine(version="0.32.0", max_num_seqs=16),
            load=Load(
                running=3,
                latency=Latency(ttft_s=Quantiles(0.1, 0.2, 0.3, 400)),
                step_tokens=((1.0, 5), (8.0, 2)),
                finish_reasons={"stop": 3.0},
            ),
            options={"max_num_seqs": 16, "enforce_eager": True},
            workers=(
                Worker(
                    id="a-1",
                    state="failed",
                    gpus=(0, 1),
                    failure=Failure("killed", "line", "remedy", "2026-01-01T00:00:00Z", -9, ("x",)),
                ),
            ),
        ),
    ),
    gpus=(Gpu("n", 0, "GPU-1", "H100"),),
    host=Host("n", 0.5, 2, 1, 2, 0.1),
    events=(Event(7, "2026-01-01T00:00:00Z", "ok", "a-1", "ready"),),
)


def test_a_snapshot_survives_the_wire() -> None:
    assert from_json(Snapshot, json.loads(json.dumps(to_json(FULL)))) == FULL


def test_fields_of_a_newer_daemon_are_passed_over() -> None:
    data = to_json(FULL)
    data["models"][0]["colour"] = "blue"
    assert from_json(Snapshot, data) == FULL


def test_json_is_decoded_into_the_types_as_it_is_read_by_way_of_dicts() -> None:
    data = to_json(FULL)
    assert decoded(json.dumps(data).encode()) == FULL
    data["models"][0]["of_a_newer_version"] = {"x": [1]}
    assert decoded(json.dumps(data).encode()) == FULL


def test_what_does_not_fit_the_types_is_read_all_the_same() -> None:
    data = to_json(FULL)
    data["daemon"]["pid"] = "12"
    assert decoded(json.dumps(data).encode()) == from_json(Snapshot, data)
    with pytest.raises(ValueError, match="truncated"):
        decoded(b"{")


def test_the_schema_takes_full_and_empty_snapshots() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for snapshot in (FULL, Snapshot(at="x", fleet="y", daemon=Daemon(running=False))):
        jsonschema.validate(to_json(snapshot), SCHEMA)


def test_the_schema_refuses_what_is_not_of_the_contract() -> None:
    spoils: list[dict[str, Any]] = [
        {"daemon": None},
        {"models": [{}]},
        {"extra": 1},
        {"schema": "other/1"},
    ]
    for spoil in spoils:
        errors = list(jsonschema.Draft202012Validator(SCHEMA).iter_errors(to_json(FULL) | spoil))
        assert errors, spoil


def test_the_schema_file_is_the_one_the_types_give() -> None:
    path = ROOT / "scripts" / "status_schema.py"
    spec = importlib.util.spec_from_file_location("status_schema", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.TARGET.read_text(encoding="utf-8") == script.text(), (
        "run scripts/status_schema.py"
    )
