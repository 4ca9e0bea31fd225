"""Rows of what a load would take: whether it can start, GPUs, memory, time, what it waits for."""

from __future__ import annotations

import shlex

from vllm_console.looks import Cut, LoadPlan
from vllm_console.ui.format import NONE, duration, size
from vllm_console.ui.rows import Row, known, left, spread, stack, wrap


def rows(plan: LoadPlan, width: int, how: str = "l loads it") -> list[Row]:
    """The verdict first, then its parts; `how` tells what starts the load."""
    out = [*_verdict(plan, width, how), []]
    expected, unit = duration(plan.expected_s)
    out += [
        _line("workers", [(str(plan.workers), "value"), (" would start", "dim")], width),
        _line(
            "start",
            [known(expected), (f" {unit}", "dim")]
            if plan.expected_s is not None
            else [(NONE, "dim"), ("  this revision has not started here yet", "dim")],
            width,
        ),
        _line("weights", _bytes(plan.weights_bytes), width),
    ]
    if plan.device == "cpu":
        out.append(_line("host memory", [*_bytes(plan.host_free_bytes), (" free", "dim")], width))
    out.append(_line("waits for", _waits(plan), width))
    out.append(_line("moves", [("nothing: a load evicts no other model", "label")], width))
    if plan.engine:
        out.append(_line("engine", [(plan.engine, "text")], width))
    for gpu in plan.gpus:
        out += [[], *_gpu(gpu, width)]
    if plan.notes:
        out.append([])
        for note in plan.notes:
            out += [[("· ", "dim"), *row] for row in wrap(note, width - 2, "label")]
    if plan.command:
        command = shlex.join(_short(word) for word in plan.command)
        out += [[], [("command", "text")], *wrap(command, width, "label")]
    return out


def _verdict(plan: LoadPlan, width: int, how: str) -> list[Row]:
    if plan.refused:
        out: list[Row] = [[("✖ ", "crit!"), ("it could not start now", "value")]]
        for why in plan.refused:
            out += [[("  ", ""), *row] for row in wrap(why, width - 2, "crit")]
        return out
    if not plan.workers:
        return [[("● ", "ok!"), ("all its workers run already", "value")]]
    if plan.waits_for:
        return [[("◐ ", "warn!"), ("it can start, after what it waits for", "value")]]
    return [[("● ", "ok!"), ("it can start now", "value"), (f"   {how}", "dim")]]


def _line(label: str, value: Row, width: int) -> Row:
    return [(left(label, 13), "label"), *value]


def _bytes(value: int | None) -> Row:
    number, unit = size(value)
    return [known(number), (f" {unit}" if unit else "", "dim")]


def _waits(plan: LoadPlan) -> Row:
    if not plan.waits_for:
        return [("nothing", "text")]
    return [(", ".join(plan.waits_for), "warn"), ("  starts or stops on the same GPUs", "dim")]


def _gpu(gpu: Cut, width: int) -> list[Row]:
    used, total, wanted = gpu.used_bytes, gpu.total_bytes, gpu.wanted_bytes
    head = spread(
        [(f"GPU {gpu.index}", "value"), (f"  {gpu.name}", "label")],
        [*_bytes(used), (" used of ", "dim"), *_bytes(total)],
        width,
    )
    if used is None or total is None or wanted is None:
        return [head]
    free = total - used
    short = wanted > free
    bar = stack(
        [
            (used, "scaling3"),
            (min(wanted, free), "scaling7"),
            (max(0, free - wanted), "track"),
        ],
        width,
    )
    claim, unit = size(wanted)
    row: Row = [
        ("■ ", "scaling7"),
        ("vLLM claims ", "label"),
        (claim, "value"),
        (f" {unit}", "dim"),
    ]
    if short:
        row += [("   ▲ ", "warn!"), (f"only {' '.join(size(free))} are free now", "warn")]
    return [head, bar, row]


def _short(word: str) -> str:
    return word if len(word) <= 60 else word[:59] + "…"
