"""Blocks by the name that panel files use: each a pure function of (view, width, height)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vllm_console.ui.blocks import (
    advice,
    autoscale,
    batch,
    config,
    devices,
    efficiency,
    finish,
    fleet,
    gateway,
    kv_cache,
    latency,
    memory,
    models,
    occupancy,
    pools,
    processes,
    requests,
    steps,
    throughput,
    ttft,
)
from vllm_console.ui.rows import Row
from vllm_console.ui.view import View


@dataclass(frozen=True, slots=True)
class Block:
    """One rectangle of a panel."""

    draw: Callable[[View, int, int], list[Row]]
    ask: Callable[[View, int, int], int] | None = None
    """Rows that it wants, of a width, in a panel of so many rows; `None` when it takes what it
    is given."""
    needs_model: bool = True
    """Left out while no model is selected."""


BLOCKS = {
    "models": Block(models.draw, models.ask, needs_model=False),
    "config": Block(config.draw),
    "memory": Block(memory.draw),
    "kv-cache": Block(kv_cache.draw),
    "requests": Block(requests.draw),
    "throughput": Block(throughput.draw, needs_model=False),
    "ttft": Block(ttft.draw),
    "latency": Block(latency.draw, latency.ask),
    "efficiency": Block(efficiency.draw),
    "occupancy": Block(occupancy.draw, needs_model=False),
    "batch": Block(batch.draw),
    "steps": Block(steps.draw),
    "finish": Block(finish.draw),
    "advice": Block(advice.draw, advice.ask),
    "pools": Block(pools.draw, pools.ask, needs_model=False),
    "autoscale": Block(autoscale.draw, autoscale.ask),
    "devices": Block(devices.draw, devices.ask, needs_model=False),
    "processes": Block(processes.draw, processes.ask, needs_model=False),
    "gateway": Block(gateway.draw, gateway.ask, needs_model=False),
    "fleet": Block(fleet.draw),
}
