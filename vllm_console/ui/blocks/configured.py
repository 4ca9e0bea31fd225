"""Rows of a model's configuration: each value with its origin, secrets blanked; and its GPUs."""

from __future__ import annotations

from vllm_console.looks import Configured, Setting, Variable
from vllm_console.ui.format import NONE, percent, sig3, size
from vllm_console.ui.rows import Row, cut, known, left, meter, right, spread
from vllm_console.ui.view import View

SECRET = "•••"
_ORIGIN = 30


def heading(told: Configured | None, width: int) -> str:
    """The title of the list: whether the workers run what the file says."""
    if told is None:
        return "config"
    same = "" if told.as_the_file else " · the fleet file says otherwise now"
    return f"config · revision {told.revision}{same}"


def setting_row(item: Setting, width: int) -> Row:
    """Key, value, and where the value comes from; what is built in stays dim."""
    built_in = item.layer == "built-in"
    key = max(18, min(34, width // 3))
    origin = min(_ORIGIN, width // 4)
    value = cut(item.value, max(4, width - key - origin - 4))
    row: Row = [(left(item.key, key), "dim" if built_in else "label"), ("  ", "")]
    row.append((value, "label" if built_in else "value"))
    return spread(row, [(cut(item.origin, origin), "dim" if built_in else "engines8")], width)


def variable_row(item: Variable, width: int) -> Row:
    """Name, value, origin; a secret's value is never shown."""
    key = max(18, min(34, width // 3))
    row: Row = [(left(item.name, key), "label"), ("  ", "")]
    row.append((SECRET, "dim") if item.value is None else (cut(item.value, width // 2), "value"))
    if item.value is None:
        row.append(("  a secret", "dim"))
    return spread(row, [(cut(item.origin, width // 4), "engines8")], width)


def setting_text(item: Setting | Variable) -> str:
    """As a line of a file."""
    if isinstance(item, Setting):
        return f"{item.key} = {item.value}"
    return f"{item.name}={SECRET if item.value is None else item.value}"


def gpu_rows(view: View, width: int) -> list[Row]:
    """Each GPU of the selected worker: how busy, how full, how warm, and who else is on it."""
    worker, snapshot = view.worker, view.snapshot
    rows: list[Row] = []
    if worker is None or snapshot is None:
        return rows
    for gpu in snapshot.gpus:
        if gpu.index not in worker.gpus or (worker.node and gpu.node != worker.node):
            continue
        if rows:
            rows.append([])
        rows.append(
            spread(
                [(f"GPU {gpu.index}", "value"), (f"  {gpu.name}", "label")],
                [(gpu.uuid, "dim")],
                width,
            )
        )
        room = max(10, min(60, width - 40))
        full = None
        if gpu.memory_used_bytes is not None and gpu.memory_total_bytes:
            full = gpu.memory_used_bytes / gpu.memory_total_bytes
        used, unit = size(gpu.memory_used_bytes, like=gpu.memory_total_bytes)
        total = size(gpu.memory_total_bytes)[0]
        rows.append(
            [
                (left("busy", 8), "label"),
                *meter(gpu.utilization, room, "scaling"),
                (right(percent(gpu.utilization), 6), "value"),
                ("%", "dim"),
            ]
        )
        rows.append(
            [
                (left("memory", 8), "label"),
                *meter(full, room, "scaling"),
                (right(used, 6), "value"),
                (f" of {total} {unit}", "dim"),
            ]
        )
        rows.append(
            [
                *_fact("temperature", gpu.temperature_c, "°C"),
                *_fact("power", gpu.power_w, "W"),
                *_fact("limit", gpu.power_limit_w, "W"),
                ("held down by ", "label"),
                (gpu.throttle or "nothing", "warn!" if gpu.throttle else "text"),
            ]
        )
        if gpu.fault:
            rows.append([("✖ ", "crit!"), (gpu.fault, "crit")])
        for process in gpu.processes:
            here = process.worker == worker.id
            who = process.worker or process.name or "another program"
            memory, part = size(process.memory_bytes)
            rows.append(
                [
                    (right(str(process.pid), 9), "value" if here else "label"),
                    ("  ", ""),
                    (left(who, 28), "text" if here else "label"),
                    known(right(memory, 7), "value"),
                    (f" {part}", "dim"),
                ]
            )
    return rows


def _fact(name: str, value: float | None, unit: str) -> Row:
    text = NONE if value is None else sig3(round(value))
    row: Row = [(f"{name} ", "label"), known(text)]
    return [*row, (f" {unit}   " if value is not None else "   ", "dim")]
