"""Where the selected model's memory goes, as one stacked bar with its legend."""

from __future__ import annotations

from vllm_console.ui.format import gib
from vllm_console.ui.rows import Row, half_widths, head, known, meter, pair, spread, stack
from vllm_console.ui.view import View

_PARTS = (
    ("weights", "weights_bytes", "engines5"),
    ("KV used", "kv_used_bytes", "batching"),
    ("other", "other_bytes", "dim"),
    ("KV free", "kv_free_bytes", "batching2"),
)
"""Label, field and ink, in the order of the legend."""
_ORDER = (0, 2, 1, 3)
"""The order of the bar: what stays first, what comes and goes last."""


def draw(view: View, width: int, height: int) -> list[Row]:
    """Title with used of total, the bar, and two rows of legend."""
    model = view.model
    if model is None:
        return []
    memory = model.memory
    title = "GPU memory" if memory.device == "gpu" else "host memory"
    rows = [
        head(
            title,
            width,
            known(gib(memory.used_bytes)),
            (" of ", "dim"),
            known(gib(memory.total_bytes), "label"),
            (" GiB", "dim"),
        )
    ]
    sizes = [getattr(memory, field) for _, field, _ in _PARTS]
    told = any(size is not None for size in sizes)
    if told:
        parts = [(float(sizes[i] or 0), _PARTS[i][2]) for i in _ORDER]
        used = sum(size for size, _ in parts)
        if memory.total_bytes is not None and memory.total_bytes > used:
            parts.append((memory.total_bytes - used, "track"))
        rows.append(stack(parts, width))
    elif memory.used_bytes is not None and memory.total_bytes:
        rows.append(meter(memory.used_bytes / memory.total_bytes, width, "engines"))
    else:
        rows.append(meter(None, width, "engines"))
    one, two = half_widths(width)
    cells = [
        spread(
            [("■ ", ink if size is not None else "track"), (label, "label")],
            [known(gib(size))],
            one if i % 2 == 0 else two,
        )
        for i, ((label, _, ink), size) in enumerate(zip(_PARTS, sizes, strict=True))
    ]
    return [*rows, pair(cells[0], cells[1], width), pair(cells[2], cells[3], width)]
