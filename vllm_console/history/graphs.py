"""The series that graphs ask for, out of the stored past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vllm_console.history.base import SERIES
from vllm_console.history.memory import TTFT_WINDOW_S
from vllm_console.history.reading import Reader
from vllm_console.history.track import BRIDGE_S
from vllm_console.telemetry.window import Window

_RATES = {
    "generation_tokens_per_s": "generation_tokens",
    "prompt_tokens_per_s": "prompt_tokens",
    "requests_per_s": "requests_finished",
}
_RATE_WINDOW_S = 10.0
"""At least: a worker that does nothing is asked every 5 s."""

Series = dict[str, list[float | None]]


def series(
    reader: Reader,
    subjects: Sequence[str],
    metrics: Sequence[str],
    now: float,
    seconds: float,
    step: float,
) -> dict[str, Series]:
    """By subject and metric (of `SERIES`), one value a step up to `now`, oldest first.

    Times are seconds, `now` is since the epoch. Steps end at multiples of `step`, so that a graph
    moves by whole columns; `None` where nothing was observed.
    """
    until = (now // step + 1) * step
    since = until - max(1, round(seconds / step)) * step
    return {subject: _of(reader, subject, metrics, since, until, step) for subject in subjects}


def _of(
    reader: Reader, subject: str, metrics: Sequence[str], since: float, until: float, step: float
) -> Series:
    found: Series = {}
    for metric in metrics:
        if metric in _RATES or metric not in SERIES:
            continue
        if metric == "ttft_p95_s":
            windows = reader.steps(subject, since, until, step, span=max(step, TTFT_WINDOW_S))
            found[metric] = [None if w is None else w.quantiles("ttft_s").p95 for w in windows]
        else:
            gauges = reader.gauges(subject, metric, since, until, step)
            found[metric] = _bridged([gauge and gauge.mean for gauge in gauges], step)
    rates = {metric: counter for metric, counter in _RATES.items() if metric in metrics}
    if rates:
        windows = reader.steps(subject, since, until, step, span=max(step, _RATE_WINDOW_S))
        found |= _rates(windows, rates)
    return {metric: found[metric] for metric in metrics if metric in found}


def _rates(windows: Sequence[Window | None], rates: Mapping[str, str]) -> Series:
    return {
        metric: [None if w is None else w.rate(counter) for w in windows]
        for metric, counter in rates.items()
    }


def _bridged(values: list[float | None], step: float) -> list[float | None]:
    """With values for steps in which no row happened to fall, where rows around are close."""
    last = None
    for index, value in enumerate(values):
        if value is None:
            continue
        if last is not None and (index - last) * step <= BRIDGE_S:
            values[last + 1 : index] = [value] * (index - last - 1)
        last = index
    return values
