"""`history export`: the stored past as CSV, Parquet or OpenMetrics, to a file or stdout."""

from __future__ import annotations

import argparse
import csv
import difflib
import io
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from vllm_console.cli.connect import place_of
from vllm_console.cli.recorded import read_file
from vllm_console.errors import ConsoleError, InvalidInput
from vllm_console.fleet.duration import parse_duration
from vllm_console.history.points import points
from vllm_console.history.reading import Reader
from vllm_console.history.store import reader as reader_of
from vllm_console.history.subjects import known, resolve
from vllm_console.history.when import iso, moment

_SINCE = "24h"
_BATCH = 65_536
"""Rows of a row group of Parquet."""


class _Wanted(NamedTuple):
    """What is exported."""

    reader: Reader
    subjects: list[str]
    since: float
    until: float
    step: float


def export(args: argparse.Namespace, file: str, form: str) -> None:
    """Write the past of all subjects, or those named, from a time on.

    The file appears when it is whole. Raises `InvalidInput` for an unknown format, time or step,
    `NotFound` for an unknown subject, `ConsoleError` where there is no history.
    """
    write = _FORMATS.get(form)
    if write is None:
        near = difflib.get_close_matches(form, _FORMATS, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(_FORMATS)}"
        raise InvalidInput(f"--format {form}: {hint}")
    if form == "parquet":
        _pyarrow()
    now = time.time()
    since = moment(args.since or _SINCE, now)
    until = min(moment(args.until or "now", now), now)
    if since >= until:
        raise InvalidInput(f"--since {args.since or _SINCE}: is not before where the span ends")
    step = _step(args.step)

    def read(connection: sqlite3.Connection) -> int:
        reader = reader_of(connection)
        subjects = _subjects(args, reader)
        with _opened(file) as out:
            return write(_Wanted(reader, subjects, since, until, step), out)

    place = place_of(args)
    try:
        written = read_file(place, read)
    except FileNotFoundError:
        raise ConsoleError(f"{place.history}: nothing is recorded yet") from None
    where = "" if file == "-" else f" to {file}"
    print(f"{written} lines of {iso(since)} to {iso(until)} written{where}", file=sys.stderr)


def _subjects(args: argparse.Namespace, reader: Reader) -> list[str]:
    """All subjects, or those that were named."""
    there = reader.subjects()
    if not args.subject:
        return there
    from vllm_console.fleet.load import load_fleet

    fleet = load_fleet(place_of(args).fleet_file, sets=args.set)
    here = known(fleet.models.values())
    return list(dict.fromkeys(resolve(name, there, here) for name in args.subject))


def _step(text: str | None) -> float:
    try:
        step = parse_duration(text) if text else 1.0
    except ValueError as error:
        raise InvalidInput(f"--step: {error}") from None
    if step < 1:
        raise InvalidInput(f"--step {text}: rows are a second apart, or more")
    return step


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    """The file to write, or stdout; a file gets its name once it is whole."""
    if file == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = Path(f"{file}.part")
    try:
        with part.open("wb") as out:
            yield out
        os.replace(part, file)
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            raise ConsoleError(f"{file}: cannot be written: {error.strerror}") from None
        raise


def _write_csv(wanted: _Wanted, out: BinaryIO) -> int:
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    try:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("at", "subject", "metric", "le", "value"))
        count = 0
        for at, subject, metric, le, value in points(*wanted):
            bound = "" if le is None else f"{le:.17g}"
            writer.writerow((iso(at), subject, metric, bound, f"{value:.17g}"))
            count += 1
        return count
    finally:
        text.detach()


def _write_openmetrics(wanted: _Wanted, out: BinaryIO) -> int:
    from vllm_console.control.openmetrics import openmetrics

    count = 0
    for line in openmetrics(*wanted):
        out.write(line.encode())
        count += 1
    return count


def _write_parquet(wanted: _Wanted, out: BinaryIO) -> int:
    pyarrow, parquet = _pyarrow()
    text = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    schema = pyarrow.schema(
        [
            ("at", pyarrow.timestamp("ms", tz="UTC")),
            ("subject", text),
            ("metric", text),
            ("le", pyarrow.float64()),
            ("value", pyarrow.float64()),
        ]
    )
    count, found = 0, points(*wanted)
    with parquet.ParquetWriter(out, schema, compression="zstd") as writer:
        while batch := list(islice(found, _BATCH)):
            at, *columns = (list(column) for column in zip(*batch, strict=True))
            arrays = [
                pyarrow.array(column, kind.type)
                for column, kind in zip(
                    ([round(a * 1e3) for a in at], *columns), schema, strict=True
                )
            ]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
            count += len(batch)
    return count


def _pyarrow() -> tuple[Any, Any]:
    """pyarrow and its part for Parquet: an extra, as it is larger than all else together."""
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise ConsoleError(
            "--format parquet: needs pyarrow, which is not installed; "
            "`pip install 'vllm-console[parquet]'` brings it, or take --format csv"
        ) from None


_FORMATS: dict[str, Callable[[_Wanted, BinaryIO], int]] = {
    "csv": _write_csv,
    "parquet": _write_parquet,
    "openmetrics": _write_openmetrics,
}
