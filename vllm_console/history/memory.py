"""A history in memory: the last quarter of an hour of every subject, the finer the younger.

Of a subject two things are kept. Whole samples serve `window`: all of them for 90 s, then one in
10 s. A track of what graphs ask for serves `series`: every sample for 10 min, then means of 10 s.
`history.store` has what is older.
"""

from __future__ import annotations

from collections import deque

from vllm_console.errors import InvalidInput
from vllm_console.history.base import SERIES
from vllm_console.history.resets import Unbroken
from vllm_console.history.rows import Rows
from vllm_console.history.track import Track
from vllm_console.telemetry.sample import Histogram, Sample
from vllm_console.telemetry.window import Window, quantile

KEEP_S = 900.0
"""How much is kept."""
TTFT_WINDOW_S = 30.0
"""The graph of TTFT P95 shows at each moment that of the window of this length before it."""


class MemoryHistory:
    """Implements `history.base.History`; for one thread.

    About 0.3 MB a subject with vLLM's default buckets and one sample a second.
    """

    def __init__(self, keep_s: float = KEEP_S) -> None:
        self._keep_s = keep_s
        self._subjects: dict[str, _Subject] = {}

    def record(self, subject: str, sample: Sample) -> None:
        """Keeps one sample, reset-corrected; one that is not younger than the last is dropped."""
        kept = self._subjects.get(subject)
        if kept is None:
            kept = self._subjects[subject] = _Subject(self._keep_s)
        kept.record(sample)

    def gap(self, subject: str, at: float) -> None:
        """Notes a missed scrape; nothing happens for a subject that never had a sample."""
        kept = self._subjects.get(subject)
        if kept is not None and at > kept.last_at:
            kept.last_at = at
            kept.track.gap(at)

    def forget(self, subject: str) -> None:
        """Drops a subject for good; nothing happens for an unknown one."""
        self._subjects.pop(subject, None)

    def latest(self, subject: str) -> Sample | None:
        """The newest sample, reset-corrected, or `None`."""
        kept = self._subjects.get(subject)
        return None if kept is None else kept.latest

    def window(self, subject: str, seconds: float, at: float | None = None) -> Window | None:
        """The window that ends with the newest sample at or before `at`.

        It begins with the newest sample that is at least `seconds` older, or, where that one is
        more than half as old again, with the first sample after that. `None` when there are not
        two such samples.
        """
        kept = self._subjects.get(subject)
        return None if kept is None else kept.window(seconds, at)

    def series(self, subject: str, metric: str, seconds: float, step: float) -> list[float | None]:
        """One value a step, oldest first (see `Track.series`); all `None` for an unknown subject.

        Rates are those between two samples. Raises `InvalidInput` for a metric not in `SERIES`.
        """
        if metric not in SERIES:
            raise InvalidInput(f"no series {metric!r}; there are {', '.join(SERIES)}")
        kept = self._subjects.get(subject)
        if kept is None:
            return [None] * max(1, round(seconds / step))
        return kept.track.series(metric, seconds, step)


class _Subject:
    """What is kept of one subject."""

    def __init__(self, keep_s: float) -> None:
        self.latest: Sample | None = None
        self.last_at = float("-inf")
        self.track = Track(SERIES, keep_s=keep_s, last=frozenset({"ttft_p95_s"}))
        self._rows = Rows(((min(90.0, keep_s), 0.0), (keep_s, 10.0)))
        self._unbroken = Unbroken()
        self._ttft: deque[tuple[float, Histogram]] = deque()

    def record(self, raw: Sample) -> None:
        if raw.at <= self.last_at:
            return
        sample = self._unbroken.add(raw)
        window = None if self.latest is None else Window(self.latest, sample)
        self._rows.add(sample)
        self.latest, self.last_at = sample, sample.at
        gauges = sample.gauges
        self.track.add(
            sample.at,
            (
                gauges.get("running"),
                gauges.get("waiting"),
                gauges.get("kv_cache_usage"),
                None if window is None else window.rate("generation_tokens"),
                None if window is None else window.rate("prompt_tokens"),
                None if window is None else window.rate("requests_finished"),
                self._ttft_p95(sample),
            ),
        )

    def window(self, seconds: float, at: float | None) -> Window | None:
        new = self.latest if at is None else self._rows.before(at)
        if new is None:
            return None
        start = new.at - seconds
        old = self._rows.before(start)
        if old is None or old.at < start - seconds / 2:
            old = self._rows.after(start)
        return None if old is None or old.at >= new.at else Window(old, new)

    def _ttft_p95(self, sample: Sample) -> float | None:
        """TTFT P95 in seconds over the last `TTFT_WINDOW_S`."""
        now = sample.histograms.get("ttft_s")
        if now is None:
            return None
        kept = self._ttft
        kept.append((sample.at, now))
        while len(kept) > 2 and kept[1][0] <= sample.at - TTFT_WINDOW_S:
            kept.popleft()
        old = kept[0][1]
        if old.bounds != now.bounds:
            return None
        counts = [b - a for a, b in zip(old.counts, now.counts, strict=True)]
        return quantile(0.95, now.bounds, counts)
