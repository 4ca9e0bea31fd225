"""The gateway of the scripted fleet: what it adds to each model, and the sum of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vllm_console.snapshot import Gateway, Model, Queued

POLICY = "least outstanding, prefix affinity"


def behind_gateway(model: Model, number: int) -> Model:
    """A model whose requests come through the gateway; the longer its queue, the less is high."""
    waiting = (model.load.waiting or 0) // 2
    low = waiting // 3
    high = 1 if waiting and number % 2 else 0
    return replace(
        model,
        queued=Queued(high, max(0, waiting - high - low), low),
        in_flight=(model.load.running or 0) + (model.load.waiting or 0),
        balancing=POLICY if model.ready else None,
    )


def in_front_of(models: Sequence[Model], t: int) -> Gateway:
    """What the gateway of these models says of itself."""
    queued = [model.queued for model in models]
    return Gateway(
        running=True,
        url="http://127.0.0.1:4000",
        requests_per_s=sum(model.load.requests_per_s or 0.0 for model in models),
        queued=Queued(
            sum(each.high or 0 for each in queued),
            sum(each.normal or 0 for each in queued),
            sum(each.low or 0 for each in queued),
        ),
        oldest_s=1.62,
        rejected_per_s=0.0,
        pid=4243,
        version="0.2.0",
        uptime_s=92_800.0 + t,
        started_at="2026-11-19T10:15:51+00:00",
        in_flight=sum(model.in_flight or 0 for model in models),
    )
