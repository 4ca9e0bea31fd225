"""Recorded traffic: a CSV file of arrival times and token counts, in the shape Azure publishes.

    TIMESTAMP,ContextTokens,GeneratedTokens
    2023-11-16 18:17:03.9799600,4808,10

(AzurePublicDataset, "Azure LLM inference trace 2023"; further columns are passed over.)
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from vllm_console.errors import InvalidInput
from vllm_console.traffic.lengths import Lengths

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


@dataclass(frozen=True, slots=True)
class Trace:
    """A recording: seconds since its first request, and what each request was."""

    times: tuple[float, ...]
    requests: tuple[Lengths, ...]

    @property
    def rate(self) -> float:
        """Mean requests a second, as recorded."""
        return (len(self.times) - 1) / self.times[-1]

    def arrivals(self, rate: float | None = None) -> Iterator[float]:
        """The recorded arrival times, again and again, stretched to a mean of `rate` a second."""
        stretch = 1.0 if rate is None else self.rate / rate
        lap = self.times[-1] + 1.0 / self.rate
        start = 0.0
        while True:
            for at in self.times:
                yield (start + at) * stretch
            start += lap

    def lengths(self) -> Iterator[Lengths]:
        """The recorded lengths, in step with `arrivals`."""
        while True:
            yield from self.requests


def read_trace(path: Path) -> Trace:
    """Reads a whole trace; raises `InvalidInput` naming the line where it does not hold."""
    times: list[float] = []
    requests: list[Lengths] = []
    first = newest = None
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            header = [name.strip() for name in next(rows, [])]
            missing = [name for name in COLUMNS if name not in header]
            if missing:
                raise InvalidInput(
                    f"{path}:1: no column {missing[0]}; a trace starts with {','.join(COLUMNS)}"
                )
            when, prompt, output = (header.index(name) for name in COLUMNS)
            for row in rows:
                if not row:
                    continue
                try:
                    at = datetime.fromisoformat(row[when].strip())
                    lengths = Lengths(int(row[prompt]), int(row[output]))
                except (ValueError, IndexError):
                    raise InvalidInput(
                        f"{path}:{rows.line_num}: {_shown(row)} is not a time and two counts"
                    ) from None
                if lengths.prompt < 0 or lengths.output < 0:
                    raise InvalidInput(f"{path}:{rows.line_num}: a token count is negative")
                first = first or at
                newest = newest or at
                if (at.tzinfo is None) != (first.tzinfo is None) or at < newest:
                    raise InvalidInput(
                        f"{path}:{rows.line_num}: {row[when]} is earlier than the row before; "
                        "a trace is in order of time"
                    )
                newest = at
                times.append((at - first).total_seconds())
                requests.append(lengths)
    except OSError as error:
        raise InvalidInput(f"{path}: cannot read the trace ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error):
        raise InvalidInput(
            f"{path}: not a CSV file; a trace starts with {','.join(COLUMNS)}"
        ) from None
    if not times or times[-1] == 0.0:
        raise InvalidInput(f"{path}: a trace needs two requests at different times")
    return Trace(tuple(times), tuple(requests))


def _shown(row: list[str]) -> str:
    text = ",".join(row)
    return repr(text if len(text) <= 60 else text[:57] + "…")
