"""How long prompts and answers are, in tokens."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

TEMPLATE_TOKENS = 48
"""Room left for what a chat template adds around the messages."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """The size of one request in tokens: what is asked, and what is answered."""

    prompt: int
    output: int

    def within(self, context: int) -> Lengths:
        """The same request cut to fit a model's context, the prompt to three quarters of it."""
        room = max(2, context - TEMPLATE_TOKENS)
        prompt = max(1, min(self.prompt, room * 3 // 4))
        return Lengths(prompt, max(1, min(self.output, room - prompt)))


def spread_lengths(
    *, prompt: float = 200.0, output: float = 60.0, sigma: float = 0.8, seed: int = 0
) -> Iterator[Lengths]:
    """Endless log-normal lengths with these means (tokens), the shape chat traffic has.

    `sigma` is the deviation of the logarithm: 0.8 puts the 95th percentile at 2.7 times the mean.
    """
    rng = random.Random(seed)
    prompt_mu, output_mu = (math.log(mean) - sigma * sigma / 2 for mean in (prompt, output))
    while True:
        yield Lengths(
            max(1, round(rng.lognormvariate(prompt_mu, sigma))),
            max(1, round(rng.lognormvariate(output_mu, sigma))),
        )
