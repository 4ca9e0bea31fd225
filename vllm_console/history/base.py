"""What the live picture asks of the last minutes; `history.store` answers for all that is older."""

from __future__ import annotations

from typing import Protocol

from vllm_console.telemetry.sample import Sample
from vllm_console.telemetry.window import Window


class History(Protocol):
    """The newest samples by subject. A subject is "worker/ID", "model/NAME" or "fleet".

    Times are seconds of the daemon's monotonic clock. Counters are made reset-corrected at
    `record`: a window across a worker's restart never goes backwards.
    """

    def record(self, subject: str, sample: Sample) -> None:
        """Keep one sample of a subject; samples of one subject come in order of time."""

    def gap(self, subject: str, at: float) -> None:
        """Note that a scrape of this subject was missed: graphs show a gap there."""

    def forget(self, subject: str) -> None:
        """Drop a subject for good (its worker was removed from the fleet)."""

    def latest(self, subject: str) -> Sample | None:
        """The newest sample, or `None`."""

    def window(self, subject: str, seconds: float, at: float | None = None) -> Window | None:
        """The window that ends at `at` (default: the newest sample) and spans about `seconds`.

        `None` when there are not two samples in it.
        """

    def series(self, subject: str, metric: str, seconds: float, step: float) -> list[float | None]:
        """One value a step, oldest first, newest last, `None` where a scrape was missed.

        `metric` is one of `SERIES`.
        """


SERIES = (
    "running",
    "waiting",
    "kv_cache_usage",
    "generation_tokens_per_s",
    "prompt_tokens_per_s",
    "requests_per_s",
    "ttft_p95_s",
)
"""Metrics a graph can ask for. `ttft_p95_s` is of the 30 s window that ends at each step."""
