"""Why requests finished in the window: stop, length, abort and so on, as shares."""

from __future__ import annotations

from vllm_console.ui.format import percent, si
from vllm_console.ui.rows import Row, cut, head, meter, quiet
from vllm_console.ui.view import View

_LABEL = 11


def draw(view: View, width: int, height: int) -> list[Row]:
    """A title with the number of requests, and a meter a reason, the most frequent first."""
    load = view.load
    if load is None:
        return []
    reasons = {k: v for k, v in (load.finish_reasons or {}).items() if v > 0}
    total = sum(reasons.values())
    title = head("finished", width, (si(total) if total else "–", "value" if total else "dim"))
    if not total:
        why = quiet(width, height - 1, "no request finished in this window")
        return [title, *(why if view.sampled else [])]
    rows = [title]
    for name, number in sorted(reasons.items(), key=lambda item: -item[1])[: height - 1]:
        share = number / total
        rows.append(
            [
                (cut(name, _LABEL - 1).ljust(_LABEL), "label"),
                *meter(share, width - _LABEL - 6, "batching"),
                (f"{percent(share):>5}", "value"),
                ("%", "dim"),
            ]
        )
    return rows
