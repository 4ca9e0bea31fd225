"""The model list: one row a model, its workers under it when it has several."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vllm_console.snapshot import Model, Worker
from vllm_console.ui.format import NONE, age, count, figure, gib, percent, sig3, tokens
from vllm_console.ui.percentile import percentile
from vllm_console.ui.pursuit import DOING
from vllm_console.ui.rows import Row, cut, cut_left, fill, ground, left, level, quiet, right
from vllm_console.ui.states import look
from vllm_console.ui.view import Entry, View, staleness, telling

_COLUMNS = (
    ("revision", "rev", 5, 72),
    ("ready", "ready", 7, 42),
    ("gpus", "GPU", 7, 50),
    ("memory", "GiB", 7, 65),
    ("kv", "KV", 5, 0),
    ("queue", "run+wait", 9, 0),
    ("hit", "hit", 6, 86),
    ("ttft", "TTFT ms", 9, 57),
    ("requests", "req/s", 7, 80),
    ("tokens", "tok/s", 7, 0),
)
"""Name, header, width, and from which width of the block on a column is shown."""
_ALWAYS = ("revision", "ready", "gpus", "memory")
"""Columns that are known of a model that does not serve."""


def ask(view: View, width: int, height: int) -> int:
    """A header and a row an entry; room to say why there is none."""
    return 1 + (max(2, len(view.entries)) if view.model or view.filter else height)


def draw(view: View, width: int, height: int) -> list[Row]:
    """The list, scrolled so that the selected row is in it."""
    if view.snapshot is None:
        return quiet(width, height, *view.idle)
    if not view.snapshot.models:
        return quiet(width, height, "no models yet", "add [models.NAME] to fleet.toml")
    columns = [c for c in _COLUMNS if width >= c[3]]
    name_width = width - 2 - sum(c[2] for c in columns)
    header: Row = [("  " + left("model", name_width), "dim")]
    header += [(right(_title(view, title), size), "dim") for _, title, size, _ in columns]
    entries = view.entries
    if not entries:
        return [header, *quiet(width, height - 1, f"nothing matches “{view.filter}”", "esc clears")]
    rows = [header]
    for entry in shown(view, height):
        row = fill(_row(view, entry, name_width, columns), width)
        if entry.key == view.selected:
            row = ground([("  " if t == "" else t, _lift(i)) for t, i in row], width)
        rows.append(row)
    return rows


def _title(view: View, title: str) -> str:
    """A column's header; that of the GPUs says how many there are."""
    gpus = len(view.snapshot.gpus) if view.snapshot else 0
    return f"{title}/{gpus}" if title == "GPU" and gpus else title


