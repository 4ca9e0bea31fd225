"""The GPUs with who is on them, as far as there is room; without any, why, and the host itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vllm_console.snapshot import Gpu, Host, Snapshot
from vllm_console.ui.format import gib, percent, sig3
from vllm_console.ui.graphs import bar
from vllm_console.ui.rows import Row, Span, cut, known, left, level, meter, right, wrap
from vllm_console.ui.view import View

_IDLE = 0.01
_TWO_A_ROW = 44
_COUNTED_FROM = 44
"""Cells from which a row also says how many processes compute on its GPU."""
_A_NODE = 8
"""GPUs in one row of bars: what one machine has."""
_OWN_SHARE, _STRANGERS_SHARE = 1 / 3, 0.6
"""Shares of a panel up to which the block asks for rows for everybody on the GPUs, and for those
who are not of this fleet."""


@dataclass(frozen=True, slots=True)
class _Holder:
    """A worker with all its processes on one GPU, one process of somebody else, or a brake."""

    name: str
    """The worker's id, the stranger's pid and name, or what holds the clocks down."""
    stranger: bool
    memory_bytes: int | None
    brake: bool = False


def ask(view: View, width: int, height: int) -> int:
    """A header and a row a GPU; two GPUs a row in a low panel; of more than eight a row a node,
    unless the panel has rows to spare.

    Who is on a GPU gets a row below it in a high panel; a stranger in a lower one too.
    """
    snapshot = view.snapshot
    if snapshot is None:
        return 0
    if not snapshot.gpus:
        return len(_host(snapshot, width))
    gpus = len(snapshot.gpus)
    if gpus > 2 * _A_NODE or (gpus > _A_NODE and 1 + gpus > _OWN_SHARE * height):
        return 1 + len(_nodes_of(snapshot.gpus))
    if gpus + 1 > _STRANGERS_SHARE * height and width >= _TWO_A_ROW:
        return 1 + -(-gpus // 2)
    holders = [holder for gpu in snapshot.gpus for holder in _holders(gpu)]
    everybody = 1 + gpus + len(holders)
    if everybody <= _OWN_SHARE * height:
        return everybody
    strangers = 1 + gpus + sum(holder.stranger or holder.brake for holder in holders)
    return strangers if strangers <= _STRANGERS_SHARE * height else 1 + gpus


def draw(view: View, width: int, height: int) -> list[Row]:
    """The most detailed form that fits: with holders, a row a GPU, two a row, a row a node."""
    snapshot = view.snapshot
    if snapshot is None:
        return []
    if not snapshot.gpus:
        return _host(snapshot, width)[:height]
    room = height - 1
    gpus = snapshot.gpus
    if len(gpus) <= room and len(gpus) <= 2 * _A_NODE:
        return _single(view, gpus, width, room - len(gpus))
    if width >= _TWO_A_ROW and -(-len(gpus) // 2) <= room and len(gpus) <= 4 * _A_NODE:
        return _double(view, gpus, width)
    return _nodes(view, gpus, width, room)


def _shown_holders(gpus: Sequence[Gpu], spare: int) -> list[list[_Holder]]:
    """For each GPU who is named below it: everybody, else the strangers, as `spare` rows allow."""
    everybody = [_holders(gpu) for gpu in gpus]
    strangers = [[h for h in holders if h.stranger or h.brake] for holders in everybody]
    for shown in (everybody, strangers):
        if sum(map(len, shown)) <= spare:
            return shown
    return [[] for _ in gpus]


def _holders(gpu: Gpu) -> list[_Holder]:
    """What slows a GPU, then who is on it: the most memory first, strangers before our own."""
    own: dict[str, int | None] = {}
    strangers = []
    for process in gpu.processes:
        size = process.memory_bytes
        if process.worker is None:
            name = f"{process.pid} {process.name}" if process.name else f"pid {process.pid}"
            strangers.append(_Holder(name, True, size))
        elif size is None:
            own.setdefault(process.worker, None)
        else:
            own[process.worker] = (own.get(process.worker) or 0) + size
    brakes = [_Holder(gpu.throttle, False, None, brake=True)] if gpu.throttle else []
    return brakes + strangers + [_Holder(name, False, size) for name, size in own.items()]


def _single(view: View, gpus: Sequence[Gpu], width: int, spare: int) -> list[Row]:
    hot_and_power, counted = width >= 34, width >= _COUNTED_FROM and not view.stored
    tail = 5 + 9 + (10 if hot_and_power else 0) + (5 if counted else 0)
    number = 3 if len(gpus) < 100 else 4
    size = width - number - tail
    header: Row = [(left("GPUs", number + size), "text"), (right("busy", 5), "dim")]
    header.append((right("GiB", 9), "dim"))
    if hot_and_power:
        header.append((right("°C", 5) + right("W", 5), "dim"))
    if counted:
        header.append((right("proc", 5), "dim"))
    rows = [header]
    for gpu, holders in zip(gpus, _shown_holders(gpus, spare), strict=True):
        row: Row = [(left(str(gpu.index), number), "label")]
        if gpu.fault is not None:
            row += _fault(gpu.fault, width - number)
        else:
            row += [*meter(gpu.utilization, size, "scaling"), *_busy(gpu), *_memory(gpu, 9)]
        if gpu.fault is None and hot_and_power:
            row.append(_celsius(view, gpu.temperature_c, 5))
            row.append(_watts(gpu, 5))
        if gpu.fault is None and counted:
            row.append(_processes(gpu, 5))
        rows.append(row)
        rows += [_holder(holder, gpu, number, size + 5) for holder in holders]
    return rows


def _holder(holder: _Holder, gpu: Gpu, indent: int, width: int) -> Row:
    """One of those on a GPU, its memory below the GPU's own."""
    row: Row = [(" " * indent, "")]
    if holder.brake:
        return [*row, ("▾ ", "warn!"), (left(f"held down: {holder.name}", width + 17), "warn")]
    if holder.stranger:
        row += [("▲ ", "warn!"), (left(holder.name, width - 2), "text")]
    else:
        row.append((left(holder.name, width), "label"))
    total = len("/" + gib(gpu.memory_total_bytes))
    size = gib(holder.memory_bytes)
    row.append((right(size, 9 - total), "dim" if holder.memory_bytes is None else "label"))
    return row


