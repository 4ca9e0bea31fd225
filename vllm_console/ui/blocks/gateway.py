"""The one OpenAI endpoint of the fleet, when there is one."""

from __future__ import annotations

from vllm_console.ui.format import NONE, count, rate
from vllm_console.ui.rows import Row, head, known, wrap
from vllm_console.ui.view import View


def ask(view: View, width: int, height: int) -> int:
    """As many rows as its text takes."""
    return len(draw(view, width, 99))


def draw(view: View, width: int, height: int) -> list[Row]:
    """Its address, rate and queue; without it, where requests go."""
    if view.snapshot is None:
        return []
    gateway = view.snapshot.gateway
    if not gateway.running:
        text = "not in this version: ask each worker at its own address"
        return [head("gateway", width, ("off", "dim")), *wrap(text, width, "dim")][:height]
    queued = gateway.queued
    parts = [q for q in (queued.high, queued.normal, queued.low) if q is not None]
    return [
        head("gateway", width, known(rate(gateway.requests_per_s)), (" req/s", "dim")),
        head(
            gateway.url or NONE,
            width,
            ("queued ", "dim"),
            known(count(sum(parts)) if parts else NONE),
        ),
    ][:height]
