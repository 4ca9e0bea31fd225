"""The exact `vllm serve` command line of a worker."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from vllm_console.fleet.model import ModelConfig
from vllm_console.fleet.options import FlagSchema, to_argv


def serve_command(
    program: str,
    model: ModelConfig,
    *,
    source: str,
    port: int | str,
    schema: FlagSchema | None,
    device: str | None = None,
) -> tuple[str, ...]:
    """The arguments, program first, that start one worker of `model` on 127.0.0.1:`port`.

    `source` is what vLLM loads (a hub id or a directory). With a schema, what the console wants of
    every worker is added where this vLLM version has the flag and the model does not say otherwise.
    `device` is what the engine was built for ("cuda", "cpu"), if that is known. Secrets travel in
    the environment, so none is on it.
    """
    return (
        *(program, "serve", source),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--served-model-name", model.name, *model.aliases),
        *(("--trust-remote-code",) if model.trust_remote_code else ()),
        *to_argv(dict(model.options), schema),
        *(to_argv(_wanted_of_workers(model, schema, device), schema) if schema else ()),
    )


def added_flags(
    model: ModelConfig, schema: FlagSchema | None, device: str | None = None
) -> tuple[str, ...]:
    """The flags on the command line that nobody wrote: what the console wants of workers."""
    wanted = _wanted_of_workers(model, schema, device) if schema else {}
    return tuple(word for word in to_argv(wanted, schema) if word.startswith("--"))


def _wanted_of_workers(
    model: ModelConfig, schema: FlagSchema, device: str | None
) -> dict[str, Any]:
    wanted: dict[str, Any] = {
        # without it vLLM hangs on SIGTERM for as long as a client holds a stream open
        "shutdown_timeout": math.ceil(model.drain_timeout_s),
        # a line a request and a scrape would bury the lines that matter
        "disable_uvicorn_access_log": True,
        "custom_histogram_buckets": HISTOGRAM_BUCKETS,
    }
    if model.sleep_level is not None and device != "cpu":  # refused on a CPU, where /sleep works
        wanted["enable_sleep_mode"] = True
    said = {flag.name for option in model.options if (flag := schema.find(option))}
    return {name: value for name, value in wanted.items() if name in schema and name not in said}


def _geometric(ratio: float, last: float) -> list[float]:
    def bounds() -> Iterator[float]:
        bound = 0.001
        while bound < last * ratio:
            yield float(f"{bound:.3g}")
            bound *= ratio

    return list(bounds())


HISTOGRAM_BUCKETS = {
    "time_to_first_token": _geometric(1.2, 600.0),
    "inter_token_latency": _geometric(1.12, 20.0),
    "request_latency": _geometric(1.22, 3600.0),
}
"""Bucket bounds in seconds, from 1 ms on: with vLLM's own a P95 can be half again too high.

Their ratio keeps a percentile within 3.5 % (benchmarks/quantile_error.py). It is least for the
latency with the sharpest edge, a few stalls among even steps, and most for the request latencies,
whose bounds five histograms have."""
