"""What is counted of a request."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_console.gateway.measures import OTHER, Measures, Record, together


def request(**more: Any) -> Record:
    values: dict[str, Any] = {
        "id": "r-1", "at": 1e9, "key": "alice", "model": "qwen", "worker": "qwen-1",
        "status": 200, "stream": True, "queue_s": 0.001, "ttft_s": 0.2, "e2e_s": 1.2,
        "prompt": 10, "cached": 4, "generated": 11, "finish": "stop",
    }  # fmt: skip
    return Record(**(values | more))


def test_a_request_is_counted_once_by_model_key_and_class() -> None:
    measures = Measures()
    measures.record(request(gpu_s=0.5, cost=0.25, retries=1))
    measures.record(request(cls=2))
    measures.record(request(key="bob"))
    assert set(measures.rows) == {("qwen", "alice", 1), ("qwen", "alice", 2), ("qwen", "bob", 1)}
    row = measures.rows["qwen", "alice", 1]
    assert (row.prompt, row.cached, row.generated) == (10, 4, 11)
    assert (row.gpu_s, row.cost, row.retries) == (0.5, 0.25, 1)
    assert measures.by_model()["qwen"].requests == 3
    assert measures.by_key({"alice"})["alice"].requests == 2
    assert measures.by_pair()["qwen", "alice"].generated == 22
    assert measures.most_used(1) == {"alice"}


def test_times_are_those_of_model_and_key() -> None:
    measures = Measures()
    measures.record(request())
    for latencies in (measures.models["qwen"], measures.keys["alice"]):
        assert latencies.ttft.quantile(0.5) == pytest.approx(0.2, rel=0.01)
        assert latencies.e2e.quantile(0.5) == pytest.approx(1.2, rel=0.01)
        assert latencies.tpot.quantile(0.5) == pytest.approx(0.1, rel=0.01)
        assert latencies.queue.quantile(0.5) == pytest.approx(0.001, rel=0.01)


def test_a_whole_answer_tells_nothing_of_its_first_token() -> None:
    measures = Measures()
    measures.record(request(stream=False))
    assert measures.models["qwen"].e2e.count == 1
    assert measures.models["qwen"].ttft.count == 0
    assert measures.models["qwen"].tpot.count == 0


def test_one_token_has_no_time_per_further_token() -> None:
    measures = Measures()
    measures.record(request(generated=1))
    assert measures.models["qwen"].ttft.count == 1
    assert measures.models["qwen"].tpot.count == 0


@pytest.mark.parametrize(
    ("status", "error", "ending"),
    [
        (499, "disconnect", "abort"),
        (404, "model_not_found", "refused"),
        (429, None, "refused"),
        (500, None, "error"),
        (503, "full", "error"),
        (200, "worker-died", "error"),
    ],
)
def test_what_was_not_served_to_its_end_has_no_times(
    status: int, error: str | None, ending: str
) -> None:
    measures = Measures()
    measures.record(request(status=status, error=error))
    row = measures.rows["qwen", "alice", 1]
    assert dict(row.finishes) == {ending: 1}
    assert row.failed == (ending == "error")
    assert row.disconnects == (status == 499)
    assert not measures.models


def test_there_are_never_more_rows_than_allowed() -> None:
    measures = Measures(rows=2, timed=4)
    for number in range(50):
        measures.record(request(key=f"key-{number}", model=f"model-{number}"))
    assert len(measures.rows) <= 2 * 3 + 3
    assert len(measures.models) == len(measures.keys) == 4 + 1
    assert measures.by_model()[OTHER].requests == 50 - 6
    assert measures.rows[OTHER, OTHER, 1].requests == 50 - 6
    assert measures.keys[OTHER].e2e.count == 50 - 4


def test_several_models_are_one() -> None:
    measures = Measures()
    measures.record(request())
    measures.record(request(model="llama", e2e_s=4.0))
    whole = together(measures.models.values())
    assert whole.e2e.count == 2
    assert whole.e2e.quantile(1.0) == pytest.approx(4.0, rel=0.01)
    assert measures.models["qwen"].e2e.count == 1
