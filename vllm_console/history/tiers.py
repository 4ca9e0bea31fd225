"""How finely the past is kept: four tiers, each a row in so many seconds for so long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DAY_S = 86_400
CLOSE_MS = 15_000
"""Two rows this close have nothing missing between them: an idle worker is asked every 5 s."""


@dataclass(frozen=True, slots=True)
class Tier:
    """One fineness."""

    step_ms: int
    """Between two rows; 1 for every row there is."""
    rows: int
    """Rows a chunk, when one comes each second or step."""
    keep_s: int | None
    """How long a row stays; `None` for ever."""

    @property
    def period_ms(self) -> int:
        """Rows older than this are packed."""
        return self.rows * max(self.step_ms, 1000)

    @property
    def close_ms(self) -> int:
        """Two rows this close have nothing missing between them."""
        return max(CLOSE_MS, 2 * self.step_ms)


TIERS: Sequence[Tier] = (
    Tier(1, 120, 7200),
    Tier(10_000, 60, 2 * DAY_S),
    Tier(300_000, 48, 90 * DAY_S),
    Tier(3_600_000, 24, None),
)
