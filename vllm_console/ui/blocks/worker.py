"""Everything about one worker: its start or failure, its process, settings, command line."""

from __future__ import annotations

import shlex

from vllm_console.snapshot import Model, Worker
from vllm_console.ui.blocks.config import elapsed, failure_rows, settings
from vllm_console.ui.format import NONE, age, clock, sig3, size, uptime
from vllm_console.ui.rows import (
    Row,
    Span,
    beside,
    cell,
    clip,
    cut,
    half_widths,
    known,
    meter,
    pair,
    spread,
    wrap,
)
from vllm_console.ui.states import STAGES, look
from vllm_console.ui.view import View, staleness

_TWO_COLUMNS = 96
_GUTTER = 5
_LONGEST_WORD = 60
"""A word of the command line is cut beyond this: tables of histogram buckets say little."""
_WIDEST = 76
"""Wider columns would part labels from their values."""


def draw(view: View, width: int, height: int) -> list[Row]:
    """Settings at the left, start, failure and process at the right; under each other if narrow."""
    model, worker = view.model, view.worker
    if model is None:
        return [[("it is not in the fleet any more", "label"), (" · esc goes back", "dim")]]
    if width >= _TWO_COLUMNS:
        half = min(_WIDEST, (width - _GUTTER) // 2)
        widths = (half, min(_WIDEST, width - _GUTTER - half))
        rows = beside(_left(view, model, worker, widths[0]), _right(view, model, worker, widths[1]),
                      widths, _GUTTER)  # fmt: skip
    else:
        rows = [*_right(view, model, worker, width), [], *_left(view, model, worker, width)]
    return [*rows, [], *_command(model, width)][:height]


def _left(view: View, model: Model, worker: Worker | None, width: int) -> list[Row]:
    one, two = half_widths(width)
    items = settings(model, worker, view)
    rows: list[Row] = [_head("settings", f"revision {model.revision}", width)]
    for a, b in zip(items[::2], items[1::2], strict=True):
        rows.append(pair(_item(a, one), _item(b, two), width))
    shown = {"max_model_len", "max_num_seqs", "max_num_batched_tokens", "tensor_parallel_size",
             "pipeline_parallel_size", "gpu_memory_utilization", "block_size", "dtype"}  # fmt: skip
    extra = {k: v for k, v in (model.options or {}).items() if k not in shown}
    for name, value in sorted(extra.items()):
        rows.append(
            cell(cut(name, width // 2), cut(str(value), width // 2 - 1), "", "value", width)
        )
    return rows


def _right(view: View, model: Model, worker: Worker | None, width: int) -> list[Row]:
    if worker is None:
        return [
            _head("process", "", width),
            [
                (f"{look(model.state).glyph} ", look(model.state).ink),
                (model.state, "label"),
                (" · l loads it", "dim"),
            ],
        ]
    rows: list[Row] = []
    if worker.failure is not None and look(worker.state).group in ("failed", "loading"):
        rows += [_head("failure", clock(worker.failure.at, view.zone), width)]
        rows += [*failure_rows(worker.failure, width, 7), []]
    if worker.state == "starting":
        rows += [*_start(worker, width), []]
    elif worker.reason and (worker.failure is None or worker.reason != worker.failure.cause):
        rows += [*wrap(worker.reason, width, "label", 2), []]
    one, two = half_widths(width)
    up, unit = uptime(worker.elapsed_s if look(worker.state).group == "ready" else None)
    old = staleness(worker)
    rows += [
        _head("process", worker.url or "", width),
        pair(
            cell("pid", str(worker.pid or NONE), "", "value", one),
            cell("GPUs", ",".join(map(str, worker.gpus)) or NONE, "", "value", two),
            width,
        ),
        pair(
            cell("memory", *size(worker.rss_bytes), "value", one),
            cell("CPU", NONE if worker.cpu is None else sig3(worker.cpu), "cores", "value", two),
            width,
        ),
        pair(
            cell("up", up, unit, "value", one),
            cell(
                "restarts", str(worker.restarts), "", "warn!" if worker.restarts else "value", two
            ),
            width,
        ),
        spread(
            [("sample", "label")],
            [(f"▲ {old}", "warn!")] if old else [_sample(worker)],
            width,
        ),
        spread([("engine", "label")], [known(model.engine_environment or NONE, "text")], width),
    ]
    if worker.stale_reason:
        rows += wrap(worker.stale_reason, width, "warn", 2)
    return rows


def _sample(worker: Worker) -> Span:
    if worker.stale_s is None:
        return NONE, "dim"
    return (
        f"{worker.stale_s:.1f} s ago" if worker.stale_s < 10 else f"{age(worker.stale_s)} ago"
    ), "text"


def _start(worker: Worker, width: int) -> list[Row]:
    """The progress of a start, and vLLM's stages with those that are behind it ticked."""
    end = elapsed(worker)
    done = worker.progress
    rows: list[Row] = [
        spread([("start", "text")], end, width),
        [
            *meter(done, width - 6, "warn"),
            (
                f"{NONE if done is None else round(done * 100):>5}",
                "dim" if done is None else "value",
            ),
            ("%", "dim"),
        ],
    ]
    at = STAGES.index(worker.stage) if worker.stage in STAGES else -1
    line: Row = []
    for i, stage in enumerate(STAGES):
        glyph, ink = ("●", "ok") if i < at else ("◐", "warn!") if i == at else ("○", "dim")
        line += [
            (" " if line else "", ""),
            (glyph, ink),
            (stage, "text" if i == at else "label" if i < at else "dim"),
        ]
    return [*rows, clip(line, width)]


def _command(model: Model, width: int) -> list[Row]:
    if not model.command:
        return []
    text = shlex.join(cut(word, _LONGEST_WORD) for word in model.command)
    whole = f"whole: vllm-console config {model.name}" if "…" in text else ""
    return [_head("command", whole, width), *wrap(text, width, "label", 4)]


def _head(title: str, end: str, width: int) -> Row:
    return spread([(title, "text")], [(end, "dim")], width)


def _item(item: tuple[str, str, str], width: int) -> Row:
    label, value, ink = item
    return cell(label, cut(value, max(3, width - len(label) - 1)), "", ink, width)
