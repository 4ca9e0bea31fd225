"""What a scrape says of queues, steps and lengths."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from vllm_console.snapshot import to_json
from vllm_console.telemetry.load import distribution, load, mean, waiting_for
from vllm_console.telemetry.parse import parse
from vllm_console.telemetry.sample import Histogram, Sample
from vllm_console.telemetry.window import Window

_DATA = Path(__file__).parent / "data"


def _real(name: str, at: float) -> Sample:
    return parse(gzip.decompress((_DATA / f"{name}.txt.gz").read_bytes()), at)


def test_a_real_minute_of_overload_tells_queue_steps_and_lengths() -> None:
    peak, end = _real("loaded_peak", 100.0), _real("loaded", 160.0)
    now = load(Window(replace(peak, at=155.0), end), end, 16, Window(peak, end))
    assert now.waiting_for == {"capacity": 0, "deferred": 0}
    assert now.rejected_per_s == 0.0
    steps = end.histograms["step_tokens"], peak.histograms["step_tokens"]
    tokens, number = steps[0].sum - steps[1].sum, steps[0].count - steps[1].count
    assert now.tokens_per_step == pytest.approx(tokens / number)
    assert sum(n for _, n in now.prompt_lengths) == now.prompt_length.count
    assert sum(n for _, n in now.output_lengths) == now.output_length.count
    json.dumps(to_json(now), allow_nan=False)


def test_waiting_requests_are_told_by_reason_where_the_engine_does() -> None:
    peak = _real("loaded_peak", 1.0)
    told = load(None, peak, 16, None).waiting_for
    assert told is not None
    assert sum(told.values()) == 15
    assert waiting_for({"waiting": 3.0}) is None


def _window(counts: tuple[float, ...], total: float) -> Window:
    bounds = (1.0, 8.0)
    old = Sample(0.0, histograms={"step_tokens": Histogram(bounds, (1.0, 1.0, 1.0), 1.0)})
    new = Sample(1.0, histograms={"step_tokens": Histogram(bounds, counts, total)})
    return Window(old, new)


def test_a_mean_is_of_the_window_alone() -> None:
    assert mean(_window((1.0, 5.0, 6.0), 41.0), "step_tokens") == 8.0
    assert mean(_window((1.0, 1.0, 1.0), 1.0), "step_tokens") is None
    assert mean(_window((1.0, 5.0, 6.0), 41.0), "prompt_length") is None


def test_what_lies_beyond_the_last_bound_repeats_it() -> None:
    assert distribution(_window((1.0, 5.0, 6.0), 41.0), "step_tokens") == (
        (1.0, 0), (8.0, 4), (8.0, 1)
    )  # fmt: skip
    assert distribution(_window((1.0, 5.0, 5.0), 41.0), "step_tokens") == ((1.0, 0), (8.0, 4))
