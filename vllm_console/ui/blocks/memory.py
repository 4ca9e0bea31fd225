"""Where the selected model's memory goes: a stacked bar a GPU, its legend, what the cache holds."""

from __future__ import annotations

from vllm_console.snapshot import GpuMemory, Memory, Model
from vllm_console.ui.format import NONE, count, gib, sig3, size
from vllm_console.ui.rows import (
    Row,
    Span,
    cell,
    half_widths,
    head,
    known,
    meter,
    pair,
    spread,
    stack,
)
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
_BARS = 8
"""More GPUs than this are one bar."""
_LEGEND = 2
_FACTS = 2


def ask(view: View, width: int, height: int) -> int:
    """A title, a bar a GPU, two rows of legend, two of facts."""
    gpus = len(view.model.memory.gpus) if view.model else 0
    return 1 + (gpus if 1 < gpus <= _BARS else 1) + _LEGEND + _FACTS


def draw(view: View, width: int, height: int) -> list[Row]:
    """Title with used of total, the bars, two rows of legend, then what the KV cache holds."""
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
    if 1 < len(memory.gpus) <= min(_BARS, height - 1 - _LEGEND):
        rows += [_gpu(gpu, width) for gpu in memory.gpus]
    else:
        rows.append(_bar(memory, width))
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
    legend = [[*cells[0], gap, *cells[1]], [*cells[2], gap, *cells[3]]]
    return [*rows, *legend, *_facts(model, width)][:height]


def _bar(memory: Memory | GpuMemory, width: int) -> Row:
    """The parts of one whole; a plain meter where only their sum is known."""
    sizes = [getattr(memory, field) for _, field, _ in _PARTS]
    if all(part is None for part in sizes):
        if memory.used_bytes is None or not memory.total_bytes:
            return meter(None, width, "engines")
        return meter(memory.used_bytes / memory.total_bytes, width, "engines")
    parts = [(float(sizes[i] or 0), _PARTS[i][2]) for i in _ORDER]
    taken = sum(part for part, _ in parts)
    if memory.used_bytes is not None and memory.other_bytes is None:
        parts.append((max(0.0, memory.used_bytes - taken), "dim"))
        taken = max(taken, memory.used_bytes)
    if memory.total_bytes is not None and memory.total_bytes > taken:
        parts.append((memory.total_bytes - taken, "track"))
    return stack(parts, width)


def _gpu(gpu: GpuMemory, width: int) -> Row:
    """`2 ▆▆▆▆▆▆▆▆▆  123`: one GPU, its bar, and what is used of it."""
    number = gib(gpu.used_bytes)
    room = max(4, width - 3 - 5)
    used = (f"{number:>5}", "dim" if number == NONE else "text")
    return [(f"{gpu.index:<3}", "label"), *_bar(gpu, room), used]


def _facts(model: Model, width: int) -> list[Row]:
    """Tokens the cache holds, requests of full length that fit, and memory off the engine."""
    engine = model.engine
    fit = engine.max_concurrency
    if fit is None and engine.kv_cache_tokens and engine.max_model_len:
        fit = engine.kv_cache_tokens / engine.max_model_len
    one, two = half_widths(width)
    running = engine.version is not None
    offload, unit = size(engine.swap_bytes)
    if engine.swap_bytes is None:
        offload = "off" if running else NONE
    graphs, graphs_unit = size(engine.graphs_bytes)
    return [
        pair(
            cell("KV tokens", count(engine.kv_cache_tokens), "", "value", one),
            cell("full length", NONE if fit is None else f"{sig3(fit)}×", "", "value", two),
            width,
        ),
        pair(
            cell("offload", offload, unit, "value" if engine.swap_bytes else "dim", one),
            cell("graphs", graphs, graphs_unit, "value", two),
            width,
        ),
    ]


def _part(label: str, ink: str, part: tuple[str, str], width: int, roomy: bool) -> Row:
    """One item of the legend; where room is short the title's GiB goes without saying."""
    number, unit = part
    end: Row = [known(number)]
    if unit != "GiB" or roomy:
        end.append((f" {unit}" if unit else "", "dim"))
    return spread([("■ ", ink if unit else "track"), (label, "label")], end, width)
