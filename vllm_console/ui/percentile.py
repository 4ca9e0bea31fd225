"""A percentile as the screen shows it: a point, or the sure end of a bracket."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_console.snapshot import Quantiles


@dataclass(frozen=True, slots=True)
class Percentile:
    """What to write for one percentile, and what is sure about it."""

    value: float
    """The point; or, where the bucket is too wide for one, its upper bound, or its lower bound
    where it has no upper one."""
    mark: str
    """What stands before the number: "", "≤" or ">"."""
    least: float
    """What the percentile surely exceeds, or the point."""
    thin: bool
    """It comes of too few events to be more than noise."""

    def over(self, target: float | None) -> bool:
        """Whether it is surely over a target; never over none."""
        if target is None:
            return False
        return self.least >= target if self.mark else self.least > target


def percentile(quantiles: Quantiles, name: str) -> Percentile | None:
    """Percentile `name` ("p50", "p95", "p99"); `None` where the window had no event."""
    point: float | None = getattr(quantiles, name)
    if point is None:
        return None
    between: tuple[float, float | None] | None = getattr(quantiles, f"{name}_between")
    few = name in quantiles.thin
    if between is None:
        return Percentile(point, "", point, few)
    low, high = between
    return Percentile(low, ">", low, few) if high is None else Percentile(high, "≤", low, few)
