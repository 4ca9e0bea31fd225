"""What a model makes of its hardware: tokens for power and money, and one overall share."""

from __future__ import annotations

from collections.abc import Mapping

GOOD_ENDS = ("stop", "length")
"""Finish reasons of an answer that its client got whole."""
_HOUR_S = 3600.0
_MILLION = 1e6


def served(finish_reasons: Mapping[str, float] | None) -> float | None:
    """Share 0..1 of the finished requests that ended well; `None` where none finished."""
    total = sum((finish_reasons or {}).values())
    if finish_reasons is None or total <= 0:
        return None
    return sum(finish_reasons.get(reason, 0.0) for reason in GOOD_ENDS) / total


def tokens_per_joule(tokens_per_s: float | None, watts: float | None) -> float | None:
    """Generated tokens a second over watts; `None` where either is unknown or nothing draws."""
    if tokens_per_s is None or not watts:
        return None
    return tokens_per_s / watts


def cost_per_million(
    tokens_per_s: float | None, gpus: int, gpu_hour_cost: float | None
) -> float | None:
    """Price of a million generated tokens, in the unit of `gpu_hour_cost`.

    `None` without GPUs, without a price, and while nothing is generated: the price of nothing is
    not a number.
    """
    if not tokens_per_s or not gpus or gpu_hour_cost is None:
        return None
    return gpus * gpu_hour_cost / _HOUR_S / tokens_per_s * _MILLION


def overall(busy: float | None, fill: float | None, good: float | None) -> float | None:
    """Busy times batch fill times what ended well, each 0..1.

    Without a finished request the last factor is left out; without one of the first two there is
    no answer.
    """
    if busy is None or fill is None:
        return None
    return min(1.0, busy) * min(1.0, fill) * (1.0 if good is None else good)