def shown(view: View, height: int) -> list[Entry]:
    """The entries shown in a block of this height, the selected one among them.

    Where not all fit, workers go before models, and ready workers before those that are not: the
    row of their model speaks for them.
    """
    entries, room = view.entries, max(1, height - 1)
    for least in (_is_ready_worker, _is_worker):
        if len(entries) > room:
            entries = [e for e in entries if e.key == view.selected or not least(e)]
    entries = [
        replace(e, last=next((n.worker for n in entries[i + 1 : i + 2]), None) is None)
        if e.worker
        else e
        for i, e in enumerate(entries)
    ]
    at = next((i for i, e in enumerate(entries) if e.key == view.selected), 0)
    start = max(0, min(at - room // 2, len(entries) - room))
    return entries[start : start + room]


def _is_worker(entry: Entry) -> bool:
    return entry.worker is not None


def _is_ready_worker(entry: Entry) -> bool:
    return entry.worker is not None and look(entry.worker.state).group == "ready"


def _lift(ink: str) -> str:
    """On the selected row dim text rises by one ink, so that it keeps its contrast."""
    return {"dim": "label", "label": "text", "text": "value"}.get(ink, ink)


def _row(
    view: View, entry: Entry, name_width: int, columns: list[tuple[str, str, int, int]]
) -> Row:
    model, worker = entry.model, entry.worker
    state = worker.state if worker else model.state
    state_look = look(state)
    name_ink = "label" if state_look.group == "stopped" else "text"
    row: Row = []
    if worker is None:
        row += [(state_look.glyph + " ", state_look.ink), (left(model.name, name_width), name_ink)]
    else:
        row.append(("└ " if entry.last else "├ ", "dim"))
        row.append((state_look.glyph + " ", state_look.ink))
        row.append((left(_short(worker, model, name_width - 2), name_width - 2), "label"))
    said = _instead(worker or telling(model), model, state)
    if worker is None and (verb := view.pending.get(model.name)) and _begins(verb, state):
        said = f"{DOING.get(verb, verb)} …", "warn", ""
    if said is None:
        load = worker or model.load
        for name, _, size, _ in columns:
            row += _cell(view, model, worker, load, name, size)
        return row
    for name, _, size, _ in columns:
        if name in _ALWAYS:
            row += _cell(view, model, worker, model.load, name, size)
    room = sum(size for name, _, size, _ in columns if name not in _ALWAYS)
    text, ink, number = said
    remaining = _left(worker or telling(model), state)
    if len(text) + len(number) + len(remaining) + 1 > room:
        remaining = ""
    text = cut(text, room - len(number) - 1)
    room -= len(number) + len(remaining)
    return [*row, (right(text, room), ink), (number, "warn!"), (remaining, "dim")]


def _begins(verb: str, state: str) -> bool:
    """Whether a command was given and nothing of it is to be seen yet."""
    return look(state).group in (("stopped", "failed") if verb == "load" else ("ready", "stalled"))


def _left(worker: Worker | None, state: str) -> str:
    """How much of a start is left by what earlier ones took; empty where that is not known."""
    if state != "starting" or worker is None or worker.expected_s is None:
        return ""
    seconds = worker.expected_s - (worker.elapsed_s or 0.0)
    return f"  {age(seconds)}" if seconds >= 1 else ""


def _short(worker: Worker, model: Model, width: int) -> str:
    prefix = model.name + "-"
    if worker.id.startswith(prefix):
        number = worker.id[len(prefix) :] + _share(worker, model)
        return f"worker {number}" if len(number) + 7 <= width else number
    return cut_left(worker.id, width)


def _revision(model: Model, worker: Worker | None) -> str:
    """A model's revision, and that of its canary; the other workers are of their model's."""
    if worker is None:
        return f"r{model.revision}"
    canary = model.canary
    return f"r{canary.revision}" if canary is not None and canary.worker == worker.id else ""


def _share(worker: Worker, model: Model) -> str:
    """What a canary has of the requests."""
    canary = model.canary
    if canary is None or canary.worker != worker.id:
        return ""
    return f" {percent(canary.share)}%"


def _instead(worker: Worker | None, model: Model, state: str) -> tuple[str, str, str] | None:
    """What stands in place of the numbers while there are none: text, ink, percentage."""
    group = look(state).group
    old = staleness(worker)
    if group in ("ready", "stalled"):
        return (f"▲ {old}", "warn!", "") if old else None
    if worker is None or group == "stopped":
        return state, "dim", ""
    if group == "failed":
        return (worker.failure.cause if worker.failure else state), "crit", ""
    if state == "starting":
        done = "" if worker.progress is None else f" {percent(worker.progress)}%"
        return worker.stage or "starting", "warn", done
    return (worker.reason or state), "warn" if group == "loading" else "label", ""


def _cell(
    view: View, model: Model, worker: Worker | None, load: object, name: str, size: int
) -> Row:
    def get(field: str) -> Any:
        return getattr(load, field)

    if name == "revision":
        return [(right(_revision(model, worker), size), "dim")]
    if name == "ready":
        return _ready(model, worker, size)
    if name == "memory":
        if worker is not None:  # a model's is that of all its workers
            return [(" " * size, "")]
        used = model.memory.used_bytes
        return [(right(gib(used), size), "dim" if used is None else "label")]
    if name == "gpus":
        workers = [worker] if worker else list(model.workers)
        gpus = sorted({g for w in workers for g in w.gpus})
        return [(right(_ranges(gpus), size), "label" if gpus else "dim")]
    if name == "kv":
        return _percentage(get("kv_cache_usage"), size, view, "kv_cache_usage")
    if name == "hit":
        return _percentage(get("prefix_cache_hit_rate"), size, view, "")
    if name == "queue":
        running, waiting = get("running"), get("waiting")
        if running is None and waiting is None:
            return [(right(NONE, size), "dim")]
        limit = view.limit("waiting")
        tail = "+" + count(waiting)
        ink = level(waiting, limit.warn, limit.crit)
        return [
            (right(count(running), size - len(tail)), "text"),
            (tail, ink if ink.endswith("!") else "label" if not waiting else "text"),
        ]
    if name == "ttft":
        shown = percentile(get("latency").ttft_s, "p95")
        if shown is None:
            return [(right(NONE, size), "dim")]
        ink = "warn!" if shown.over(model.slo.ttft_p95_s) else "text"
        return [(right(shown.mark + figure(shown.value * 1e3), size), ink)]
    if name == "requests":
        value = get("requests_per_s")
        return [(right(NONE if value is None else sig3(value), size), "text" if value else "dim")]
    value = get("generation_tokens_per_s")
    return [(right(tokens(value), size), "dim" if value is None else "value" if value else "label")]


def _ready(model: Model, worker: Worker | None, size: int) -> Row:
    """Workers that take requests of those wanted; amber while some are missing."""
    if worker is not None:
        return [(" " * size, "")]
    missing = model.ready < model.wanted
    ink = "warn!" if missing else "dim" if not model.wanted else "text"
    tail = f"/{model.wanted}"
    return [(right(str(model.ready), size - len(tail)), ink), (tail, "dim")]


def _percentage(value: float | None, size: int, view: View, limit_name: str) -> Row:
    if value is None:
        return [(right(NONE, size), "dim")]
    limit = view.limit(limit_name)
    ink = level(value, limit.warn, limit.crit) if limit_name else "text"
    return [(right(percent(value), size - 1), ink), ("%", "dim")]


def _ranges(numbers: list[int]) -> str:
    """`0-3,6` for 0, 1, 2, 3, 6."""
    parts: list[list[int]] = []
    for n in numbers:
        if parts and parts[-1][-1] == n - 1:
            parts[-1].append(n)
        else:
            parts.append([n])
    out = [
        str(p[0]) if len(p) == 1 else f"{p[0]}{',' if len(p) == 2 else '-'}{p[-1]}" for p in parts
    ]
    return ",".join(out) or NONE