def _watts(gpu: Gpu, width: int) -> Span:
    """Its power; `▾` and amber while something holds its clocks down."""
    watts = "–" if gpu.power_w is None else f"{gpu.power_w:.0f}"
    return right(
        f"▾{watts}" if gpu.throttle else watts, width
    ), "warn!" if gpu.throttle else "label"


def _processes(gpu: Gpu, width: int) -> Span:
    """How many compute on it; unknown where the driver names none and yet it is busy."""
    busy = gpu.utilization is None or gpu.utilization >= _IDLE
    if busy and not gpu.processes:
        return right("–", width), "dim"
    return right(str(len(gpu.processes)), width), "label" if gpu.processes else "dim"


def _fault(fault: str, width: int) -> Row:
    return [("✖ ", "crit!"), (left(fault, width - 2), "crit")]


def _double(view: View, gpus: Sequence[Gpu], width: int) -> list[Row]:
    half = (width - 3) // 2
    size = half - 3 - 5 - 5
    rows: list[Row] = []
    head: Row = [(left("GPUs", 3 + size), "text"), (right("busy", 5) + right("°C", 5), "dim")]
    other: Row = [(" " * (3 + 3 + size), ""), (right("busy", 5) + right("°C", 5), "dim")]
    rows.append([*head, *other])
    split = -(-len(gpus) // 2)
    for y in range(split):
        row: Row = []
        for gpu in gpus[y::split][:2]:
            if row:
                row.append(("   ", ""))
            row.append((left(str(gpu.index), 3), "label"))
            if gpu.fault is not None:
                row += _fault(gpu.fault, size + 10)
                continue
            row += [*meter(gpu.utilization, size, "scaling"), *_busy(gpu)]
            row.append(_celsius(view, gpu.temperature_c, 5))
        rows.append(row)
    return rows


def _nodes_of(gpus: Sequence[Gpu]) -> list[tuple[str, list[Gpu]]]:
    """GPUs by node, in rows of eight."""
    nodes: dict[str, list[Gpu]] = {}
    for gpu in gpus:
        nodes.setdefault(gpu.node, []).append(gpu)
    out: list[tuple[str, list[Gpu]]] = []
    for name, members in nodes.items():
        out += [(name, members[i : i + _A_NODE]) for i in range(0, len(members), _A_NODE)]
    return out


def _nodes(view: View, gpus: Sequence[Gpu], width: int, room: int) -> list[Row]:
    tail = 5 + 7 + 5
    name = max(6, width - tail - _A_NODE - 2)
    rows: list[Row] = [
        [
            (left("nodes", name + _A_NODE + 2), "text"),
            (right("busy", 5) + right("GiB", 7) + right("°C", 5), "dim"),
        ]
    ]
    groups = _nodes_of(gpus)
    shown = groups if len(groups) <= room else groups[: max(0, room - 1)]
    for node, members in shown:
        busy = [g.utilization for g in members if g.utilization is not None]
        used = [g.memory_used_bytes for g in members if g.memory_used_bytes is not None]
        heat = [g.temperature_c for g in members if g.temperature_c is not None]
        bars: list[Span] = [
            ("✖", "crit!") if g.fault is not None else (bar(g.utilization), "scaling6")
            for g in members
        ]
        mean = sum(busy) / len(busy) if busy else None
        rows.append(
            [
                (left(cut(node, name - 1), name), "label"),
                *bars,
                (" " * (_A_NODE - len(members) + 2), ""),
                (right(percent(mean), 4), "value" if busy else "dim"),
                ("%" if busy else " ", "dim"),
                known(right(gib(sum(used)) if used else "–", 7)),
                _celsius(view, max(heat, default=None), 5),
            ]
        )
    if len(shown) < len(groups) and room > 0:
        left_out = sum(len(members) for _, members in groups[len(shown) :])
        rows.append([(f"and {left_out} GPUs more", "dim")])
    return rows


def _busy(gpu: Gpu) -> Row:
    if gpu.utilization is None:
        return [(right("–", 5), "dim")]
    return [
        (right(percent(gpu.utilization), 4), "dim" if gpu.utilization < _IDLE else "value"),
        ("%", "dim"),
    ]


def _memory(gpu: Gpu, width: int) -> Row:
    idle = gpu.utilization is not None and gpu.utilization < _IDLE
    total = "/" + gib(gpu.memory_total_bytes)
    return [
        (right(gib(gpu.memory_used_bytes), width - len(total)), "label" if idle else "value"),
        (total, "dim"),
    ]


def _celsius(view: View, value: float | None, width: int) -> Span:
    limit = view.limit("gpu_temperature_c")
    ink = level(value, limit.warn, limit.crit)
    text = "–" if value is None else f"{value:.0f}"
    return right(text, width), "label" if ink == "value" else ink


def _host(snapshot: Snapshot, width: int) -> list[Row]:
    host = snapshot.host or Host(node="host")
    size = width - 8 - 5 - 11
    rows: list[Row] = [
        [(left("host", 8 + size), "text"), (right("busy", 5), "dim"), (right("of", 11), "dim")]
    ]
    cores = "–" if host.cores is None else f"{host.cores} cores"
    used, total = host.memory_used_bytes, host.memory_total_bytes
    share = used / total if used is not None and total else None
    for label, ratio, of in (("CPU", host.cpu, cores), ("memory", share, f"{gib(total)} GiB")):
        rows.append(
            [
                (left(label, 8), "label"),
                *meter(ratio, size, "scaling"),
                (right(percent(ratio), 4), "dim" if ratio is None else "value"),
                (" " if ratio is None else "%", "dim"),
                (right(of, 11), "label"),
            ]
        )
    if host.load_1m is not None:
        rows.append(
            [(left("load", 8), "label"), (sig3(host.load_1m), "text"), (" in 1 min", "dim")]
        )
    return [*rows, *wrap(snapshot.gpus_reason or "no GPU", width, "dim", 2)]
