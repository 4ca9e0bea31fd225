"""Bytes a number and bytes a fleet on disk; how long questions take, cold and warm."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from benchmarks.common import table
from benchmarks.history.archive import END, Archive, simulated, written
from vllm_console.history import file
from vllm_console.history.ingest import Ingest
from vllm_console.history.reading import Reader

SPANS = (("15 min", 900.0), ("24 h", 86_400.0), ("30 d", 30 * 86_400.0))
STEPS = (5.0, 300.0, 14_400.0)
_NAMES = ("1 s", "10 s", "5 min", "1 h")


def sizes_and_questions(workers: int, distinct: int) -> None:
    """Prints the tables."""
    begun = time.perf_counter()
    archive = simulated(30, distinct)
    took = time.perf_counter() - begun
    print(f"{distinct} distinct workers of {workers} simulated over 30 d in {took:.0f} s")
    with tempfile.TemporaryDirectory() as directory:
        _sizes(archive, Path(directory), workers)
        _questions(Path(directory) / "30d.sqlite")


def _sizes(archive: Archive, directory: Path, workers: int) -> None:
    rows: list[list[object]] = []
    for name, days in (("1h", 1 / 24), ("24h", 1.0), ("30d", 30.0)):
        path = directory / f"{name}.sqlite"
        figures = written(archive, path, workers, days)
        each = [
            f"{figures[tier][0] / figures[tier][1]:.2f}" if tier in figures else "-"
            for tier in range(len(_NAMES))
        ]
        total = path.stat().st_size
        numbers = sum(count for _, count in figures.values())
        rows.append([name, f"{total / 1e6:.1f}", *each, f"{total / numbers:.2f}"])
    series = archive.layout.width
    table(rows, ["after", "file MB", *(f"B/sample {n}" for n in _NAMES), "whole file"])
    print(f"{workers} workers, their models and the fleet, {series} series each")


def _questions(path: Path) -> None:
    rows: list[list[object]] = []
    connection, _ = file.open_to_write(path)
    with closing(connection):
        ingest = Ingest()
        ingest.load(connection, 0.0)
    for subject in ("worker/w-5", "model/m-1", "fleet"):
        for name, seconds in SPANS:
            rows.append(
                [f"P50/95/99 of {subject}, {name}", *_asked(path, ingest, _ask(subject, seconds))]
            )
    for (name, seconds), step in zip(SPANS, STEPS, strict=True):
        ask = _chart("worker/w-5", seconds, step)
        title = f"chart of {seconds / step:.0f} x 3 percentiles, {name}"
        rows.append([title, *_asked(path, ingest, ask)])
    table(rows, ["question", "cold ms", "warm p50 ms", "warm p99 ms"])
    print("cold: page cache dropped, a new connection, no chunk open; warm: asked again")


def _ask(subject: str, seconds: float) -> Callable[[Reader], object]:
    def ask(reader: Reader) -> object:
        window = reader.window(subject, END - seconds + 60, END)
        assert window is not None
        return window.quantiles("ttft_s")

    return ask


def _chart(subject: str, seconds: float, step: float) -> Callable[[Reader], object]:
    def ask(reader: Reader) -> object:
        steps = reader.steps(subject, END - seconds, END, step)
        return [step and step.quantiles("ttft_s") for step in steps]

    return ask


def _asked(path: Path, ingest: Ingest, ask: Callable[[Reader], object]) -> list[float]:
    with path.open("rb") as whole:
        os.posix_fadvise(whole.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    begun = time.perf_counter()
    with file.reading(path) as connection:
        reader = Reader(ingest, connection)
        ask(reader)
        cold = time.perf_counter() - begun
        warm = []
        for _ in range(40):
            begun = time.perf_counter()
            ask(reader)
            warm.append(time.perf_counter() - begun)
    p99 = statistics.quantiles(warm, n=100)[98]
    return [cold * 1e3, statistics.median(warm) * 1e3, p99 * 1e3]
