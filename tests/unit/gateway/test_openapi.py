"""The OpenAPI document: whole, true to the allow-list, and of valid schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from tests.unit.gateway.fleet_of_two import MODELS, FakeGateway
from vllm_console.gateway import refusals
from vllm_console.gateway.catalogue import listing
from vllm_console.gateway.openapi import document
from vllm_console.gateway.paths import KIND
from vllm_console.gateway.stats import Stats
from vllm_console.gateway.table import Table

DOCUMENT: dict[str, Any] = json.loads(document("1.2.3"))


def schemas(found: Any) -> Iterator[dict[str, Any]]:
    """Every schema in a part of the document."""
    if isinstance(found, dict):
        for name, inner in found.items():
            if name == "schema":
                yield inner
            else:
                yield from schemas(inner)
    elif isinstance(found, list):
        for inner in found:
            yield from schemas(inner)


def validate(value: Any, name: str) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    jsonschema.validate(value, schema)


def test_it_is_of_version_3_1_and_says_whose_it_is() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["info"]["version"] == "1.2.3"


def test_every_path_that_is_passed_on_is_described_and_no_other() -> None:
    posts = {path for path, item in DOCUMENT["paths"].items() if "post" in item}
    assert posts == {path.decode() for path in KIND}


def test_every_schema_is_one() -> None:
    found = [*schemas(DOCUMENT["paths"]), *DOCUMENT["components"]["schemas"].values()]
    assert len(found) > 100
    for schema in found:
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_reference_leads_somewhere() -> None:
    known = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    used = {schema["$ref"] for schema in schemas(DOCUMENT["paths"]) if "$ref" in schema}
    assert used <= known


def test_operations_have_names_of_their_own() -> None:
    names = [
        operation["operationId"]
        for item in DOCUMENT["paths"].values()
        for operation in item.values()
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", sorted(KIND))
def test_a_request_needs_a_model_and_fields_that_are_told(path: bytes) -> None:
    post = DOCUMENT["paths"][path.decode()]["post"]
    (content,) = post["requestBody"]["content"].values()
    schema = content["schema"]
    assert "model" in schema["required"]
    assert set(schema["required"]) <= set(schema["properties"])
    assert set(KIND[path].limits) <= set(schema["properties"]) or KIND[path].multipart
    streams = "text/event-stream" in post["responses"]["200"]["content"]
    assert streams == KIND[path].streams
    assert {"400", "401", "403", "404", "413", "429", "502", "503", "504"} <= set(post["responses"])


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/messages"])
def test_a_refusal_has_the_shape_that_is_told(path: bytes) -> None:
    refused = refusals.refused(503, "no worker", code="no_worker", retry_after=1.0)
    _, _, body = refusals.rendered(refused, KIND[path])
    name = DOCUMENT["paths"][path.decode()]["post"]["responses"]["503"]["content"][
        "application/json"
    ]["schema"]["$ref"].rpartition("/")[2]
    validate(json.loads(body), name)


def test_own_answers_have_the_shape_that_is_told() -> None:
    validate(listing(Table(version=1, models=MODELS), bool), "Models")
    stats = Stats(FakeGateway(), version="1", now=0.0)
    validate(json.loads(json.dumps(stats.picture(1.0))), "Stats")
