"""When cyclic garbage is looked for: between two keys, not in the middle of one."""

from __future__ import annotations

import gc
from collections.abc import Callable

from textual._styles_cache import StylesCache

QUIET_S = 0.08
"""Seconds without a key after which a person is not in the middle of typing."""
PATIENCE_S = 1.0
"""Seconds that a sweep is put off at most while keys come without a pause."""
MANY = 50
"""Collections of the middle generation after which a sweep is due: each leaves what lives on."""
_NEVER = 1_000_000_000


class Garbage:
    """Full collections at moments that the console chooses.

    Python begins one by itself after a number of allocations, which is while the picture of a key
    is drawn: it doubles the time of that key. `clock` gives monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._before: tuple[int, int, int] | None = None
        self._due: float | None = None
        self._typed = float("-inf")

    def take_over(self) -> None:
        """Leave out what is there now, which lives as long as the program, and begin to choose."""
        self._before = gc.get_threshold()
        young, middle, _ = self._before
        gc.collect()
        gc.freeze()
        gc.set_threshold(young, middle, _NEVER)

    def give_back(self) -> None:
        """Leave the choice to Python again."""
        if self._before is not None:
            gc.set_threshold(*self._before)
            gc.unfreeze()
            self._before = None

    def typed(self) -> None:
        """A key was pressed: whoever pressed it waits for a picture."""
        self._typed = self._clock()

    @property
    def due(self) -> bool:
        """Whether there is something to collect: a screen was closed, or much has gathered."""
        if self._before is None:
            return False
        return self._due is not None or gc.get_count()[2] >= MANY

    def closed(self) -> None:
        """A screen was closed: its widgets refer to each other."""
        if self._due is None:
            self._due = self._clock()

    def sweep(self) -> bool:
        """Collect now, unless somebody types; whether that was done."""
        now = self._clock()
        if self._due is None:
            self._due = now
        if now - self._typed < QUIET_S and now - self._due < PATIENCE_S:
            return False
        self._due = None
        forget_lines()
        gc.collect()
        return True


def forget_lines() -> None:
    """Let go of the drawn lines of widgets that are gone.

    Textual 8.2 remembers two colours a widget by the widget's cache of lines, in a table of 1,024
    entries for the whole program: that keeps the lines of the last 1,024 widgets, 0.4 MB for each
    box over the dashboard.
    """
    StylesCache.get_inner_outer.cache_clear()
