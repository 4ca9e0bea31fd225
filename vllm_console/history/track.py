"""The few numbers of one subject that graphs ask for, in flat arrays."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence

BRIDGE_S = 15.0
"""Two samples this close have nothing missing between them: an idle worker is asked every 5 s, and
what is older than the fine part is kept every 10 s."""
NAN = math.nan


class Track:
    """Rows of (time, one value a metric), every one for `fine_s`, then means of `coarse_s`.

    A value that is not known is NaN inside, `None` outside. A row of nothing but NaN is a gap.
    Metrics in `last` are not averaged: where rows are combined, the last one speaks.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        *,
        keep_s: float,
        fine_s: float = 600.0,
        coarse_s: float = 10.0,
        last: frozenset[str] = frozenset(),
    ) -> None:
        self._metrics = tuple(metrics)
        self._last = tuple(name in last for name in metrics)
        self._width = len(self._metrics) + 1
        self._keep_s = keep_s
        self._fine_s = fine_s
        self._coarse_s = coarse_s
        self._fine = array("d")
        self._coarse = array("d")

    def add(self, at: float, values: Sequence[float | None]) -> None:
        """Appends the values of one moment, in the order of the metrics."""
        self._fine.append(at)
        self._fine.extend(NAN if value is None else value for value in values)
        self._thin(at)

    def gap(self, at: float) -> None:
        """Appends a moment of which nothing is known."""
        self.add(at, (None,) * len(self._metrics))

    def series(self, metric: str, seconds: float, step: float) -> list[float | None]:
        """One value a step of `step` seconds, oldest first; the last step holds the newest row.

        Steps lie on multiples of `step`, so that a graph moves by whole columns. A step with
        several rows has their mean; one without a row has that of the next row when the two around
        it are at most `BRIDGE_S` apart; else `None`.
        """
        column = self._metrics.index(metric)
        size = max(1, round(seconds / step))
        values: list[float | None] = [None] * size
        if not self._fine:
            return values
        first = math.floor(self._fine[-self._width] / step) - size + 1
        counts = [0] * size
        before: tuple[int, float] | None = None
        for at, value in self._rows(first * step - BRIDGE_S, column + 1):
            index = math.floor(at / step) - first
            if index >= 0:
                known = not math.isnan(value)
                old = values[index]
                if known:
                    keep = old is not None and not self._last[column]
                    values[index] = value + (old or 0.0) if keep else value
                    counts[index] = counts[index] + 1 if keep else 1
                if before is not None and at - before[1] <= BRIDGE_S:
                    for empty in range(max(0, before[0] + 1), index):
                        values[empty] = value if known else None
            before = (index, at)
        return [
            None if value is None else value / max(1, count)
            for value, count in zip(values, counts, strict=True)
        ]

    def _rows(self, since: float, column: int) -> Iterator[tuple[float, float]]:
        """(time, value) of one column from `since` on, oldest first."""
        width = self._width
        for part in (self._coarse, self._fine):
            start = len(part)
            while start and part[start - width] >= since:
                start -= width
            yield from zip(part[start::width], part[start + column :: width], strict=True)

    def _thin(self, now: float) -> None:
        width, fine = self._width, self._fine
        while fine[0] < now - self._fine_s - self._coarse_s:
            slot = math.floor(fine[0] / self._coarse_s)
            end = 0
            while end < len(fine) and math.floor(fine[end] / self._coarse_s) == slot:
                end += width
            self._coarse.append(fine[end - width])
            for column, last in enumerate(self._last, start=1):
                known = [v for v in fine[column:end:width] if not math.isnan(v)]
                if last or not known:
                    self._coarse.append(known[-1] if known else NAN)
                else:
                    self._coarse.append(math.fsum(known) / len(known))
            del fine[:end]
        gone = 0
        while gone < len(self._coarse) and self._coarse[gone] < now - self._keep_s:
            gone += width
        del self._coarse[:gone]
