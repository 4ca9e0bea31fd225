"""How many tokens an engine step works on: the histogram of the window."""

from __future__ import annotations

import math

from vllm_console.ui.format import NONE, count
from vllm_console.ui.graphs import column_bounds, histogram
from vllm_console.ui.rows import Row, Span, head, quiet
from vllm_console.ui.view import View


def draw(view: View, width: int, height: int) -> list[Row]:
    """The bucket that holds the median, the columns, and their upper bounds."""
    load, model = view.load, view.model
    if load is None or model is None:
        return []
    buckets = _trimmed(load.step_tokens)
    end: list[Span] = [("median ", "dim"), _median(buckets)]
    if model.engine.max_num_batched_tokens is not None:
        end += [(" of ", "dim"), (count(model.engine.max_num_batched_tokens), "label")]
    title = head("tokens a step", width, *end)
    if not buckets:
        entry = view.entry
        if not view.sampled:
            return [title, *([] for _ in range(height - 3)), [("╌" * width, "track")]]
        if entry is not None and entry.worker is not None:
            why = ("measured for the whole model", "select the model's own row")
        else:
            why = ("no step in this window", "")
        return [title, *quiet(width, height - 1, *why)]
    counts = [float(steps) for _, steps in buckets]
    return [
        title,
        *histogram(counts, width, max(1, height - 2), "batching"),
        _axis([bound for bound, _ in buckets], width),
    ]


def _trimmed(buckets: tuple[tuple[float, int], ...]) -> list[tuple[float, int]]:
    """Buckets without the empty ones above the last that counts; none when nothing counts."""
    last = max((i for i, (_, steps) in enumerate(buckets) if steps > 0), default=-1)
    return list(buckets[: last + 1])


def _median(buckets: list[tuple[float, int]]) -> Span:
    """The upper bound of the median's bucket: a histogram knows no more."""
    half = sum(steps for _, steps in buckets) / 2
    seen = 0
    for i, (bound, steps) in enumerate(buckets):
        seen += steps
        if steps and seen >= half:
            if math.isinf(bound):
                return f">{count(buckets[i - 1][0])}" if i else NONE, "value"
            return f"≤{count(bound)}", "value"
    return NONE, "dim"


def _axis(bounds: list[float], width: int) -> Row:
    """Upper bounds under the right end of their columns: the last, and every so many before it."""
    ends = [end for _, end in column_bounds(len(bounds), width)]
    texts = [_bound(bound) for bound in bounds]
    every = next(
        (n for n in range(1, len(bounds)) if _apart(texts[::-1][::n], ends[::-1][::n])),
        len(bounds),
    )
    cells = [" "] * width
    for text, end in list(zip(texts, ends, strict=True))[::-1][::every]:
        start = max(0, end - len(text))
        cells[start : start + len(text)] = text
    return [("".join(cells)[:width], "dim")]


def _apart(texts: list[str], ends: list[int]) -> bool:
    """Whether texts that end at these cells, from right to left, leave a blank between them."""
    starts = [end - len(text) for text, end in zip(texts, ends, strict=True)]
    return (
        all(start > end for start, end in zip(starts, ends[1:], strict=False)) and starts[-1] >= 0
    )


def _bound(bound: float) -> str:
    """A bucket's bound as engineers write it: `512`, `1k`, `8k`."""
    if math.isinf(bound):
        return "∞"
    return f"{bound / 1024:.0f}k" if bound >= 1024 and bound % 1024 == 0 else count(bound)
