"""Two graphs back to back, one growing upwards, one downwards: two sides of one thing."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_console.ui.graphs import Samples, area
from vllm_console.ui.rows import Row, Span, quiet, spread


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two graphs."""

    label: str
    hue: str
    now: tuple[Span, ...]
    """What stands at the right of its label."""
    samples: Samples
    top: float


def mirrored(
    up: Side, down: Side, width: int, height: int, idle: tuple[str, str] | None
) -> list[Row]:
    """`height` rows: the upper label, both graphs (three fifths upwards), the lower label."""
    body = max(2, height - 2)
    if idle is not None:
        return [
            [("▲ ", "track"), (up.label, "label")],
            *quiet(width, body, *idle),
            [("▼ ", "track"), (down.label, "label")],
        ]
    upper = (body * 3 + 2) // 5
    return [
        spread([("▲ ", up.hue), (up.label, "text")], list(up.now), width),
        *area(up.samples, width, upper, up.top, up.hue),
        *area(down.samples, width, body - upper, down.top, down.hue, down=True),
        spread([("▼ ", down.hue), (down.label, "text")], list(down.now), width),
    ]
