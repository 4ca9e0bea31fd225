"""The first line: the fleet, its models by state, what it does now, and the time."""

from __future__ import annotations

from collections import Counter

from vllm_console.snapshot import STARTS
from vllm_console.ui.blocks.gateway import address
from vllm_console.ui.format import age, clock, count, date_and_clock, gib, tokens
from vllm_console.ui.rows import Row, clip, known, length
from vllm_console.ui.states import GROUPS, look
from vllm_console.ui.trends import total
from vllm_console.ui.view import View


def draw(view: View, width: int, height: int) -> list[Row]:
    """Parts are dropped, the least needed first, until the line fits."""
    snapshot = view.snapshot
    name: Row = [("vllm-console", "value")]
    if snapshot is None:
        text = f"▲ {view.lost}" if view.lost else "connecting …"
        return [_joined(name, [], [(text, "warn!" if view.lost else "label")], width)]
    name += [("  ", ""), (snapshot.fleet, "label")]
    for endpoint, words, queue, rate, hardware in (
        (True, True, True, True, True),
        (True, False, True, True, True),
        (False, False, True, True, True),
        (False, False, True, True, False),
        (False, False, False, True, False),
        (False, False, False, False, False),
    ):
        named = [*name, *_endpoint(view)] if endpoint else name
        left, right = _left(view, named, words), _right(view, queue, rate, hardware)
        if length(left) + length(right) + 3 <= width:
            break
    return [_joined(left, [], right, width)]


def _joined(left: Row, middle: Row, right: Row, width: int) -> Row:
    right = clip(right, width)
    left = clip(left, max(0, width - length(right) - 1))
    gap = width - length(left) - length(middle) - length(right)
    return [*left, *middle, (" " * gap, ""), *right]


def _endpoint(view: View) -> Row:
    """Where clients ask; how it stands with the gateway while it cannot be asked."""
    assert view.snapshot is not None
    gateway = view.snapshot.gateway
    if gateway.running and gateway.url:
        return [(" at ", "dim"), (address(gateway.url), "label")]
    if gateway.reason == STARTS:
        return [("  ◐ ", "warn!"), ("gateway starts", "label")]
    return []


def _left(view: View, name: Row, words: bool) -> Row:
    assert view.snapshot is not None
    groups = Counter(look(model.state).group for model in view.snapshot.models)
    row: Row = [*name, ("  ", "")]
    for shown in GROUPS:
        if groups[shown.group]:
            row += [("  " + shown.glyph + " ", shown.ink), (str(groups[shown.group]), "value")]
            row.append((f" {shown.group}" if words else "", "label"))
    return row


def _right(view: View, queue: bool, rate: bool, hardware: bool) -> Row:
    assert view.snapshot is not None
    snapshot = view.snapshot
    load = total(snapshot.models)
    row: Row = []
    if rate and snapshot.models:
        limit = view.limit("waiting").warn
        busy = load.waiting is not None and limit is not None and load.waiting >= limit
        if queue:
            row += [known(count(load.running)), (" running   ", "dim")]
            row += [
                known(count(load.waiting), "warn!" if busy else "value"),
                (" waiting   ", "dim"),
            ]
        row += [known(tokens(load.generation_tokens_per_s)), (" tok/s   ", "dim")]
    if hardware:
        row += _hardware(view)
    return [*row, *time_of(view)]


def _hardware(view: View) -> Row:
    assert view.snapshot is not None
    gpus, host = view.snapshot.gpus, view.snapshot.host
    if gpus:
        used = [g.memory_used_bytes for g in gpus if g.memory_used_bytes is not None]
        all_of = [g.memory_total_bytes for g in gpus if g.memory_total_bytes is not None]
        row: Row = [
            (str(len(gpus)), "value"),
            (" GPU" + ("s" if len(gpus) > 1 else "") + "  ", "dim"),
        ]
        return [
            *row,
            known(gib(sum(used) if used else None)),
            (f" of {gib(sum(all_of) if all_of else None)} GiB   ", "dim"),
        ]
    if host is None:
        return []
    return [
        ("host ", "dim"),
        known(gib(host.memory_used_bytes)),
        (f" of {gib(host.memory_total_bytes)} GiB   ", "dim"),
    ]


def time_of(view: View) -> Row:
    """The time of the picture; that it is the past, old, or held still."""
    if view.snapshot is None:
        return []
    if view.past or view.recorded:
        what = "PAST" if view.past else "RECORDED"
        at = date_and_clock(view.snapshot.at, view.zone)
        way = "esc returns" if view.past else view.recorded or ""
        return [
            (f" {what} ", "warn!@warn"),
            (f"{at} ", "value@warn"),
            (f"· {way} ", "text@warn"),
        ]
    row: Row = [("‖ paused  ", "warn!")] if view.paused else []
    if view.old_s is not None:
        return [*row, (f"▲ {age(view.old_s)} old", "warn!")]
    every = f"{view.snapshot.interval_s:g}"
    return [
        *row,
        (clock(view.snapshot.at, view.zone), "label"),
        ("  ↻ ", "dim"),
        (f"{every} s", "dim"),
    ]
