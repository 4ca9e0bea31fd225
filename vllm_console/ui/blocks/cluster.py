"""The machines of the fleet: how many work, how full they are, which GPUs are free."""

from __future__ import annotations

from vllm_console.snapshot import Gpu, Snapshot
from vllm_console.ui.format import NONE, count, percent
from vllm_console.ui.rows import Row, Span, half_widths, head, known, level, pair, spread
from vllm_console.ui.view import View


def draw(view: View, width: int, height: int) -> list[Row]:
    """Nodes and those with a worker, load and free GPUs, workers and the host's own business.

    Which process was on which GPU is not recorded: of the past, nodes and free GPUs are unknown.
    """
    snapshot = view.snapshot
    if snapshot is None:
        return []
    one, two = half_widths(width)
    nodes = _nodes(snapshot)
    active = {w.node or _home(snapshot) for m in snapshot.models for w in m.workers if w.pid}
    ready, wanted = sum(m.ready for m in snapshot.models), sum(m.wanted for m in snapshot.models)
    share = load_of(snapshot)
    limit = view.limit("load")
    load = (percent(share), level(share, limit.warn, limit.crit))
    of = len(snapshot.gpus)
    here = NONE if view.stored else f"{len(active)}/{count(len(nodes))}"
    free = NONE if view.stored or not of else str(len(free_gpus(snapshot)))
    host = snapshot.host
    used = host.memory_used_bytes if host else None
    total = host.memory_total_bytes if host else None
    rows = [
        head("cluster", width, (_load_words(snapshot), "dim")),
        pair(
            _cell("nodes", known(here), "active", one),
            _cell("load", load, "%" if share is not None else "", two),
            width,
        ),
        pair(
            _cell("workers", (f"{ready}", "value"), f"of {wanted}", one),
            _cell("GPU free", known(free), f"of {of}" if of else "", two),
            width,
        ),
    ]  # fmt: skip
    if host is not None and snapshot.gpus:
        memory = used / total if used is not None and total else None
        rows.append(pair(_share("host CPU", host.cpu, one), _share("host mem", memory, two), width))
    return rows[:height]


def free_gpus(snapshot: Snapshot) -> list[Gpu]:
    """GPUs that answer, on which nobody computes, and which no running worker has."""
    taken = {(w.node, gpu) for m in snapshot.models for w in m.workers if w.pid for gpu in w.gpus}
    return [
        gpu
        for gpu in snapshot.gpus
        if gpu.fault is None
        and not gpu.processes
        and (gpu.node, gpu.index) not in taken
        and (None, gpu.index) not in taken
    ]


def load_of(snapshot: Snapshot) -> float | None:
    """Requests running and waiting over the slots of all ready workers that tell both."""
    asked = slots = 0
    for model in snapshot.models:
        each = model.engine.max_num_seqs
        if each and model.ready and model.load.running is not None:
            asked += model.load.running + (model.load.waiting or 0)
            slots += each * model.ready
    return asked / slots if slots else None


def _nodes(snapshot: Snapshot) -> set[str]:
    nodes = {gpu.node for gpu in snapshot.gpus}
    nodes |= {w.node for m in snapshot.models for w in m.workers if w.node}
    return nodes | ({snapshot.host.node} if snapshot.host else set()) or {_home(snapshot)}


def _home(snapshot: Snapshot) -> str:
    return snapshot.host.node if snapshot.host else "here"


def _load_words(snapshot: Snapshot) -> str:
    host = snapshot.host
    if host is None:
        return ""
    return host.node if host.cores is None else f"{host.node} · {host.cores} cores"


def _cell(label: str, value: Span, unit: str, width: int) -> Row:
    end: Row = [value]
    if unit:
        end.append((("" if unit == "%" else " ") + unit, "dim"))
    return spread([(label, "label")], end, width)


def _share(label: str, ratio: float | None, width: int) -> Row:
    ink = "dim" if ratio is None else "value"
    return _cell(label, (percent(ratio), ink), "" if ratio is None else "%", width)
