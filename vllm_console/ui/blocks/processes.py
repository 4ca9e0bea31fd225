"""The fleet's worker processes: cores and memory in use, time since ready, restarts."""

from __future__ import annotations

from vllm_console.snapshot import Worker
from vllm_console.ui.format import NONE, gib, sig3, uptime
from vllm_console.ui.rows import Row, left, right
from vllm_console.ui.states import look
from vllm_console.ui.view import View

_NUMBERS = 6 + 6 + 7 + 2


def ask(view: View, width: int, height: int) -> int:
    """A header and a row a worker; nothing without workers."""
    workers = _workers(view)
    return 1 + len(workers) if workers else 0


def draw(view: View, width: int, height: int) -> list[Row]:
    """One row a worker, as many as fit; those of the selected model are among them."""
    workers = _workers(view)
    if not workers:
        return []
    name = width - _NUMBERS
    rows: list[Row] = [
        [
            (left("workers", name), "text"),
            (right("cores", 6) + right("GiB", 6) + right("up", 7) + right("↻", 2), "dim"),
        ]
    ]
    own = {w.id for w in view.model.workers} if view.model else set()
    at = next((i for i, w in enumerate(workers) if w.id in own), 0)
    start = max(0, min(at, len(workers) - (height - 1)))
    for worker in workers[start : start + height - 1]:
        shown = look(worker.state)
        number, unit = uptime(worker.elapsed_s if shown.group == "ready" else None)
        restarts = NONE if view.stored else str(worker.restarts)
        cores = NONE if worker.cpu is None else sig3(worker.cpu)
        rows.append(
            [
                (shown.glyph + " ", shown.ink),
                (left(worker.id, name - 2), "text"),
                (right(cores, 6), "dim" if worker.cpu is None else "value"),
                (right(gib(worker.rss_bytes), 6), "dim" if worker.rss_bytes is None else "value"),
                (right(number, 7 - len(unit) - 1 if unit else 7), "label" if unit else "dim"),
                (f" {unit}" if unit else "", "dim"),
                (right(restarts, 2), "warn!" if worker.restarts else "dim"),
            ]
        )
    return rows


def _workers(view: View) -> list[Worker]:
    return [w for m in view.snapshot.models for w in m.workers] if view.snapshot else []
