"""A month of 64 workers in one file, without waiting a month: its chunks are packed as the daemon
packs them, of simulated rows; workers beyond the distinct ones have the rows of those."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from operator import add
from pathlib import Path

from benchmarks.history.simulated import DAY_S, Simulated
from vllm_console.history import chunks, file
from vllm_console.history.layout import Layout, Quantiser
from vllm_console.history.line import Origin, Packed, Row, pack
from vllm_console.history.tiers import TIERS

END = 20_000 * DAY_S
"""When the month ends, seconds since the epoch."""
MODELS = 4


@dataclass
class Archive:
    """Rows by tier of the distinct workers, and of all workers added up."""

    layout: Layout
    distinct: list[list[list[Row]]]
    total: list[list[Row]]


def simulated(days: float, distinct: int) -> Archive:
    """Simulates so many workers over the span, each moment as finely as its age allows."""
    layout = Layout()
    lines = []
    for seed in range(distinct):
        worker = Simulated(seed)
        layout = layout.with_names_of(worker.step(0.0, 1.0))
        lines.append(list(_tiers(_rows(worker, layout, days))))
    total = [
        [_sum(rows, layout) for rows in zip(*tier_rows, strict=True)]
        for tier_rows in zip(*lines, strict=True)
    ]
    return Archive(layout, lines, total)


def _rows(worker: Simulated, layout: Layout, days: float) -> Iterator[Row]:
    quantiser = Quantiser(layout)
    begin = END - days * DAY_S
    spans = ((END - 2 * DAY_S, 300.0), (END - 7200, 10.0), (END, 1.0))
    at = begin
    for until, step in spans:
        while at < until:
            at += step
            row = quantiser.row(worker.step(at, step))
            row[0] = round((at - begin) * 1e3)
            yield Row(round(at * 1e3), row, layout)


def _tiers(rows: Iterator[Row]) -> Iterator[list[Row]]:
    everything = list(rows)
    for tier in TIERS:
        since = END * 1e3 - (tier.keep_s or 10**9) * 1e3
        kept = [r for r in everything if r.at > since and r.at % tier.step_ms == 0]
        if tier.step_ms == 1:
            kept = [r for r in kept if r.at % 1000 == 0]
        yield kept


def _sum(rows: Sequence[Row], layout: Layout) -> Row:
    numbers = rows[0].numbers
    for row in rows[1:]:
        numbers = array("q", map(add, numbers, row.numbers))
    numbers[0] = rows[0].numbers[0]
    return Row(rows[0].at, numbers, layout)


def written(archive: Archive, path: Path, workers: int, days: float) -> dict[int, tuple[int, int]]:
    """Writes the file; by tier the bytes of its chunks and the numbers that they hold."""
    connection, _ = file.open_to_write(path)
    figures: dict[int, tuple[int, int]] = {}
    subjects = [f"worker/w-{n}" for n in range(workers)]
    subjects += [f"model/m-{n}" for n in range(MODELS)] + ["fleet"]
    since = (END - days * DAY_S) * 1e3
    with closing(connection):
        connection.execute("BEGIN")
        connection.execute(*chunks.put_layout(1, archive.layout))
        packed = [_packed(archive.layout, tiers, since) for tiers in archive.distinct]
        total = _packed(archive.layout, archive.total, since)
        for number, subject in enumerate(subjects, start=1):
            born = round(since)
            connection.execute(*chunks.put_line(number, subject, born, 1, Origin().to_json()))
            for p in packed[number % len(packed)] if number <= workers else total:
                connection.execute(*chunks.put_chunk(p.tier, number, p.at, 1, p.blob))
                size, count = figures.get(p.tier, (0, 0))
                width = archive.layout.width + (len(archive.layout.gauges) if p.tier else 0)
                figures[p.tier] = (size + len(p.blob), count + p.rows * width)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return figures


def _packed(layout: Layout, tiers: Sequence[Sequence[Row]], since: float) -> list[Packed]:
    found = []
    for tier, kept in enumerate(TIERS):
        rows = [row for row in tiers[tier] if row.at > since]
        if tier:
            rows = [Row(r.at, r.numbers + r.numbers[layout.gauges_at], layout) for r in rows]
        starts = range(0, len(rows), kept.rows)
        found += [pack(0, tier, rows[start : start + kept.rows]) for start in starts]
    return found
