"""Where the selected model's memory goes, as one stacked bar with its legend."""

from __future__ import annotations

from vllm_console.ui.format import gib, size
from vllm_console.ui.rows import Row, Span, head, known, meter, spread, stack
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
_ROOMY = 44
"""From this width on every part of the legend has its unit."""


def draw(view: View, width: int, height: int) -> list[Row]:
    """Title with used of total, the bar, and two rows of legend."""
    model = view.model
    if model is None:
        return []
    memory = model.memory
    title = "GPU memory" if memory.device == "gpu" else "host memory"
    number, unit = size(memory.used_bytes)
    used: list[Span] = [known(number)]
    if unit and (unit != "GiB" or memory.total_bytes is None):
        used.append((f" {unit}", "dim"))
    rows = [
        head(
            title,
            width,
            *used,
            (" of ", "dim"),
            known(gib(memory.total_bytes), "label"),
            ("" if memory.total_bytes is None else " GiB", "dim"),
        )
    ]
    sizes = [getattr(memory, field) for _, field, _ in _PARTS]
    told = any(part is not None for part in sizes)
    if told:
        parts = [(float(sizes[i] or 0), _PARTS[i][2]) for i in _ORDER]
        taken = sum(part for part, _ in parts)
        if memory.used_bytes is not None and memory.other_bytes is None:
            parts.append((max(0.0, memory.used_bytes - taken), "dim"))
            taken = max(taken, memory.used_bytes)
        if memory.total_bytes is not None and memory.total_bytes > taken:
            parts.append((memory.total_bytes - taken, "track"))
        rows.append(stack(parts, width))
    elif memory.used_bytes is not None and memory.total_bytes:
        rows.append(meter(memory.used_bytes / memory.total_bytes, width, "engines"))
    else:
        rows.append(meter(None, width, "engines"))
    gutter = 1 if width < _ROOMY else 4
    one = (width - gutter) // 2
    kv = max((memory.kv_used_bytes or 0, memory.kv_free_bytes or 0))
    cells = [
        _part(
            label,
            ink,
            size(sizes[i], kv if label.startswith("KV") else None),
            one if i % 2 == 0 else width - gutter - one,
            width >= _ROOMY,
        )
        for i, (label, _, ink) in enumerate(_PARTS)
    ]
    gap: Span = (" " * gutter, "")
    return [*rows, [*cells[0], gap, *cells[1]], [*cells[2], gap, *cells[3]]]


def _part(label: str, ink: str, part: tuple[str, str], width: int, roomy: bool) -> Row:
    """One item of the legend; where room is short the title's GiB goes without saying."""
    number, unit = part
    end: Row = [known(number)]
    if unit != "GiB" or roomy:
        end.append((f" {unit}" if unit else "", "dim"))
    return spread([("■ ", ink if unit else "track"), (label, "label")], end, width)
