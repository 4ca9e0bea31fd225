"""When requests arrive: endless growing times, in seconds since the start."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator


def poisson_arrivals(rate: float, *, seed: int = 0) -> Iterator[float]:
    """Independent arrivals, `rate` a second on average."""
    rng, at = random.Random(seed), 0.0
    while True:
        at += rng.expovariate(rate)
        yield at


def varying_arrivals(
    rate: float,
    *,
    swing: float = 0.5,
    period_s: float = 60.0,
    burst: float = 3.0,
    burst_s: float = 4.0,
    burst_every_s: float = 37.0,
    seed: int = 0,
) -> Iterator[float]:
    """Poisson arrivals whose rate breathes and bursts, `rate` a second in the long run.

    The rate follows a sine of `period_s` seconds by ±`swing` (0..1); every `burst_every_s` seconds
    it is `burst` times as high for `burst_s` seconds.
    """
    duty = burst_s / burst_every_s
    base = rate / (1.0 + (burst - 1.0) * duty)

    def rate_at(at: float) -> float:
        level = base * (1.0 + swing * math.sin(2.0 * math.pi * at / period_s))
        # The burst closes its interval, so that a run starts gently.
        in_burst = at % burst_every_s >= burst_every_s - burst_s
        return level * burst if in_burst else level

    return thinned_arrivals(rate_at, base * (1.0 + swing) * max(1.0, burst), seed=seed)


def thinned_arrivals(
    rate_at: Callable[[float], float], highest: float, *, seed: int = 0
) -> Iterator[float]:
    """Poisson arrivals of a rate that changes over time and never exceeds `highest`.

    Thinning (Lewis and Shedler, 1979): arrivals at the highest rate, each kept with the
    probability that the rate of its moment has to the highest.
    """
    rng, at = random.Random(seed), 0.0
    while True:
        at += rng.expovariate(highest)
        if rng.random() * highest < rate_at(at):
            yield at
