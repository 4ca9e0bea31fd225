"""The models that a client is told of."""

from __future__ import annotations

import httpx2
import msgspec
import openai
import pytest

from tests.unit.gateway.fleet_of_two import MODELS
from vllm_console.gateway.catalogue import listing, one, ready
from vllm_console.gateway.table import Model, Table, Worker

TABLE = Table(version=1, models=MODELS)


def everything(model: str) -> bool:
    return bool(model)


def test_every_name_of_every_model_is_listed_loaded_or_not() -> None:
    found = {entry["id"]: entry for entry in listing(TABLE, everything)["data"]}
    assert list(found) == ["qwen", "qwen-small", "qwen-law", "llama"]
    assert found["qwen"] == {
        "id": "qwen", "object": "model", "created": 1_700_000_000, "owned_by": "vllm-console",
        "root": "qwen", "parent": None, "max_model_len": 4096, "state": "ready", "ready": True,
    }  # fmt: skip
    assert found["qwen-small"]["root"] == "qwen"
    assert found["qwen-law"]["parent"] == "qwen"
    assert found["llama"]["ready"] is False
    assert found["llama"]["state"] == "stopped"


def test_a_key_sees_what_it_may_use() -> None:
    def allows(model: str) -> bool:
        return model == "llama"

    assert [entry["id"] for entry in listing(TABLE, allows)["data"]] == ["llama"]
    assert one(TABLE, "qwen-small", allows) is None
    assert one(TABLE, "llama", allows) is not None


@pytest.mark.parametrize("name", ["qwen", "qwen-small", "qwen-law"])
def test_one_is_found_by_any_of_its_names(name: str) -> None:
    found = one(TABLE, name, everything)
    assert found is not None
    assert found["id"] == name


def test_an_unknown_name_is_none() -> None:
    assert one(TABLE, "gpt", everything) is None


def test_the_official_client_reads_the_list() -> None:
    def answer(asked: httpx2.Request) -> httpx2.Response:
        name = asked.url.path.removeprefix("/v1/models").strip("/")
        body = one(TABLE, name, everything) if name else listing(TABLE, everything)
        return httpx2.Response(200, content=msgspec.json.encode(body))

    transport = httpx2.MockTransport(answer)
    with openai.OpenAI(
        api_key="x", base_url="http://gateway/v1", http_client=httpx2.Client(transport=transport)
    ) as client:
        assert [model.id for model in client.models.list()][:2] == ["qwen", "qwen-small"]
        found = client.models.retrieve("qwen-law")
    assert found.owned_by == "vllm-console"
    assert found.model_dump()["parent"] == "qwen"


def test_a_model_is_ready_when_a_worker_takes_requests() -> None:
    draining = Worker(id="a-1", port=1, revision=1, draining=True)
    model = Model(name="a", state="draining", on_demand=False, workers=(draining,))
    assert ready(TABLE) is None
    why = ready(Table(version=1, models=(model,)))
    assert why == "no model takes requests: a is draining"


def test_a_model_that_a_request_loads_is_as_good_as_ready() -> None:
    assert ready(Table(version=1, models=(Model(name="a", state="stopped"),))) is None


def test_it_is_not_when_its_start_failed() -> None:
    failed = Model(name="a", state="failed", reason="out of memory")
    why = ready(Table(version=1, models=(failed,)))
    assert why == "no model takes requests: a is failed (out of memory)"


def test_without_a_table_nothing_is_ready() -> None:
    assert ready(Table(version=0)) == "no model is known yet"


def test_of_many_models_a_few_are_named() -> None:
    models = tuple(Model(name=f"m{n}", state="failed") for n in range(9))
    why = ready(Table(version=1, models=models))
    assert why is not None
    assert why.endswith("m2 is failed and 6 more")
