"""Blocks by the name that panel files use: each a pure function of (view, width, height)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vllm_console.ui.blocks import (
    advanced,
    analytics,
    autoscale,
    batch,
    bottlenecks,
    cluster,
    config,
    dashboard,
    devices,
    efficiency,
    finish,
    fleet,
    gateway,
    health,
    insights,
    kv_cache,
    latency,
    memory,
    models,
    monitoring,
    occupancy,
    optimization,
    pools,
    processes,
    queue,
    requests,
    service,
    steps,
    strategies,
    throughput,
    ttft,
)
from vllm_console.ui.rows import Row
from vllm_console.ui.view import View

WIDEST = 80
"""Cells beyond which a label would stand too far from its value."""


@dataclass(frozen=True, slots=True)
class Block:
    """One rectangle of a panel."""

    draw: Callable[[View, int, int], list[Row]]
    ask: Callable[[View, int, int], int] | None = None
    """Rows that it wants, of a width, in a panel of so many rows; `None` when it takes what it
    is given."""
    needs_model: bool = True
    """Left out while no model is selected."""
    widest: int = 10_000
    """Cells it takes at most; a graph takes all that there are."""


BLOCKS = {
    "models": Block(models.draw, models.ask, needs_model=False),
    "config": Block(config.draw, config.ask, widest=WIDEST),
    "optimization": Block(optimization.draw, optimization.ask, widest=WIDEST),
    "memory": Block(memory.draw, memory.ask, widest=WIDEST),
    "advanced": Block(advanced.draw, advanced.ask, widest=WIDEST),
    "monitoring": Block(monitoring.draw, monitoring.ask, widest=WIDEST),
    "kv-cache": Block(kv_cache.draw),
    "requests": Block(requests.draw),
    "dashboard": Block(dashboard.draw, dashboard.ask, widest=WIDEST),
    "bottlenecks": Block(bottlenecks.draw, bottlenecks.ask, widest=WIDEST),
    "throughput": Block(throughput.draw, needs_model=False),
    "ttft": Block(ttft.draw),
    "latency": Block(latency.draw, latency.ask, widest=WIDEST),
    "efficiency": Block(efficiency.draw, efficiency.ask, widest=WIDEST),
    "occupancy": Block(occupancy.draw, needs_model=False),
    "batch": Block(batch.draw, widest=WIDEST),
    "steps": Block(steps.draw),
    "finish": Block(finish.draw, widest=WIDEST),
    "strategies": Block(strategies.draw, strategies.ask, needs_model=False, widest=WIDEST),
    "queue": Block(queue.draw, queue.ask, needs_model=False, widest=WIDEST),
    "analytics": Block(analytics.draw, widest=WIDEST),
    "insights": Block(insights.draw, insights.ask, widest=WIDEST),
    "cluster": Block(cluster.draw, needs_model=False, widest=WIDEST),
    "service": Block(service.draw, service.ask, needs_model=False, widest=WIDEST),
    "health": Block(health.draw, needs_model=False, widest=WIDEST),
    "pools": Block(pools.draw, pools.ask, needs_model=False, widest=WIDEST),
    "autoscale": Block(autoscale.draw, autoscale.ask, widest=WIDEST),
    "devices": Block(devices.draw, devices.ask, needs_model=False, widest=WIDEST),
    "processes": Block(processes.draw, processes.ask, needs_model=False, widest=WIDEST),
    "gateway": Block(gateway.draw, gateway.ask, needs_model=False, widest=WIDEST),
    "fleet": Block(fleet.draw),
}
